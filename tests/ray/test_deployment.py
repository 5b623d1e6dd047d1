"""DeploymentScorer over a fake handle of Ray Serve: splitting, retries, errors and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from qwen_rerank_plugins import errors
from qwen_rerank_plugins.lexical import LexicalScorer
from qwen_rerank_plugins.ray import deployment as handles
from qwen_rerank_plugins.ray.deployment import DeploymentScorer
from qwen_rerank_plugins.types import PairScore, ScoreRequest
from tests.ray.lost_devices import LostError

LEXICAL = LexicalScorer()
Script = Callable[[int, Sequence[ScoreRequest]], Any]


class Response:
    """The response of a handle."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.cancelled = False

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if self.outcome is None:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if isinstance(self.outcome, Exception) and not isinstance(self.outcome, errors.RerankError):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True

    def result(self, *, timeout_s: float | None = None) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Handle:
    """Answers calls by a script, which gets their number; exceptions are raised, and errors of this package returned as values."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[Sequence[ScoreRequest]] = []
        self.deadlines: list[float | None] = []
        self.priorities: list[str] = []
        self.responses: list[Response] = []
        self.score = self.info = self

    def remote(
        self,
        requests: Sequence[ScoreRequest] = (),
        deadline_s: float | None = None,
        priority: str = "interactive",
    ) -> Response:
        self.calls.append(requests)
        self.priorities.append(priority)
        self.deadlines.append(deadline_s)
        self.responses.append(Response(self.script(len(self.calls), requests)))
        return self.responses[-1]


def scorer_over(handle: Handle, **options: Any) -> DeploymentScorer:
    return DeploymentScorer(handle, model="demo", **options)  # type: ignore[arg-type]


def pairs(num: int, size: int = 10) -> list[ScoreRequest]:
    return [ScoreRequest("blue whale", f"whale {index} " + "x" * size) for index in range(num)]


def lexical(_: int, requests: Sequence[ScoreRequest]) -> list[PairScore]:
    return LEXICAL.score(requests)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(handles, "MAX_PAUSE_S", 0.002)


def test_a_small_request_is_one_call_and_a_large_one_is_spread_in_order() -> None:
    handle = Handle(lexical)
    scorer = scorer_over(handle, batch_tokens=1000)
    assert scorer.score(pairs(3)) == LEXICAL.score(pairs(3))
    assert scorer.score(pairs(3), priority="background") == LEXICAL.score(pairs(3))
    assert [handle.priorities.pop() for _ in range(2)] == ["background", "interactive"]
    handle.calls.pop()
    assert len(handle.calls) == 1
    large = pairs(40, size=400)
    assert scorer.score(large) == LEXICAL.score(large)
    assert 4 <= len(handle.calls) - 1 <= 8
    assert max(map(len, handle.calls[1:])) - min(map(len, handle.calls[1:])) <= 2
    assert scorer.score([]) == []


LOST = [
    ray_errors.RayActorError(),
    ray_errors.WorkerCrashedError(),
    serve_errors.ReplicaUnavailableError("r"),
    errors.WorkerDiedError("engine"),
    errors.ClosedError("leaving"),
    LostError("device"),
]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_a_call_whose_replica_is_lost_is_made_again(error: Exception) -> None:
    handle = Handle(lambda number, requests: error if number < 3 else LEXICAL.score(requests))
    assert scorer_over(handle).score(pairs(2)) == LEXICAL.score(pairs(2))
    assert len(handle.calls) == 3


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_after_the_last_attempt_the_call_fails(error: Exception) -> None:
    handle = Handle(lambda *_: error)
    with pytest.raises(errors.WorkerDiedError, match=type(error).__name__):
        scorer_over(handle, call_attempts=3).score(pairs(2))
    assert len(handle.calls) == 3


def test_what_the_scorer_says_is_raised_as_it_was_and_not_tried_again() -> None:
    for error in (errors.InputError("too long"), errors.OverloadedError("full", retry_after_s=9.0)):
        handle = Handle(lambda *_, error=error: error)
        with pytest.raises(type(error)) as caught:
            scorer_over(handle).score(pairs(1))
        assert caught.value is error
        assert len(handle.calls) == 1


def test_back_pressure_says_when_to_come_again() -> None:
    handle = Handle(lambda *_: serve_errors.BackPressureError(5, 5, 429, 2.5))
    with pytest.raises(errors.OverloadedError) as caught:
        scorer_over(handle).score(pairs(1))
    assert caught.value.retry_after_s == 2.5
    assert len(handle.calls) == 1


def test_a_late_answer_is_a_deadline_and_cancels_the_call() -> None:
    handle = Handle(lambda *_: None)
    with pytest.raises(errors.DeadlineExceededError):
        scorer_over(handle).score(pairs(1), deadline_s=0.05)
    assert handle.deadlines == [0.05]
    assert [response.cancelled for response in handle.responses] == [True]


def test_who_leaves_takes_the_calls_back() -> None:
    handle = Handle(lambda *_: None)

    async def leave() -> None:
        task = asyncio.create_task(scorer_over(handle, batch_tokens=256).ascore(pairs(8, size=400)))
        while len(handle.calls) < 2:  # noqa: ASYNC110 (the double has no event)
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert all(response.cancelled for response in handle.responses)


def test_one_part_that_fails_ends_the_others() -> None:
    handle = Handle(lambda number, _: errors.InputError("bad") if number == 2 else None)
    with pytest.raises(errors.InputError):
        scorer_over(handle, batch_tokens=256).score(pairs(8, size=400))
    assert [response.cancelled for response in handle.responses].count(True) == len(handle.calls) - 1


def test_a_foreign_failure_is_an_engine_error_without_its_text() -> None:
    cause = ValueError("text of a user")
    handle = Handle(lambda *_: ray_errors.RayTaskError("score", "traceback", cause))  # type: ignore[no-untyped-call]
    with pytest.raises(errors.EngineError, match="ValueError") as caught:
        scorer_over(handle).score(pairs(1))
    assert "text of a user" not in str(caught.value)


def test_information_that_does_not_come_is_an_engine_error() -> None:
    assert scorer_over(Handle(lambda *_: {"model": "demo"})).info() == {"model": "demo"}
    for error in (TimeoutError(), ray_errors.RayActorError(), serve_errors.BackPressureError(1, 1)):
        with pytest.raises(errors.EngineError):
            scorer_over(Handle(lambda *_, error=error: error)).info()


def test_it_can_be_called_from_a_thread_with_an_event_loop() -> None:
    async def call() -> list[PairScore]:
        return scorer_over(Handle(lexical)).score(pairs(2))

    assert asyncio.run(call()) == LEXICAL.score(pairs(2))


def test_a_closed_one_says_so() -> None:
    scorer = scorer_over(Handle(lexical))
    scorer.close()
    scorer.close()
    with pytest.raises(errors.ClosedError):
        scorer.score(pairs(1))
