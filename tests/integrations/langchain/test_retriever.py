"""The compressor under the classes that use compressors, all of langchain-classic."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker, DocumentCompressorPipeline
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_qwen_rerank import QwenCrossEncoder, QwenRerank
from langchain_qwen_rerank.testing import Recorder

from qwen_rerank_plugins import ConfigurationError, EngineError, PairScore, Reranker
from tests.doubles import FakeScorer


class Fixed(BaseRetriever):
    """Finds the same texts always."""

    texts: list[str]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [Document(text, id=text) for text in self.texts]


def _retriever(scorer: FakeScorer | None = None, **settings: Any) -> ContextualCompressionRetriever:
    compressor = QwenRerank(reranker=Reranker(scorer=scorer or FakeScorer(), **settings))
    return ContextualCompressionRetriever(
        base_compressor=compressor, base_retriever=Fixed(texts=["0.1", "0.9", "0.5"])
    )


def _texts(documents: list[Document]) -> list[str]:
    return [one.page_content for one in documents]


def test_a_compression_retriever_returns_the_reranked_documents() -> None:
    assert _texts(_retriever(top_n=2).invoke("q")) == ["0.9", "0.5"]
    assert _texts(asyncio.run(_retriever(top_n=2).ainvoke("q"))) == ["0.9", "0.5"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_its_trace_has_the_first_stage_and_the_reranking_below_it(asynchronous: bool) -> None:
    recorder, config = Recorder(), {}
    config = {"callbacks": [recorder]}
    retriever: Any = _retriever(top_n=2)
    found = asyncio.run(retriever.ainvoke("q", config)) if asynchronous else retriever.invoke("q", config)
    root = recorder.roots[0]
    assert (root.run_type, len(recorder.roots)) == ("retriever", 1)
    children = [(child.name, child.run_type, child.parent_run_id) for child in root.child_runs]
    assert children == [("Fixed", "retriever", root.id), ("QwenRerank", "chain", root.id)]
    reranking = root.child_runs[1]
    assert _texts(reranking.inputs["documents"]) == ["0.1", "0.9", "0.5"]
    assert reranking.outputs is not None
    assert reranking.outputs["documents"] == found


def test_its_trace_shows_an_error() -> None:
    recorder = Recorder()
    with pytest.raises(EngineError):
        _retriever(FakeScorer(error=EngineError("out of order"))).invoke("q", {"callbacks": [recorder]})
    assert [bool(child.error) for child in recorder.roots[0].child_runs] == [False, True]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_instruction_of_the_run_reaches_the_model_through_a_chain(asynchronous: bool) -> None:
    scorer = FakeScorer()
    chain: Any = _retriever(scorer, instruction="mine") | RunnableLambda(len)
    config = {"configurable": {"rerank_instruction": "theirs", "rerank_top_n": 2}}
    count = asyncio.run(chain.ainvoke("q", config)) if asynchronous else chain.invoke("q", config)
    assert (count, scorer.calls[0][0][0].instruction) == (2, "theirs")


def test_a_retriever_called_directly_hands_down_its_metadata() -> None:
    """It passes on callbacks only, and they do not carry `configurable`."""
    scorer = FakeScorer()
    _retriever(scorer).invoke("q", {"metadata": {"rerank_instruction": "theirs"}})
    assert scorer.calls[0][0][0].instruction == "theirs"


def test_a_disabled_compressor_leaves_the_retriever_as_it_was() -> None:
    assert _texts(_retriever(enabled=False).invoke("q")) == ["0.1", "0.9", "0.5"]


def test_a_pipeline_of_compressors_passes_documents_and_callbacks_on() -> None:
    recorder = Recorder()
    scorer = FakeScorer(lambda request: PairScore(float(request.document.split()[0])))
    rough = QwenRerank(reranker=Reranker(scorer=scorer, top_n=2))
    fine = QwenRerank(backend="lexical", top_n=1)
    pipeline = DocumentCompressorPipeline(transformers=[rough, fine])
    given = [Document(text) for text in ("0.1 blue whale", "0.9 fox", "0.5 blue whale")]
    for asynchronous in (False, True):
        found = (
            asyncio.run(pipeline.acompress_documents(given, "blue whale", callbacks=[recorder]))
            if asynchronous
            else pipeline.compress_documents(given, "blue whale", callbacks=[recorder])
        )
        assert [one.page_content for one in found] == ["0.5 blue whale"]
        assert found[0].metadata["first_stage_score"] == 0.5
    assert [run.name for run in recorder.roots] == ["QwenRerank"] * 4


def test_the_cross_encoder_replaces_another_in_one_line() -> None:
    reranker = CrossEncoderReranker(model=QwenCrossEncoder(backend="lexical"), top_n=1)
    given = [Document("a red fox"), Document("the blue whale sings")]
    assert [one.page_content for one in reranker.compress_documents(given, "blue whale")] == [
        "the blue whale sings"
    ]


def test_the_cross_encoder_returns_scores_in_the_order_of_the_pairs() -> None:
    scorer = FakeScorer()
    encoder = QwenCrossEncoder(reranker=Reranker(scorer=scorer, instruction="mine"))
    assert encoder.score([("q", "0.1"), ("r", "0.9"), ("q", "0.5")]) == [0.1, 0.9, 0.5]
    assert asyncio.run(encoder.ascore([("q", "0.3")])) == [0.3]
    assert encoder.score([]) == []
    assert [(one.query, one.instruction) for one in scorer.calls[0][0]] == [
        ("q", "mine"),
        ("r", "mine"),
        ("q", "mine"),
    ]


def test_the_cross_encoder_has_no_first_order_to_keep() -> None:
    failing = FakeScorer(error=EngineError("out of order"))
    with pytest.raises(EngineError):
        QwenCrossEncoder(reranker=Reranker(scorer=failing, on_error="keep_order")).score([("q", "a")])
    with pytest.raises(ConfigurationError, match="scoring is disabled by enabled=False"):
        QwenCrossEncoder(backend="lexical", enabled=False).score([("q", "a")])


def test_the_cross_encoder_closes_what_is_its_own() -> None:
    scorer = FakeScorer()
    borrowed = Reranker(scorer=scorer)
    QwenCrossEncoder(reranker=borrowed).close()
    assert borrowed.score("q", ["0.5"]) == [0.5]
    own = QwenCrossEncoder(backend="lexical")
    own.close()
    with pytest.raises(Exception, match="closed"):
        own.score([("q", "a")])
