from __future__ import annotations

import concurrent.futures

import pytest

from qwen_rerank_plugins.core.scheduler.replies import (
    PendingRequest,
    Resolution,
    ScoreFuture,
    resolve_futures,
)
from qwen_rerank_plugins.errors import ClosedError, DeadlineExceededError, EngineError, RerankError


def resolution(answer: list[float] | RerankError) -> Resolution:
    return Resolution(PendingRequest(ScoreFuture(), None), answer)


def raise_interrupt(_: concurrent.futures.Future[list[float]]) -> None:
    raise KeyboardInterrupt


def test_a_future_cancelled_in_the_last_moment_does_not_disturb_the_others() -> None:
    first, second = resolution([1.0]), resolution([2.0])
    first.pending.future.cancel()
    resolve_futures([first, second])
    assert first.pending.future.cancelled()
    assert second.pending.future.result(0) == [2.0]


def test_an_interrupt_of_the_main_thread_is_raised_when_all_have_their_answers() -> None:
    first, second = resolution([1.0]), resolution(ClosedError("closed"))
    first.pending.future.add_done_callback(raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        resolve_futures([first, second])
    assert isinstance(second.pending.future.exception(0), ClosedError)


def test_an_answer_is_counted_by_its_kind() -> None:
    answers: list[list[float] | RerankError] = [[], DeadlineExceededError("late"), EngineError("broken")]
    assert [resolution(answer).outcome for answer in answers] == ["completed", "expired", "failed"]


def test_a_future_that_is_done_keeps_its_result_when_it_is_abandoned() -> None:
    done, pending = ScoreFuture(), ScoreFuture()
    done.set_result([1.0])
    for future in (done, pending):
        future.abandon(ClosedError("forked"))
    assert done.result(0) == [1.0]
    assert isinstance(pending.exception(0), ClosedError)
