from __future__ import annotations

import asyncio
import json
import logging
import pickle
from typing import Any

import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.postprocessor.qwen_rerank import InstructedQuery, QwenRerank, RerankedNode

from qwen_rerank_plugins import (
    ClosedError,
    EngineError,
    InputError,
    InputTypeError,
    OverloadedError,
    PairScore,
    Reranker,
)
from tests.doubles import FakeScorer
from tests.integrations.llama_index.nodes import asked, faked, ids, some_nodes

MODES = list(MetadataMode)


def only(nodes: list[NodeWithScore]) -> RerankedNode:
    """The one node of a result."""
    assert len(nodes) == 1
    assert isinstance(nodes[0], RerankedNode)
    return nodes[0]


def test_it_is_a_node_postprocessor() -> None:
    assert issubclass(QwenRerank, BaseNodePostprocessor)
    assert QwenRerank.class_name() == "QwenRerank"


# Order, threshold, cut.


def test_nodes_come_best_first_with_python_floats() -> None:
    given = faked().postprocess_nodes(some_nodes("0.1", "0.9", "0.5"), query_str="q")
    assert ids(given) == ["n1", "n2", "n0"]
    assert [one.score for one in given] == [0.9, 0.5, 0.1]
    assert {type(one.score) for one in given} == {float}


def test_the_threshold_goes_before_the_cut_and_includes_its_own_value() -> None:
    nodes = some_nodes("0.1", "0.9", "0.5", "0.7")
    assert ids(faked(min_score=0.5).postprocess_nodes(nodes, query_str="q")) == ["n1", "n3", "n2"]
    assert ids(faked(min_score=0.5, top_n=2).postprocess_nodes(nodes, query_str="q")) == ["n1", "n3"]
    assert faked(min_score=0.95).postprocess_nodes(nodes, query_str="q") == []


def test_without_top_n_all_nodes_come() -> None:
    nodes = some_nodes(*(f"0.{n}" for n in range(10)))
    assert len(faked().postprocess_nodes(nodes, query_str="q")) == 10
    assert len(faked(top_n=None).postprocess_nodes(nodes, query_str="q")) == 10


def test_ties_keep_the_order_of_the_first_stage() -> None:
    nodes = some_nodes("0.5", "0.7", "0.5", "0.7", "0.5", scores=[1.0, 2.0, 3.0, None, 5.0])
    assert ids(faked().postprocess_nodes(nodes, query_str="q")) == ["n1", "n3", "n0", "n2", "n4"]


def test_top_n_can_be_assigned_and_is_checked() -> None:
    reranker, nodes = faked(top_n=1), some_nodes("0.1", "0.2", "0.3")
    reranker.top_n = 2
    assert ids(reranker.postprocess_nodes(nodes, query_str="q")) == ["n2", "n1"]
    with pytest.raises(ValueError, match="`top_n` must be at least 1, got 0"):
        reranker.top_n = 0
    assert (reranker.top_n, reranker.config.top_n) == (2, 2)


def test_a_call_may_choose_top_n_and_minus_one_is_the_instances() -> None:
    reranker, nodes = faked(top_n=1), some_nodes("0.1", "0.2", "0.3")
    assert ids(reranker.rerank(nodes, "q")) == ["n2"]
    assert ids(reranker.rerank(nodes, "q", top_n=-1)) == ["n2"]
    assert ids(reranker.rerank(nodes, "q", top_n=2)) == ["n2", "n1"]
    assert ids(asyncio.run(reranker.arerank(nodes, "q", top_n=None))) == ["n2", "n1", "n0"]
    assert reranker.top_n == 1
    with pytest.raises(InputError, match="`top_n` must be at least 1, got 0"):
        reranker.rerank(nodes, "q", top_n=0)


# What comes out, and what stays.


def test_the_same_node_object_comes_back_in_a_new_wrapper() -> None:
    nodes = some_nodes("0.1", "0.9", scores=[0.3, 0.2])
    given = faked().postprocess_nodes(nodes, query_str="q")
    assert [one.node for one in given] == [nodes[1].node, nodes[0].node]
    assert given[0].node is nodes[1].node
    assert given[0] is not nodes[1]
    assert [one.score for one in nodes] == [0.3, 0.2]


