from __future__ import annotations

import concurrent.futures

import pytest

from qwen_rerank_plugins.core.scheduler.replies import Reply, ScoreFuture, Waiter, deliver
from qwen_rerank_plugins.errors import ClosedError, DeadlineExceededError, EngineError, RerankError


def reply(answer: list[float] | RerankError) -> Reply:
    return Reply(Waiter(ScoreFuture(), None), answer)


def raise_interrupt(_: concurrent.futures.Future[list[float]]) -> None:
    raise KeyboardInterrupt


def test_a_future_cancelled_in_the_last_moment_does_not_disturb_the_others() -> None:
    first, second = reply([1.0]), reply([2.0])
    first.waiter.future.cancel()
    deliver([first, second])
    assert first.waiter.future.cancelled()
    assert second.waiter.future.result(0) == [2.0]


def test_an_interrupt_of_the_main_thread_is_raised_when_all_have_their_answers() -> None:
    first, second = reply([1.0]), reply(ClosedError("closed"))
    first.waiter.future.add_done_callback(raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        deliver([first, second])
    assert isinstance(second.waiter.future.exception(0), ClosedError)


def test_an_answer_is_counted_by_its_kind() -> None:
    answers: list[list[float] | RerankError] = [[], DeadlineExceededError("late"), EngineError("broken")]
    assert [reply(answer).outcome for answer in answers] == ["completed", "expired", "failed"]


def test_a_future_that_is_done_keeps_its_result_when_it_is_abandoned() -> None:
    done, pending = ScoreFuture(), ScoreFuture()
    done.set_result([1.0])
    for future in (done, pending):
        future.abandon(ClosedError("forked"))
    assert done.result(0) == [1.0]
    assert isinstance(pending.exception(0), ClosedError)
