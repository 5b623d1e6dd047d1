"""With `metadata_fields`, the same document has the same text and the same score in every framework."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from haystack import Document as HaystackDocument
from haystack_integrations.components.rankers.qwen_rerank import QwenReranker
from langchain_core.documents import Document
from langchain_qwen_rerank import QwenRerank
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.qwen_rerank import QwenRerank as Postprocessor

from qwen_rerank_plugins import PairScore, Reranker, ScoreRequest
from tests.doubles import FakeScorer

QUERY = "how do I remove limescale from a kettle?"
CONTENTS = (
    "Boil vinegar and water in the kettle.",
    "  Night trains run to Vienna.\n",
    "",
    "水壶里的水垢用醋煮开。",
)
METADATA: tuple[dict[str, Any], ...] = (
    {"title": "Kitchen", "year": 1984, "tags": ["kettle", "vinegar"], "other": "never scored"},
    {"title": "Trains", "year": None},
    {"title": "", "year": "  ", "tags": []},
    {"tags": {"place": {"city": "Köln", "floors": [0, -1.5]}, "open": True}, "year": 0},
    {"title": "水垢 ☕ e\u0301", "tags": ("醋", None, "two\nlines")},
    {"title": "{braces} %s \\ 'quotes' \"", "year": dt.date(1984, 5, 1), "tags": False},
    {},
)
FIELDS: tuple[list[str], ...] = (
    ["title", "year", "tags"],
    ["tags", "title"],
    ["year", "missing", "title", "tags"],
    ["missing"],
    [],
)

CASES = [(content, metadata) for metadata in METADATA for content in CONTENTS]


def langchain(reranker: Reranker, fields: list[str]) -> dict[str, float]:
    wrapper = QwenRerank(reranker=reranker, metadata_fields=fields)
    documents = [
        Document(content, id=str(n), metadata=metadata) for n, (content, metadata) in enumerate(CASES)
    ]
    found = wrapper.compress_documents(documents, QUERY)
    return {str(one.id): one.metadata["rerank_log_odds"] for one in found}


def llama_index(reranker: Reranker, fields: list[str]) -> dict[str, float]:
    """The templates and excluded keys of a node say what the framework embeds, not what is scored here."""
    wrapper = Postprocessor(reranker=reranker, metadata_fields=fields)
    nodes = [
        NodeWithScore(
            node=TextNode(
                text=content,
                id_=str(n),
                metadata=metadata,
                metadata_template="[{key}] {value}",
                metadata_separator=" | ",
                text_template="{content} ({metadata_str})",
                excluded_embed_metadata_keys=["title"],
            )
        )
        for n, (content, metadata) in enumerate(CASES)
    ]
    found: Sequence[Any] = wrapper.postprocess_nodes(nodes, query_str=QUERY)
    return {one.node_id: one.rerank_log_odds for one in found}


def haystack(reranker: Reranker, fields: list[str]) -> dict[str, float]:
    wrapper: Any = QwenReranker(reranker=reranker, metadata_fields=fields)
    documents = [
        HaystackDocument(content=content, id=str(n), meta=metadata)
        for n, (content, metadata) in enumerate(CASES)
    ]
    found = wrapper.run(query=QUERY, documents=documents)["documents"]
    return {one.id: one.meta["rerank_log_odds"] for one in found}


FRAMEWORKS: tuple[Callable[[Reranker, list[str]], dict[str, float]], ...] = (langchain, llama_index, haystack)


class RecordingScorer(FakeScorer):
    """Scores with the demo model, without any cache, and records what it is asked."""

    def __init__(self, demo: Reranker) -> None:
        super().__init__()
        self._demo = demo

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: str = "interactive",
    ) -> list[PairScore]:
        self.calls.append((list(requests), deadline_s))
        result = self._demo.rank(requests[0].query, [request.document for request in requests])
        return list(result.scores)

    def texts(self) -> list[list[str]]:
        return [[request.document for request in requests] for requests, _ in self.calls]


@pytest.fixture(scope="module")
def demo() -> Iterator[Reranker]:
    with Reranker(model="demo", device="cpu", dtype="float32", cache_entries=0) as reranker:
        yield reranker


@pytest.mark.parametrize("fields", FIELDS, ids=", ".join)
def test_the_same_document_has_the_same_text_and_score_in_every_framework(
    demo: Reranker, fields: list[str]
) -> None:
    scorer = RecordingScorer(demo)
    reranker = Reranker(scorer=scorer)
    first, *others = (run(reranker, fields) for run in FRAMEWORKS)
    assert len(first) == len(CASES)
    assert scorer.texts() == [scorer.texts()[0]] * len(FRAMEWORKS)
    assert [[other[key] for key in first] for other in others] == [list(first.values())] * len(others)


def test_metadata_changes_the_text_and_the_score(demo: Reranker) -> None:
    """Without this, wrappers that all ignore `metadata_fields` would pass."""
    scorer = RecordingScorer(demo)
    reranker = Reranker(scorer=scorer)
    for run in FRAMEWORKS:
        scorer.calls.clear()
        with_title, without = run(reranker, ["title"]), run(reranker, [])
        assert [text.startswith("title: ") for text in scorer.texts()[0]] == [
            bool(metadata.get("title")) for _, metadata in CASES
        ]
        assert scorer.texts()[1] == [content for content, _ in CASES]
        assert with_title["0"] != without["0"]
