"""When a model is loaded, where it runs, and when it is released."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from haystack import Document
from haystack_integrations.components.rankers.qwen_rerank import QwenReranker

from qwen_rerank_plugins import CheckpointError, ClosedError, ConfigurationError, EngineError, Reranker
from tests.doubles import FakeScorer
from tests.integrations.haystack.documents import faked, ids, some_documents


class Counted(FakeScorer):
    """Counts how often it was asked for the model's information."""

    asked = 0

    def info(self) -> dict[str, Any]:
        self.asked += 1
        return super().info()


class Failing(FakeScorer):
    """Cannot be loaded."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error=error)
        self.error = error

    def info(self) -> dict[str, Any]:
        raise self.error


def test_nothing_is_loaded_before_it_is_warmed_up_and_then_once() -> None:
    scorer = Counted()
    ranker = faked(scorer)
    assert scorer.asked == 0
    ranker.warm_up()
    ranker.warm_up()
    asyncio.run(ranker.warm_up_async())
    assert scorer.asked == 1


def test_warming_up_loads_the_model_that_is_configured(tmp_path: Any) -> None:
    ranker = QwenReranker(model=str(tmp_path / "no such folder"))
    assert ranker.run(query="q", documents=[])["documents"] == []
    with pytest.raises((CheckpointError, ConfigurationError), match=r"no such folder|local backend"):
        ranker.warm_up()


def test_a_disabled_ranker_loads_nothing() -> None:
    scorer = Counted()
    faked(scorer, enabled=False).warm_up()
    assert scorer.asked == 0


def test_a_failing_load_raises_or_is_left_to_the_calls_as_configured() -> None:
    with pytest.raises(EngineError, match="no memory"):
        faked(Failing(EngineError("no memory"))).warm_up()
    ranker = faked(Failing(EngineError("no memory")), on_error="keep_order")
    ranker.warm_up()
    (found,) = ranker.run(query="q", documents=some_documents("0.5"))["documents"]
    assert found.meta["rerank_status"] == "failed"
    with pytest.raises(ConfigurationError):
        faked(Failing(ConfigurationError("wrong device")), on_error="keep_order").warm_up()


def test_the_asynchronous_call_is_native_and_takes_no_thread_of_its_own() -> None:
    seen: list[threading.Thread] = []

    class Watching(FakeScorer):
        async def ascore(self, requests, *, deadline_s=None, priority="interactive"):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            seen.append(threading.current_thread())
            return self.score(requests)

    found = asyncio.run(faked(Watching()).run_async(query="q", documents=some_documents("0.1", "0.9")))
    assert ids(found["documents"]) == ["d1", "d0"]
    assert seen == [threading.main_thread()]


def test_a_slow_scorer_does_not_hold_the_loop() -> None:
    async def turns() -> int:
        call = asyncio.ensure_future(
            faked(FakeScorer(delay_s=0.3)).run_async(query="q", documents=some_documents("0.1"))
        )
        count = 0
        while not call.done():
            await asyncio.sleep(0.005)
            count += 1
        await call
        return count

    assert asyncio.run(turns()) >= 5


def test_a_blocking_call_works_inside_a_running_loop() -> None:
    async def call() -> list[Document]:
        found: list[Document] = faked().run(query="q", documents=some_documents("0.1", "0.9"))["documents"]
        return found

    assert ids(asyncio.run(call())) == ["d1", "d0"]


def test_a_cancelled_call_is_withdrawn_and_the_next_one_works() -> None:
    async def cancel() -> list[Document]:
        ranker = faked(FakeScorer(delay_s=0.05))
        call = asyncio.ensure_future(ranker.run_async(query="q", documents=some_documents("0.1")))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        found: list[Document] = (await ranker.run_async(query="q", documents=some_documents("0.2")))[
            "documents"
        ]
        return found

    assert [one.score for one in asyncio.run(cancel())] == [0.2]


def test_threads_get_their_own_results() -> None:
    ranker: Any = QwenReranker(backend="lexical")
    found: dict[int, list[str]] = {}

    def work(n: int) -> None:
        time.sleep(0.001 * (n % 3))
        texts = some_documents("nothing", f"word{n}")
        found[n] = [
            one.content for one in ranker.run(query=f"word{n}", documents=texts, top_k=1)["documents"]
        ]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == {n: [f"word{n}"] for n in range(16)}


def test_closing_releases_what_it_built_and_leaves_a_borrowed_reranker_alone() -> None:
    with QwenReranker(backend="lexical") as own:
        own.run(query="a", documents=some_documents("a"))
    with pytest.raises(ClosedError):
        own.run(query="a", documents=some_documents("a"))
    own.close()
    scorer = FakeScorer()
    borrowed = Reranker(scorer=scorer)
    with QwenReranker(reranker=borrowed) as wrapper:
        wrapper.run(query="q", documents=some_documents("0.5"))
    assert borrowed.score("q", ["0.25"]) == [0.25]
    assert scorer.closed == 0


@pytest.mark.parametrize("how", ["block", "close_async", "aclose"])
def test_an_asynchronous_context_closes_too(how: str) -> None:
    async def use() -> Any:
        ranker: Any = QwenReranker(backend="lexical")
        if how == "block":
            async with ranker:
                await ranker.run_async(query="a", documents=some_documents("a"))
        else:
            await getattr(ranker, how)()
        return ranker

    with pytest.raises(ClosedError):
        asyncio.run(use()).run(query="a", documents=some_documents("a"))
