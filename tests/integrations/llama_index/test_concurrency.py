from __future__ import annotations

import asyncio
import threading
import time

import pytest
from llama_index.core.schema import NodeWithScore

from tests.doubles import FakeScorer
from tests.integrations.llama_index.nodes import faked, ids, some_nodes


async def longest_stall(work: asyncio.Task[list[NodeWithScore]]) -> float:
    """Seconds that the loop stood still at most until the work was done."""
    longest, last = 0.0, time.perf_counter()
    while not work.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    await work
    return longest


def test_the_asynchronous_call_is_native_and_takes_no_thread_of_its_own() -> None:
    """LlamaIndex's default runs the blocking call in a thread; ours awaits the scorer on the caller's loop."""
    seen: list[threading.Thread] = []

    class Watching(FakeScorer):
        async def ascore(self, requests, *, deadline_s=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            seen.append(threading.current_thread())
            return self.score(requests)

    given = asyncio.run(faked(Watching()).apostprocess_nodes(some_nodes("0.1", "0.9"), query_str="q"))
    assert ids(given) == ["n1", "n0"]
    assert seen == [threading.main_thread()]


def test_a_slow_scorer_does_not_hold_the_loop() -> None:
    async def measure() -> float:
        reranker = faked(FakeScorer(delay_s=0.3))
        return await longest_stall(
            asyncio.ensure_future(reranker.apostprocess_nodes(some_nodes("0.1"), query_str="q"))
        )

    assert min(asyncio.run(measure()) for _ in range(3)) < 0.15


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
