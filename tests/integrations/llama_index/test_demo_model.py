"""With a model in the process: the bundled demo checkpoint, on the CPU in full precision. These tests need torch."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore
from llama_index.postprocessor.qwen_rerank import QwenRerank, RerankedNode
from llama_index.postprocessor.qwen_rerank.testing import RerankerContract

from qwen_rerank_plugins import Reranker
from qwen_rerank_plugins.core import runtime
from tests.integrations.llama_index.nodes import some_nodes

DEMO: dict[str, Any] = {"model": "demo", "device": "cpu", "dtype": "float32", "num_threads": 1}


class TestDemoModel(RerankerContract):
    def create_postprocessor(self, **options: Any) -> BaseNodePostprocessor:
        return QwenRerank(**DEMO, **options)


def test_the_blocking_call_inside_a_running_loop_starts_no_other() -> None:
    async def call() -> list[NodeWithScore]:
        with QwenRerank(**DEMO) as reranker:
            return reranker.postprocess_nodes(some_nodes("a", "b"), query_str="a")

    assert len(asyncio.run(call())) == 2


def test_postprocessors_of_one_model_share_one_engine() -> None:
    """Eight threads and two postprocessors with different defaults load once; the last one closes it."""
    own: dict[str, Any] = {**DEMO, "max_batch_tokens": 1536}  # an engine that no other test has
    before = set(runtime._registry.runtimes)
    first, second = QwenRerank(**own, top_n=1), QwenRerank(**own, top_n=2, instruction="find it")
    nodes = some_nodes("a kettle", "a train", "a book")
    with ThreadPoolExecutor(8) as pool:
        given = list(
            pool.map(lambda one: one.postprocess_nodes(nodes, query_str="kettle"), [first, second] * 4)
        )
    assert [len(one) for one in given] == [1, 2] * 4
    assert first._reranker.info()["load_s"] == second._reranker.info()["load_s"]
    assert len(set(runtime._registry.runtimes) - before) == 1
    first.close()
    assert len(second.postprocess_nodes(nodes, query_str="kettle")) == 2
    second.close()
    assert set(runtime._registry.runtimes) <= before


def test_a_hundred_tasks_on_one_loop_share_batches_and_do_not_hold_it() -> None:
    """Waiting calls share batches; each task gets its own nodes; no batch is computed on the loop."""
    with QwenRerank(**DEMO, cache_entries=0) as reranker:
        reranker.postprocess_nodes(some_nodes("warm"), query_str="up")
        before = reranker._reranker.info()["scheduler"]["batches"]
        given, turns = asyncio.run(_a_hundred_tasks(reranker))
        batches = reranker._reranker.info()["scheduler"]["batches"] - before
    assert [sorted(one.text for one in nodes) for nodes in given] == [
        [f"kettle {n}", f"paper {n}"] for n in range(100)
    ]
    assert 0 < batches <= 20
    assert (
        turns > 2 * batches
    )  # a batch computed on the loop would leave one; benchmarks/wrappers.py has the time


async def _a_hundred_tasks(reranker: QwenRerank) -> tuple[list[list[NodeWithScore]], int]:
    """The results of a hundred concurrent calls, and the number of iterations of the loop meanwhile."""
    calls = [
        reranker.apostprocess_nodes(some_nodes(f"paper {n}", f"kettle {n}"), query_str=f"kettle {n}")
        for n in range(100)
    ]
    work = asyncio.ensure_future(asyncio.wait_for(asyncio.gather(*calls), 60))
    turns = 0
    while not work.done():
        await asyncio.sleep(0.001)
        turns += 1
    return list(await work), turns


def test_an_index_reranks_with_the_demo_model() -> None:
    documents = [
        Document(text="The kettle is descaled with vinegar and water.", metadata={"title": "Kettle"}),
        Document(text="Night trains run to Vienna.", metadata={"title": "Trains"}),
    ]
    index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))
    with QwenRerank(**DEMO) as reranker:
        engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=2, node_postprocessors=[reranker])
        response = engine.query("how do I descale a kettle?")
    assert len(response.source_nodes) == 2
    for one in response.source_nodes:
        assert isinstance(one, RerankedNode)
        assert one.score is not None
        assert 0 <= one.score <= 1
        assert one.rerank_log_odds is not None


def test_the_limits_of_the_model_are_settings() -> None:
    """The keywords of the configuration set the model's limits and its device."""
    long = " ".join(["kettle"] * 400)
    with QwenRerank(**DEMO, max_length=256, max_batch_tokens=512) as reranker:
        (cut,) = reranker.postprocess_nodes(some_nodes(long), query_str="kettle")
        info = reranker._reranker.info()
    assert isinstance(cut, RerankedNode)
    assert cut.rerank_truncated
    assert (info["device"], info["dtype"], info["max_batch_tokens"]) == ("cpu", "float32", 512)
    with QwenRerank(
        **DEMO, max_length=256, long_documents="chunk", chunk_tokens=64, chunk_overlap=8
    ) as reranker:
        (read,) = reranker.postprocess_nodes(some_nodes(long), query_str="kettle")
    assert isinstance(read, RerankedNode)
    assert not read.rerank_truncated
    assert read.rerank_passage_span is not None
    assert long[slice(*read.rerank_passage_span)] == read.rerank_passage


def test_scores_are_probabilities_of_the_same_model_that_the_base_package_asks() -> None:
    texts = ["The kettle is descaled with vinegar.", "Night trains run to Vienna.", "水壶用醋除垢。"]
    with QwenRerank(**DEMO) as reranker, Reranker.shared(**DEMO) as plain:
        given = reranker.postprocess_nodes(some_nodes(*texts), query_str="descale a kettle")
        expected = plain.score("descale a kettle", texts)
    assert {one.node_id: one.score for one in given} == pytest.approx(
        {f"n{index}": score for index, score in enumerate(expected)}, abs=1e-4
    )
