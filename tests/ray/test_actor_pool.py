"""ActorPoolScorer over a fake of Ray: slots are freed on every path, and a worker with a lost engine is replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from qwen_rerank_plugins import RerankConfig, ScoreRequest
from qwen_rerank_plugins.errors import WorkerDiedError
from qwen_rerank_plugins.lexical import LexicalScorer
from qwen_rerank_plugins.ray import ActorPoolScorer, actor_pool
from tests.ray.lost_devices import LostError

REQUESTS = [ScoreRequest("blue whale", "the blue whale sings")]
SCORES = LexicalScorer().score(REQUESTS)
CONFIG = RerankConfig(backend="lexical")


class Method:
    """A method of an actor: `remote` starts a call, and `FakeRay.get` waits for it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def remote(self, *arguments: Any) -> Reference:
        reference: Reference = self.function(*arguments)
        return reference


class Reference:
    """The outcome of a call, computed by `FakeRay.get`."""

    def __init__(self, outcome: Callable[[], Any]) -> None:
        self.outcome = outcome

    def future(self) -> Reference:
        return self

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        callback(None)


class FakeRay:
    """Starts workers in this process; `script` computes the outcome of a call from the worker's number, from 1.

    Attributes:
        killed: The numbers of the workers that were stopped.
        num_started: How many were started.
        start_error: Raised when a call starts, as for an argument that cannot be serialised.
    """

    def __init__(self, script: Callable[[int], Any]) -> None:
        self.script = script
        self.killed: list[int] = []
        self.num_started = 0
        self.start_error: Exception | None = None

    def remote(self, _: type) -> FakeActorClass:
        return FakeActorClass(self)

    @staticmethod
    def get(reference: Reference, timeout: float | None) -> Any:
        return reference.outcome()

    def kill(self, actor: FakeActor) -> None:
        self.killed.append(actor.number)


class FakeActorClass:
    def __init__(self, owner: FakeRay) -> None:
        self.owner = owner

    def options(self, **_: Any) -> FakeActorClass:
        return self

    def remote(self, _: RerankConfig) -> FakeActor:
        self.owner.num_started += 1
        return FakeActor(self.owner, self.owner.num_started)


class FakeActor:
    def __init__(self, owner: FakeRay, number: int) -> None:
        self.owner, self.number = owner, number
        self.ready = Method(lambda: Reference(lambda: None))
        self.score = Method(self._score)

    def _score(self, _: Sequence[ScoreRequest], __: float | None, priority: str) -> Reference:
        if self.owner.start_error is not None:
            raise self.owner.start_error
        return Reference(lambda: self.owner.script(self.number))


def pool_over(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> ActorPoolScorer:
    monkeypatch.setattr(actor_pool, "ray", fake)
    return ActorPoolScorer(CONFIG)


def interrupt(_: int) -> Any:
    raise KeyboardInterrupt


def test_an_interrupted_call_frees_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its slots the only worker would be idle forever, and every later call would wait."""
    fake = FakeRay(interrupt)
    scorer = pool_over(fake, monkeypatch)
    for _ in range(actor_pool.CALLS_PER_WORKER):
        with pytest.raises(KeyboardInterrupt):
            scorer.score(REQUESTS)
    fake.script = lambda _: SCORES
    assert scorer.score(REQUESTS, deadline_s=1.0) == SCORES
    assert (fake.num_started, fake.killed) == (1, [])


def test_a_call_that_cannot_be_serialised_frees_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(lambda _: SCORES)
    fake.start_error = TypeError("Could not serialize the argument")
    scorer = pool_over(fake, monkeypatch)
    for _ in range(actor_pool.CALLS_PER_WORKER):
        with pytest.raises(TypeError, match="serialize"):
            scorer.score(REQUESTS)
    fake.start_error = None
    assert scorer.score(REQUESTS, deadline_s=1.0) == SCORES


def test_a_worker_whose_engine_is_lost_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process lives and would fail every later call; the call that found out is repeated on the new worker."""
    fake = FakeRay(lambda number: LostError("device") if number == 1 else SCORES)
    assert pool_over(fake, monkeypatch).score(REQUESTS) == SCORES
    assert (fake.num_started, fake.killed) == (2, [1])


def test_a_call_that_costs_every_worker_its_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(lambda _: LostError("device"))
    scorer = pool_over(fake, monkeypatch)
    with pytest.raises(WorkerDiedError, match="at each of 4 attempts: LostError") as caught:
        scorer.score(REQUESTS)
    assert isinstance(caught.value.__cause__, LostError)
    assert fake.killed == [1, 2, 3, 4]
    fake.script = lambda _: SCORES
    assert scorer.score(REQUESTS, deadline_s=1.0) == SCORES


def test_a_lost_worker_is_replaced_once_however_many_calls_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(actor_pool.CALLS_PER_WORKER, timeout=60)

    def script(number: int) -> Any:
        if number > 1:
            return SCORES
        together.wait()
        return LostError("device")

    fake = FakeRay(script)
    scorer = pool_over(fake, monkeypatch)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(scorer.score(REQUESTS, deadline_s=60)))
        for _ in range(actor_pool.CALLS_PER_WORKER)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SCORES] * actor_pool.CALLS_PER_WORKER
    assert (fake.num_started, fake.killed) == (2, [1])