def test_the_first_score_is_kept_beside_the_node() -> None:
    given = faked().postprocess_nodes(some_nodes("0.1", "0.9", scores=[0.3, None]), query_str="q")
    assert [(one.score, one.first_stage_score) for one in given if isinstance(one, RerankedNode)] == [
        (0.9, None),
        (0.1, 0.3),
    ]


def test_a_second_reranking_replaces_the_score_and_keeps_the_first_stages() -> None:
    once = faked().postprocess_nodes(some_nodes("0.4", scores=[7.0]), query_str="q")
    doubled = FakeScorer(lambda request: PairScore(2 * float(request.document), 1.5))
    twice = only(faked(doubled).postprocess_nodes(once, query_str="q"))
    assert (twice.score, twice.first_stage_score, twice.rerank_log_odds) == (0.8, 7.0, 1.5)
    assert once[0].score == 0.4


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_a_reranking_is_read_by_a_model_in_any_mode(mode: MetadataMode) -> None:
    nodes = some_nodes(
        "0.4", scores=[0.7], metadata={"title": "a", "id": 3}, excluded_llm_metadata_keys=["id"]
    )
    before, digest = nodes[0].get_content(mode), nodes[0].node.hash
    given = only(faked(metadata_mode="none").postprocess_nodes(nodes, query_str="q"))
    assert given.get_content(mode) == given.node.get_content(mode) == before
    assert given.node.hash == digest
    assert given.first_stage_score == 0.7


def test_ids_relationships_metadata_and_embeddings_are_kept() -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book")}
    nodes = some_nodes("0.4", metadata={"a": 1}, relationships=source, embedding=[0.5])
    given = only(faked(metadata_mode="none").postprocess_nodes(nodes, query_str="q"))
    assert given.node_id == "n0"
    assert given.metadata == {"a": 1}
    assert (given.node.relationships, given.embedding) == (source, [0.5])
    assert given.node.source_node is not None


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (TextNode(text="0.5"), "0.5"),
        (Document(text="0.5"), "0.5"),
        (IndexNode(text="0.5", index_id="elsewhere"), "0.5"),
        (ImageNode(text="0.5", image="aGk="), "0.5"),
        (ImageNode(image="aGk="), ""),
        (Node(), ""),
    ],
)
def test_every_kind_of_node_is_scored_by_its_text(node: Any, text: str) -> None:
    scorer = FakeScorer(lambda _: PairScore(0.5))
    given = only(faked(scorer).postprocess_nodes([NodeWithScore(node=node)], query_str="q"))
    assert given.node is node
    assert asked(scorer) == [text]


def test_cuts_and_log_odds_are_reported() -> None:
    outcome = PairScore(
        0.5, 0.25, truncated=True, query_truncated=True, warnings=("a warning",), calibrated=False
    )
    given = only(faked(FakeScorer(lambda _: outcome)).postprocess_nodes(some_nodes("x"), query_str="q"))
    assert (given.rerank_log_odds, given.rerank_truncated, given.rerank_query_truncated) == (0.25, True, True)
    assert given.rerank_calibrated is False
    assert given.rerank_warnings == ("a warning",)
    assert (given.rerank_passage, given.rerank_passage_span) == (None, None)
    assert (given.rerank_status, given.rerank_error, given.rerank_model) == ("ranked", None, "fake")


TEXT = "  a field of wheat \n"
WHOLE = "title: Farm\n\n  a field of wheat"


@pytest.mark.parametrize(
    ("mode", "span", "passage", "in_content"),
    [
        ("none", (4, 9), "field", (4, 9)),
        ("embed", (17, 22), "field", (4, 9)),
        ("embed", (7, 22), "Farm\n\n  a field", (0, 9)),
        ("embed", (7, 11), "Farm", None),
    ],
)
def test_the_best_passage_is_reported_with_its_place_in_the_nodes_own_text(
    mode: str, span: tuple[int, int], passage: str, in_content: tuple[int, int] | None
) -> None:
    scorer = FakeScorer(lambda _: PairScore(0.5, span=span))
    nodes = some_nodes(TEXT, metadata={"title": "Farm"})
    given = only(faked(scorer, metadata_mode=mode).postprocess_nodes(nodes, query_str="q"))
    assert asked(scorer) == [TEXT if mode == "none" else WHOLE]
    assert (given.rerank_passage, given.rerank_passage_span) == (passage, in_content)
    if in_content and in_content[0]:
        assert TEXT[slice(*in_content)] == passage


