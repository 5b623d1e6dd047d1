"""Nodes of a user's own class come back as that class, with everything that the reranking reports."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.qwen_rerank import RerankedNode

from qwen_rerank_plugins import OverloadedError, PairScore
from tests.doubles import FakeScorer
from tests.integrations.llama_index.nodes import faked


class Marked(NodeWithScore):
    """A user's own class."""

    mark: str = ""


class Declaring(NodeWithScore):
    """A user's own class, with some of the fields that a reranking sets."""

    rerank_status: str = ""
    first_stage_score: float | None = None


class Derived(RerankedNode):
    """A user's own class with all of them."""


class Page(TextNode):
    """A user's own class of the node itself."""

    number: int = 0


def test_a_node_of_a_class_of_its_own_comes_back_as_that_class() -> None:
    node = Marked(node=TextNode(text="0.5"), score=3.0, mark="mine")
    (given,) = faked().postprocess_nodes([node], query_str="q")
    assert isinstance(given, Marked)
    assert (given.mark, given.score, node.score) == ("mine", 0.5, 3.0)


@pytest.mark.parametrize("kind", [NodeWithScore, RerankedNode, Marked, Declaring, Derived])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_node_of_any_class_carries_the_whole_outcome(kind: Any, *, asynchronous: bool) -> None:
    outcome = PairScore(0.5, 0.25, truncated=True, query_truncated=True, span=(2, 7))
    reranker = faked(FakeScorer(lambda _: outcome), metadata_mode="none")
    node = kind(node=Page(text="a field of wheat", number=7), score=3.0)
    before = node.model_copy(deep=True)
    run: Any = reranker.apostprocess_nodes if asynchronous else reranker.postprocess_nodes
    found = run([node], query_str="q")
    given = (asyncio.run(found) if asynchronous else found)[0]
    assert isinstance(given, kind)
    assert given.node is node.node
    for again in (given, given.model_copy(), copy.deepcopy(given)):
        assert (again.score, again.rerank_log_odds) == (0.5, 0.25)
        assert again.rerank_truncated is again.rerank_query_truncated is True
        assert (again.rerank_passage, again.rerank_passage_span) == ("field", (2, 7))
        assert (again.rerank_status, again.rerank_error, again.rerank_model) == ("ranked", None, "fake")
    expected = (
        None if issubclass(kind, RerankedNode) else 3.0
    )  # a RerankedNode brings its first_stage_score along
    assert given.first_stage_score == expected
    assert node == before
    assert given.to_dict()["score"] == 0.5


@pytest.mark.parametrize("kind", [NodeWithScore, Marked, Declaring, Derived])
@pytest.mark.parametrize(
    ("settings", "mark"),
    [
        ({"enabled": False}, ("disabled", None)),
        ({"on_error": "keep_order"}, ("failed", "OverloadedError: full")),
    ],
)
def test_a_node_of_any_class_says_why_it_was_not_scored(
    kind: Any, settings: dict[str, Any], mark: tuple[str, str | None]
) -> None:
    scored = FakeScorer(lambda _: PairScore(0.5, 2.0))
    ranked = faked(scored).postprocess_nodes([kind(node=TextNode(text="x"), score=3.0)], query_str="q")
    reranker = faked(FakeScorer(error=OverloadedError("full")), **settings)
    given: Any = reranker.postprocess_nodes(ranked, query_str="q")[0]
    assert (given.rerank_status, given.rerank_error) == mark
    assert (given.score, given.rerank_log_odds) == (0.5, None), "the outcome of an earlier call is left"


def test_a_second_reranking_of_a_class_of_its_own_keeps_the_first_stages_score() -> None:
    node = Marked(node=TextNode(text="0.5"), score=3.0)
    once = faked().postprocess_nodes([node], query_str="q")
    twice: Any = faked().postprocess_nodes(once, query_str="q")[0]
    assert (twice.score, twice.first_stage_score) == (0.5, 3.0)


def test_fields_that_a_class_declares_are_serialized() -> None:
    nodes: list[NodeWithScore] = [Declaring(node=TextNode(text="0.5"), score=3.0)]
    given: Any = faked().postprocess_nodes(nodes, query_str="q")[0]
    written = given.to_dict()
    assert (written["rerank_status"], written["first_stage_score"]) == ("ranked", 3.0)
    loaded = pickle.loads(pickle.dumps(given))  # noqa: S301 (our own)
    assert (loaded.rerank_status, loaded.first_stage_score) == ("ranked", 3.0)
