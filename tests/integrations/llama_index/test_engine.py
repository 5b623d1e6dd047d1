"""In LlamaIndex's own engines: configuration alone adds reranking, traces nest, instructions arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.postprocessor.qwen_rerank import InstructedQuery, QwenRerank, RerankedNode
from llama_index.postprocessor.qwen_rerank._recording import CallbackRecorder

from qwen_rerank_plugins import PairScore
from tests.doubles import FakeScorer
from tests.integrations.llama_index.nodes import faked, ids, some_nodes

either_way = pytest.mark.parametrize("asynchronous", [False, True])


class Fixed(BaseRetriever):
    """Gives the same nodes for every query."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        super().__init__()
        self.nodes = nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.nodes


def engine_over(*postprocessors: Any, nodes: list[NodeWithScore], **options: Any) -> RetrieverQueryEngine:
    return RetrieverQueryEngine.from_args(
        Fixed(nodes), llm=MockLLM(), node_postprocessors=list(postprocessors), **options
    )


def ask(engine: Any, query: Any, *, asynchronous: bool) -> Any:
    return asyncio.run(engine.aquery(query)) if asynchronous else engine.query(query)


@either_way
def test_the_answer_is_written_from_the_best_nodes(*, asynchronous: bool) -> None:
    nodes = some_nodes(
        "a train to the coast", "descale a kettle with vinegar", "a library", scores=[0.9, 0.2, 0.1]
    )
    engine = engine_over(QwenRerank(backend="lexical", top_n=1), nodes=nodes)
    response = ask(engine, "how to descale a kettle", asynchronous=asynchronous)
    assert ids(response.source_nodes) == ["n1"]
    assert isinstance(response.source_nodes[0], RerankedNode)
    assert response.source_nodes[0].first_stage_score == 0.2
    prompt = str(response)  # the mock answers with its prompt
    assert "vinegar" in prompt
    assert "train" not in prompt
    assert "score" not in prompt
    assert "rerank" not in prompt


@either_way
def test_a_query_brings_its_instruction_through_an_engine(*, asynchronous: bool) -> None:
    scorer = FakeScorer()
    engine = engine_over(faked(scorer, instruction="mine"), nodes=some_nodes("0.5"))
    ask(engine, InstructedQuery("q", instruction="theirs"), asynchronous=asynchronous)
    ask(engine, "q", asynchronous=asynchronous)
    assert [requests[0].instruction for requests, _ in scorer.calls] == ["theirs", "mine"]


@either_way
def test_reranking_is_a_child_of_the_query_in_both_traces(*, asynchronous: bool) -> None:
    recorder, handler, root = CallbackRecorder(), SimpleSpanHandler(), get_dispatcher()
    engine = engine_over(
        faked(), nodes=some_nodes("0.1", "0.2"), callback_manager=CallbackManager([recorder])
    )
    root.add_span_handler(handler)
    try:
        ask(engine, "q", asynchronous=asynchronous)
    finally:
        root.span_handlers = [one for one in root.span_handlers if one is not handler]
    names = {span.id_: span.id_.rpartition("-")[0] for span in handler.completed_spans}
    parents = {span.id_.split("-")[0]: str(span.parent_id).split("-")[0] for span in handler.completed_spans}
    assert len(names) == len(handler.completed_spans)
    expected = {
        False: ("QwenRerank._postprocess_nodes", "RetrieverQueryEngine._query"),
        True: ("QwenRerank._apostprocess_nodes", "RetrieverQueryEngine._aquery"),
    }
    child, parent = expected[asynchronous]
    assert parents[child] == parent
    assert handler.dropped_spans == []
    (start,), (end,) = recorder.reranking()
    (query,) = [one for one in recorder.started if one.kind is CBEventType.QUERY]
    assert recorder.parents[start.event_id] == query.event_id
    assert start.event_id == end.event_id


def test_other_postprocessors_follow_it() -> None:
    nodes = some_nodes("0.2", "0.9", "0.6", scores=[5.0, 4.0, 3.0])
    engine = engine_over(faked(), SimilarityPostprocessor(similarity_cutoff=0.5), nodes=nodes)
    assert ids(engine.retrieve(QueryBundle("q"))) == ["n1", "n2"]


def test_switched_off_by_configuration_the_engine_works_as_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = some_nodes("0.2", "0.9", scores=[5.0, 4.0])
    monkeypatch.setenv("QWEN_RERANK_ENABLED", "false")
    engine = engine_over(QwenRerank.from_env(), nodes=nodes)
    given = engine.retrieve(QueryBundle("q"))
    assert [(one.node_id, one.score) for one in given] == [("n0", 5.0), ("n1", 4.0)]


def test_a_chat_engine_reranks_its_context() -> None:
    chat = ContextChatEngine.from_defaults(
        retriever=Fixed(some_nodes("a train", "a kettle")),
        llm=MockLLM(),
        memory=ChatMemoryBuffer.from_defaults(token_limit=1000),  # the default one leaves a database open
        node_postprocessors=[QwenRerank(backend="lexical", top_n=1)],
    )
    assert ids(chat.chat("kettle").source_nodes) == ["n1"]
    assert ids(asyncio.run(chat.achat("kettle")).source_nodes) == ["n1"]


def test_a_score_without_log_odds_is_taken_as_it_is() -> None:
    (given,) = faked(FakeScorer(lambda _: PairScore(0.75))).postprocess_nodes(some_nodes("x"), query_str="q")
    assert isinstance(given, RerankedNode)
    assert (given.score, given.rerank_log_odds) == (0.75, None)
