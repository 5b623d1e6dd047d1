"""With a model in the process: the bundled demo checkpoint, on the CPU in full precision. These tests need torch."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack_integrations.components.rankers.qwen_rerank import QwenReranker

from qwen_rerank_plugins import Reranker
from qwen_rerank_plugins.core import runtime
from tests.integrations.haystack.documents import ids, some_documents

DEMO: dict[str, Any] = {"model": "demo", "device": "cpu", "dtype": "float32", "num_threads": 1}
TEXTS = (
    "The library lends books for four weeks.",
    "A kettle is descaled with vinegar and water.",
    "Night trains run to Vienna.",
    "水壶用醋除垢。",
)
QUESTION = "how is a kettle descaled?"


def test_scores_are_probabilities_of_the_same_model_that_the_base_package_asks() -> None:
    with QwenReranker(**DEMO) as ranker, Reranker.shared(**DEMO) as plain:
        found = ranker.run(query=QUESTION, documents=some_documents(*TEXTS))["documents"]
        expected = plain.score(QUESTION, TEXTS)
    assert found[0].id == "d1"
    assert {one.id: one.score for one in found} == pytest.approx(
        {f"d{index}": score for index, score in enumerate(expected)}, abs=1e-4
    )
    assert all("rerank_log_odds" in one.meta for one in found)


def test_blocking_asynchronous_and_pickled_return_the_same() -> None:
    with QwenReranker(**DEMO) as ranker:
        expected = ranker.run(query=QUESTION, documents=some_documents(*TEXTS))["documents"]
        again = asyncio.run(ranker.run_async(query=QUESTION, documents=some_documents(*TEXTS)))["documents"]
        with pickle.loads(pickle.dumps(ranker)) as read:  # noqa: S301 (our own)
            copied = read.run(query=QUESTION, documents=some_documents(*TEXTS))["documents"]
    for other in (again, copied):
        assert ids(other) == ids(expected)
        assert [one.score for one in other] == pytest.approx([one.score for one in expected], abs=1e-4)


def test_rankers_of_one_model_share_one_engine() -> None:
    """Eight threads and two rankers with different defaults load once; the last one closes it."""
    own: dict[str, Any] = {**DEMO, "max_batch_tokens": 1792}  # an engine that no other test has
    before = set(runtime._registry.runtimes)
    first, second = QwenReranker(**own, top_k=1), QwenReranker(**own, top_k=2, instruction="find it")
    documents = some_documents("a kettle", "a train", "a book")
    first.warm_up()
    assert len(set(runtime._registry.runtimes) - before) == 1, "warming up did not load the model"
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(
                lambda one: one.run(query="kettle", documents=documents)["documents"], [first, second] * 4
            )
        )
    assert [len(one) for one in found] == [1, 2] * 4
    assert len(set(runtime._registry.runtimes) - before) == 1
    first.close()
    assert len(second.run(query="kettle", documents=documents)["documents"]) == 2
    second.close()
    assert set(runtime._registry.runtimes) <= before


def test_calls_of_one_event_loop_merge() -> None:
    async def hundred(ranker: Any) -> list[Any]:
        calls = [
            ranker.run_async(query=f"kettle {n}", documents=some_documents(f"paper {n}", f"kettle {n}"))
            for n in range(100)
        ]
        return list(await asyncio.gather(*calls))

    with QwenReranker(**DEMO, cache_entries=0) as ranker:
        ranker.run(query="up", documents=some_documents("warm"))
        before = ranker._reranker.info()["scheduler"]["batches"]
        found = asyncio.run(hundred(ranker))
        batches = ranker._reranker.info()["scheduler"]["batches"] - before
    assert [sorted(one.content for one in given["documents"]) for given in found] == [
        [f"kettle {n}", f"paper {n}"] for n in range(100)
    ]
    assert 0 < batches <= 20


def test_the_limits_of_the_model_are_settings() -> None:
    long = " ".join(["kettle"] * 400)
    with QwenReranker(**DEMO, max_length=256) as ranker:
        (cut,) = ranker.run(query="kettle", documents=some_documents(long))["documents"]
    assert cut.meta["rerank_truncated"] is True
    chunks: dict[str, Any] = {"long_documents": "chunk", "chunk_tokens": 64, "chunk_overlap": 8}
    with QwenReranker(**DEMO, max_length=256, **chunks) as ranker:
        (read,) = ranker.run(query="kettle", documents=some_documents(long))["documents"]
    assert "rerank_truncated" not in read.meta
    assert long[slice(*read.meta["rerank_passage_span"])] == read.meta["rerank_passage"]


def test_a_pipeline_from_a_file_ranks_with_the_demo_model() -> None:
    pipeline = Pipeline()
    pipeline.add_component("ranker", QwenReranker(**DEMO, top_k=1))
    given = {"ranker": {"query": QUESTION, "documents": [Document(content=text) for text in TEXTS]}}
    (found,) = Pipeline.loads(pipeline.dumps()).run(given)["ranker"]["documents"]
    assert found.content == TEXTS[1]
