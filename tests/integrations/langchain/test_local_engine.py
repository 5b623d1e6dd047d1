"""The compressor over the real engine, with the demo checkpoint: shared, merged, and beside a live event loop.

Needs torch, or the whole development environment, as test_rag_example.py does; the others of this folder do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from langchain_core.documents import Document
from langchain_qwen_rerank import QwenCrossEncoder, QwenRerank
from langchain_qwen_rerank.testing import DocumentCompressorTests

from qwen_rerank_plugins import Reranker

SETTINGS: dict[str, Any] = {"model": "demo", "device": "cpu", "dtype": "float32"}
NUM_CALLS = 100


class TestDemo(DocumentCompressorTests):
    compressor_class = QwenRerank
    compressor_params: ClassVar = SETTINGS


@pytest.fixture(scope="module")
def engine() -> Iterator[Reranker]:
    """A reference to the engine that this process shares, which keeps it loaded."""
    with Reranker.shared(**SETTINGS) as reranker:
        reranker.info()
        yield reranker


def _batches(engine: Reranker) -> int:
    return int(engine.info()["scheduler"]["batches"])


def _documents(call: int) -> list[Document]:
    """Texts that no other call uses."""
    return [
        Document(f"number {call} of the papers tells of case {call * 7 + n} and its end") for n in range(4)
    ]


def test_all_wrappers_of_a_process_share_one_engine(engine: Reranker) -> None:
    before = engine.info()["scheduler"]["completed"]
    wrappers = [QwenRerank(**SETTINGS, top_n=n) for n in (1, 2)]
    for call, wrapper in enumerate(wrappers):
        wrapper.compress_documents(_documents(1_000 + call), "which case")
    QwenCrossEncoder(**SETTINGS).score([("which case", "case 4711")])
    assert engine.info()["scheduler"]["completed"] == before + 3
    wrappers[0].close()
    assert len(wrappers[1].compress_documents(_documents(1_003), "which case")) == 2


def test_scores_are_those_of_the_reranker(engine: Reranker) -> None:
    documents = _documents(2_000)
    found = QwenRerank(**SETTINGS).compress_documents(documents, "which case")
    result = engine.rank("which case", [one.page_content for one in documents])
    assert [one.page_content for one in found] == [one.document for one in result.results]
    assert [one.metadata["relevance_score"] for one in found] == [
        one.relevance_score for one in result.results
    ]
    assert [one.metadata["rerank_log_odds"] for one in found] == [one.log_odds for one in result.results]


def test_calls_of_one_event_loop_merge_and_leave_it_free(engine: Reranker) -> None:
    compressor = QwenRerank(**SETTINGS)

    async def gather() -> tuple[list[Any], int]:
        turns = 0
        calls = asyncio.gather(
            *[compressor.acompress_documents(_documents(3_000 + n), "which case") for n in range(NUM_CALLS)]
        )
        while not calls.done():
            await asyncio.sleep(0.001)
            turns += 1
        return await calls, turns

    asyncio.run(compressor.acompress_documents(_documents(2_999), "which case"))
    before = _batches(engine)
    found, turns = asyncio.run(gather())
    batches = _batches(engine) - before
    assert [len(one) for one in found] == [4] * NUM_CALLS
    assert batches <= NUM_CALLS / 5
    assert (
        turns > 2 * batches
    )  # a batch computed on the loop would leave one; benchmarks/wrappers.py has the time


def test_a_long_document_reports_its_best_passage() -> None:
    filler = " ".join(f"the weather of day {n} was dull." for n in range(120))
    text = f"{filler} limescale in a kettle is removed with vinegar. {filler}"
    rerank = QwenRerank(
        **SETTINGS,
        long_documents="chunk",
        max_length=256,
        chunk_tokens=64,
        chunk_overlap=16,
        metadata_fields=["title"],
    )
    given = [Document(text, metadata={"title": "household"})]
    found = rerank.compress_documents(given, "remove limescale from a kettle")[0]
    start, end = found.metadata["rerank_passage_span"]
    assert found.page_content[start:end] == found.metadata["rerank_passage"]
    assert "limescale" in found.metadata["rerank_passage"]
    assert len(found.metadata["rerank_passage"]) < len(text) / 4


def test_a_document_that_was_cut_says_so() -> None:
    rerank = QwenRerank(**SETTINGS, max_length=128)
    found = rerank.compress_documents([Document("word " * 400), Document("short")], "word")
    assert {len(one.page_content) > 10: one.metadata.get("rerank_truncated") for one in found} == {
        True: True,
        False: None,
    }