def test_results_can_be_serialized_and_pickled() -> None:
    """Scores of other number types than Python's cannot be written; JSON is for reading, as of any `NodeWithScore`."""
    given = only(faked().postprocess_nodes(some_nodes("0.5", scores=[0.25]), query_str="q"))
    written = json.loads(given.to_json())
    found = {name: written[name] for name in ("class_name", "score", "first_stage_score", "rerank_status")}
    assert found == {
        "class_name": "RerankedNode",
        "score": 0.5,
        "first_stage_score": 0.25,
        "rerank_status": "ranked",
    }
    assert written["node"]["text"] == "0.5"
    assert pickle.loads(pickle.dumps(given)) == given  # noqa: S301 (our own)


# What is scored.


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (None, "title: Farm\n\nwheat"),
        ("embed", "title: Farm\n\nwheat"),
        ("llm", "year: 1900\n\nwheat"),
        ("all", "title: Farm\nyear: 1900\nid: 3\n\nwheat"),
        ("none", "wheat"),
        (MetadataMode.NONE, "wheat"),
    ],
)
def test_the_mode_chooses_the_metadata_that_is_scored(mode: Any, text: str) -> None:
    scorer = FakeScorer(lambda _: PairScore(0.5))
    nodes = some_nodes(
        "wheat",
        metadata={"title": "Farm", "year": 1900, "id": 3},
        excluded_embed_metadata_keys=["year", "id"],
        excluded_llm_metadata_keys=["title", "id"],
    )
    faked(scorer, metadata_mode=mode).postprocess_nodes(nodes, query_str="q")
    assert asked(scorer) == [text]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (["year", "title"], "year: 1900\ntitle: Farm\n\nwheat"),
        (("title", "missing", "empty", "tags"), 'title: Farm\ntags: ["a"]\n\nwheat'),
        (["missing"], "wheat"),
        ([], "wheat"),
    ],
)
def test_metadata_fields_are_scored_in_their_order(fields: Any, text: str) -> None:
    scorer = FakeScorer(lambda _: PairScore(0.5))
    metadata = {"title": "Farm", "year": 1900, "empty": "", "tags": ["a"]}
    nodes = some_nodes("wheat", metadata=metadata, excluded_embed_metadata_keys=["title"])
    reranker = QwenRerank(reranker=Reranker(scorer=scorer), metadata_fields=fields)
    reranker.postprocess_nodes(nodes, query_str="q")
    assert asked(scorer) == [text]


# The query and its instruction.


def test_the_instruction_comes_from_the_call_else_the_query_else_the_instance() -> None:
    scorer = FakeScorer()
    reranker, nodes = faked(scorer, instruction="instance"), some_nodes("0.5")
    query = InstructedQuery("q", instruction="query")
    reranker.postprocess_nodes(nodes, QueryBundle("q"))
    reranker.postprocess_nodes(nodes, InstructedQuery("q"))
    reranker.postprocess_nodes(nodes, query)
    asyncio.run(reranker.apostprocess_nodes(nodes, query))
    reranker.rerank(nodes, query, instruction="call")
    reranker.rerank(nodes, "q", instruction="call")
    instructions = [requests[0].instruction for requests, _ in scorer.calls]
    assert instructions == ["instance", "instance", "query", "query", "call", "call"]


def test_an_instruction_is_not_embedded() -> None:
    query = InstructedQuery("whales", instruction="find songs")
    assert query.embedding_strs == ["whales"]
    assert InstructedQuery.from_dict(query.to_dict()) == query


@pytest.mark.parametrize("nodes", [some_nodes("0.5"), []])
@pytest.mark.parametrize("settings", [{}, {"enabled": False}, {"on_error": "keep_order"}])
def test_a_missing_query_is_refused_before_anything_is_scored(
    nodes: list[NodeWithScore], settings: dict[str, Any]
) -> None:
    scorer = FakeScorer()
    with pytest.raises(InputError, match=r"query is missing: None\. Pass query_str, or a QueryBundle"):
        faked(scorer, **settings).postprocess_nodes(nodes)
    with pytest.raises(ValueError, match="query is missing"):
        asyncio.run(faked(scorer, **settings).apostprocess_nodes(nodes))
    assert scorer.calls == []


