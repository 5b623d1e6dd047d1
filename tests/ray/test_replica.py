"""A replica without Ray's processes: waiting calls are scored together, and a dead engine is detected."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from ray import serve

from qwen_rerank_plugins import RerankConfig
from qwen_rerank_plugins.errors import EngineError, InputError, RerankError
from qwen_rerank_plugins.lexical import LexicalScorer
from qwen_rerank_plugins.ray import replica as replica_module
from qwen_rerank_plugins.ray.replica import ScorerReplica
from qwen_rerank_plugins.ray.scaling import ScalingSettings
from qwen_rerank_plugins.types import PairScore, ScoreRequest
from tests.ray.lost_devices import LostError

# A queue of Serve's makes an event loop when it is thrown away after the one that it worked in.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CONFIG = RerankConfig(backend="lexical")
SCALING = ScalingSettings(batch_wait_s=0.05, max_ongoing_requests=64)


class Engine(LexicalScorer):
    """Fails with a given error, and records the pairs of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.error: RerankError | None = None
        self.hangs = False
        self.calls: list[list[ScoreRequest]] = []

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: str = "interactive",
    ) -> list[PairScore]:
        self.calls.append(list(requests))
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return await super().ascore(requests, deadline_s=deadline_s)


@pytest.fixture(autouse=True)
def in_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context that Serve's batching needs."""
    limits = SimpleNamespace(max_ongoing_requests=SCALING.max_ongoing_requests)
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(_deployment_config=limits))


def pairs(*documents: str) -> list[ScoreRequest]:
    return [ScoreRequest("blue whale", document) for document in documents]


async def score_all(
    engine: Engine, calls: Sequence[list[ScoreRequest]], scaling: ScalingSettings = SCALING
) -> list[object]:
    """Make concurrent calls of a new replica."""
    replica = ScorerReplica(CONFIG, scaling, scorer=engine)
    return await asyncio.gather(*(replica.score(call) for call in calls))


def test_calls_that_come_together_are_scored_together() -> None:
    engine = Engine()
    calls = [pairs("blue whale"), pairs("fox", "whale"), pairs("a hen")]
    answers = asyncio.run(score_all(engine, calls))
    assert answers == [LexicalScorer().score(call) for call in calls]
    assert [len(call) for call in engine.calls] == [4]


def test_a_batch_is_full_when_its_tokens_are() -> None:
    """With calls of about 440 tokens and batches of 1,000, each batch has two calls, however many there are."""
    engine = Engine()
    scaling = SCALING.model_copy(update={"batch_tokens": 1000})
    asyncio.run(score_all(engine, [pairs("whale " * 240)] * 6, scaling))
    assert [len(call) for call in engine.calls] == [2, 2, 2]


def test_a_replica_that_never_failed_is_healthy_without_a_probe() -> None:
    engine = Engine()
    asyncio.run(ScorerReplica(CONFIG, SCALING, scorer=engine).check_health())
    assert engine.calls == []


def test_a_dead_engine_makes_the_replica_unhealthy_until_it_answers_again() -> None:
    """Serve replaces a replica whose check fails three times; each check scores a pair that is in no cache."""
    engine = Engine()
    replica = ScorerReplica(CONFIG, SCALING, scorer=engine)

    async def live() -> None:
        engine.error = EngineError("out of memory")
        assert isinstance(await replica.score(pairs("whale")), EngineError)
        for _ in range(2):
            with pytest.raises(EngineError, match="out of memory"):
                await replica.check_health()
        engine.error = None
        await replica.check_health()
        asked = len(engine.calls)
        await replica.check_health()
        assert len(engine.calls) == asked, "it is trusted again"

    asyncio.run(live())
    probes = [call[0].document for call in engine.calls[1:]]
    assert len(set(probes)) == len(probes) == 3


def test_a_lost_engine_makes_the_replica_unhealthy_for_good_and_without_a_probe() -> None:
    """A CUDA context does not recover; a probe that succeeds (from a cache, say) would keep the replica."""
    engine = Engine()
    replica = ScorerReplica(CONFIG, SCALING, scorer=engine)

    async def live() -> None:
        for error in (LostError("device"), EngineError("what follows")):
            engine.error = error
            assert await replica.score(pairs("whale")) is error
        engine.error = None
        for _ in range(2):
            with pytest.raises(LostError, match="device"):
                await replica.check_health()

    asyncio.run(live())
    assert len(engine.calls) == 2


def test_an_engine_that_does_not_answer_the_probe_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "PROBE_TIMEOUT_S", 0.05)
    engine = Engine()
    replica = ScorerReplica(CONFIG, SCALING, scorer=engine)

    async def live() -> None:
        engine.error = EngineError("lost")
        await replica.score(pairs("whale"))
        engine.hangs = True
        with pytest.raises(TimeoutError):
            await replica.check_health()

    asyncio.run(live())


def test_a_bad_request_does_not_make_the_engine_suspect() -> None:
    engine = Engine()
    engine.error = InputError("no")
    replica = ScorerReplica(CONFIG, SCALING, scorer=engine)

    async def live() -> None:
        assert isinstance(await replica.score(pairs("whale")), InputError)
        await replica.check_health()

    asyncio.run(live())
    assert len(engine.calls) == 1
