from __future__ import annotations

import asyncio
import threading

import pytest
from llama_index.core.schema import NodeWithScore

from qwen_rerank_plugins.types import PairScore, ScoreRequest
from tests.doubles import FakeScorer
from tests.integrations.llama_index.nodes import faked, ids, some_nodes


def test_the_asynchronous_call_is_native_and_takes_no_thread_of_its_own() -> None:
    """LlamaIndex's default runs the blocking call in a thread; ours awaits the scorer on the caller's loop."""
    seen: list[threading.Thread] = []

    class Watching(FakeScorer):
        async def ascore(self, requests, *, deadline_s=None, priority="interactive"):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            seen.append(threading.current_thread())
            return self.score(requests)

    given = asyncio.run(faked(Watching()).apostprocess_nodes(some_nodes("0.1", "0.9"), query_str="q"))
    assert ids(given) == ["n1", "n0"]
    assert seen == [threading.main_thread()]


def test_a_slow_scorer_does_not_hold_the_loop() -> None:
    """The scorer waits for what the loop does meanwhile."""
    released = threading.Event()

    def wait_for_the_loop(request: ScoreRequest) -> PairScore:
        assert released.wait(30), "the loop stood still"
        return PairScore(0.5)

    async def rerank() -> list[NodeWithScore]:
        reranker = faked(FakeScorer(wait_for_the_loop))
        call = asyncio.ensure_future(reranker.apostprocess_nodes(some_nodes("0.1"), query_str="q"))
        await asyncio.sleep(0.01)
        released.set()
        return await call

    assert [one.score for one in asyncio.run(rerank())] == [0.5]


def test_a_cancelled_call_is_withdrawn_and_the_next_one_works() -> None:
    async def cancel() -> list[NodeWithScore]:
        reranker = faked(FakeScorer(delay_s=0.05))
        call = asyncio.ensure_future(reranker.apostprocess_nodes(some_nodes("0.1"), query_str="q"))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return await reranker.apostprocess_nodes(some_nodes("0.2"), query_str="q")

    assert [one.score for one in asyncio.run(cancel())] == [0.2]