@pytest.mark.parametrize(
    ("nodes", "query", "message"),
    [
        (some_nodes("0.5"), " ", "`query` must not be blank"),
        (some_nodes("0.5"), QueryBundle("", image_path="a.png"), "`query` must not be blank"),
        (some_nodes("0.5"), 3, "query has the wrong type: 3"),
        ([TextNode(text="x")], "q", r"nodes\[0\] has the wrong type: TextNode. Pass a list of NodeWithScore"),
        ([*some_nodes("0.5"), None], "q", r"nodes\[1\] has the wrong type: NoneType"),
        (some_nodes("0.5")[0], "q", "nodes has the wrong type: NodeWithScore. Pass a list"),
        ("text", "q", "nodes has the wrong type: str"),
    ],
)
def test_what_cannot_be_ranked_is_refused(nodes: Any, query: Any, message: str) -> None:
    scorer = FakeScorer()
    with pytest.raises(InputError, match=message):
        faked(scorer, on_error="keep_order").rerank(nodes, query)
    assert scorer.calls == []


def test_a_wrong_type_is_a_type_error_too() -> None:
    with pytest.raises(InputTypeError):
        faked().rerank([TextNode(text="x")], "q")


def test_an_empty_list_does_not_ask_the_model() -> None:
    scorer = FakeScorer(error=EngineError("must not be asked"))
    assert faked(scorer).postprocess_nodes([], query_str="q") == []
    assert asyncio.run(faked(scorer).apostprocess_nodes([], query_str="q")) == []
    assert scorer.calls == []


# Switched off, failed, closed.


@pytest.mark.parametrize("asynchronous", [False, True])
def test_switched_off_the_first_nodes_come_as_they_were(*, asynchronous: bool) -> None:
    scorer = FakeScorer()
    reranker = faked(scorer, enabled=False, top_n=2, min_score=0.9)
    nodes = some_nodes("0.1", "0.9", "0.5", scores=[0.4, None, 0.2])
    if asynchronous:
        given = asyncio.run(reranker.apostprocess_nodes(nodes, query_str="q"))
    else:
        given = reranker.postprocess_nodes(nodes, query_str="q")
    assert [(one.node_id, one.score) for one in given] == [("n0", 0.4), ("n1", None)]
    assert [one.rerank_status for one in given if isinstance(one, RerankedNode)] == ["disabled"] * 2
    assert scorer.calls == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failure_raises_or_keeps_the_first_order_as_configured(
    caplog: pytest.LogCaptureFixture, *, asynchronous: bool
) -> None:
    def run(reranker: QwenRerank) -> list[NodeWithScore]:
        nodes = some_nodes("0.1", "0.9", "0.5", scores=[0.4, 0.3, 0.2])
        if asynchronous:
            return asyncio.run(reranker.apostprocess_nodes(nodes, query_str="a secret"))
        return reranker.postprocess_nodes(nodes, query_str="a secret")

    failing = FakeScorer(error=OverloadedError("full"))
    with pytest.raises(OverloadedError):
        run(faked(failing))
    with caplog.at_level(logging.WARNING):
        given = run(faked(failing, on_error="keep_order", top_n=2, min_score=0.99))
    assert [(one.node_id, one.score) for one in given] == [("n0", 0.4), ("n1", 0.3)]
    marks = [(one.rerank_status, one.rerank_error) for one in given if isinstance(one, RerankedNode)]
    assert marks == [("failed", "OverloadedError: full")] * 2
    assert "OverloadedError" in caplog.text
    assert "secret" not in caplog.text


def test_closing_releases_what_it_built_and_leaves_a_borrowed_reranker_alone() -> None:
    with QwenRerank(backend="lexical") as own:
        own.postprocess_nodes(some_nodes("a"), query_str="a")
    with pytest.raises(ClosedError):
        own.postprocess_nodes(some_nodes("a"), query_str="a")
    own.close()
    scorer = FakeScorer()
    borrowed = Reranker(scorer=scorer)
    with QwenRerank(reranker=borrowed) as wrapper:
        wrapper.postprocess_nodes(some_nodes("0.5"), query_str="q")
    assert borrowed.score("q", ["0.25"]) == [0.25]
    assert scorer.closed == 0


def test_an_asynchronous_context_closes_too() -> None:
    async def use() -> QwenRerank:
        async with QwenRerank(backend="lexical") as reranker:
            await reranker.apostprocess_nodes(some_nodes("a"), query_str="a")
        return reranker

    with pytest.raises(ClosedError):
        asyncio.run(use()).postprocess_nodes(some_nodes("a"), query_str="a")
