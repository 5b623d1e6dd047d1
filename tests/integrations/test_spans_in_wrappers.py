"""Relevant spans and context compression are the same in every framework."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from haystack import Document as HaystackDocument
from haystack_integrations.components.rankers.qwen_rerank import QwenReranker
from langchain_core.documents import Document
from langchain_qwen_rerank import QwenRerank
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode
from llama_index.postprocessor.qwen_rerank import QwenRerank as Postprocessor
from llama_index.postprocessor.qwen_rerank import RerankedNode

from qwen_rerank_plugins import ConfigurationError, Reranker, SpanOptions

QUERY = "how is a cat washed"
TEXT = "  Dr. Li has two cats.\r\nA cat is washed in warm water 🐱. 水。 Dogs bark.\n\nTrains run at ten."
SHORT = "[…] A cat is washed in warm water 🐱. […]"
BEST = "A cat is washed in warm water 🐱."
METADATA = {"title": "How a cat is washed", "page": 3}

Found = tuple[str, list[dict[str, Any]], str | None, list[list[int]]]
"""The text, the spans, the original text, the kept parts."""


def langchain(rerank: QwenRerank) -> Found:
    (found,) = rerank.compress_documents([Document(TEXT, metadata=METADATA, id="d")], QUERY)
    (again,) = asyncio.run(rerank.acompress_documents([Document(TEXT, metadata=METADATA, id="d")], QUERY))
    assert again == found
    held = found.metadata
    assert (found.id, held["title"]) == ("d", METADATA["title"])
    return (
        found.page_content,
        held["rerank_spans"],
        held.get("rerank_original_content"),
        held.get("rerank_kept_spans", []),
    )


def haystack(ranker: QwenReranker) -> Found:
    given = HaystackDocument(content=TEXT, meta=METADATA, id="d")
    (found,) = ranker.run(query=QUERY, documents=[given])["documents"]
    (again,) = asyncio.run(ranker.run_async(query=QUERY, documents=[given]))["documents"]
    assert again == found
    assert (found.id, given.content, found.meta["title"]) == ("d", TEXT, METADATA["title"])
    return (
        found.content or "",
        found.meta["rerank_spans"],
        found.meta.get("rerank_original_content"),
        found.meta.get("rerank_kept_spans", []),
    )


def llama_index(postprocessor: Postprocessor) -> Found:
    node = TextNode(text=TEXT, metadata=dict(METADATA), id_="d")
    (found,) = postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    (again,) = asyncio.run(postprocessor.apostprocess_nodes([NodeWithScore(node=node)], query_str=QUERY))
    assert isinstance(found, RerankedNode)
    assert again == found
    assert (found.node_id, node.text, found.metadata) == ("d", TEXT, METADATA)
    spans = found.to_dict()["rerank_spans"]
    return (
        found.text,
        list(spans),
        found.rerank_original_text,
        [list(part) for part in found.rerank_kept_spans],
    )


FRAMEWORKS: dict[str, tuple[Callable[..., Any], Callable[[Any], Found]]] = {
    "haystack": (QwenReranker, haystack),
    "langchain": (QwenRerank, langchain),
    "llama_index": (Postprocessor, llama_index),
}

frameworks = pytest.mark.parametrize("framework", FRAMEWORKS)


@frameworks
@pytest.mark.parametrize("fields", [None, ["title", "page"]])
def test_spans_are_those_of_the_content_whatever_is_scored_with_it(
    framework: str, fields: list[str] | None
) -> None:
    """The title is more relevant than any sentence."""
    create, run = FRAMEWORKS[framework]
    options = SpanOptions(max_spans=2)
    text, spans, original, kept = run(create(backend="lexical", spans=options, metadata_fields=fields))
    assert (text, original, kept) == (TEXT, None, [])
    ranked = Reranker(backend="lexical").rank(QUERY, [TEXT], spans=options).results[0]
    assert spans == [
        {
            "start": one.start,
            "end": one.end,
            "relevance_score": one.relevance_score,
            "log_odds": one.log_odds,
        }
        for one in ranked.spans
    ]
    assert TEXT[spans[0]["start"] : spans[0]["end"]] == BEST


@frameworks
def test_the_text_is_shortened_and_the_whole_of_it_is_kept(framework: str) -> None:
    create, run = FRAMEWORKS[framework]
    options = {"max_spans": 1}
    text, spans, original, kept = run(
        create(backend="lexical", spans=options, compress="spans", context=0, metadata_fields=["title"])
    )
    assert (text, original) == (SHORT, TEXT)
    assert [TEXT[slice(*part)] for part in kept] == [BEST]
    assert [TEXT[one["start"] : one["end"]] for one in spans] == [BEST]


@frameworks
def test_a_copy_and_a_pickle_do_the_same(framework: str) -> None:
    create, run = FRAMEWORKS[framework]
    given = create(backend="lexical", spans=SpanOptions(max_spans=1), compress="spans", context=0)
    copies = [
        pickle.loads(pickle.dumps(given)),  # noqa: S301 (our own)
        given.replace(top_n=3),
        create(**given.to_parameters()),
    ]
    assert [run(one) for one in copies] == [run(given)] * 3
    assert create(backend="lexical").to_parameters().keys() == {"backend"}


@frameworks
def test_without_a_ranking_no_text_is_changed(framework: str) -> None:
    create, _ = FRAMEWORKS[framework]
    wrapper = create(backend="lexical", enabled=False, compress="spans")
    given: dict[str, Any] = {
        "haystack": lambda: (
            wrapper.run(query="q", documents=[HaystackDocument(content=TEXT)])["documents"][0].content
        ),
        "langchain": lambda: wrapper.compress_documents([Document(TEXT)], "q")[0].page_content,
        "llama_index": lambda: (
            wrapper.postprocess_nodes([NodeWithScore(node=TextNode(text=TEXT))], query_str="q")[0].text
        ),
    }
    assert given[framework]() == TEXT


@frameworks
def test_wrong_parameters_are_refused(framework: str) -> None:
    create, _ = FRAMEWORKS[framework]
    with pytest.raises(ConfigurationError, match="compress is not valid: 'words'"):
        create(compress="words")
    with pytest.raises(ConfigurationError, match="context is not valid: -1"):
        create(compress="spans", context=-1)


@pytest.mark.parametrize(
    "node",
    [TextNode(text=TEXT), LlamaDocument(text=TEXT), ImageNode(text=TEXT, image="")],
    ids=lambda one: type(one).__name__,
)
def test_nodes_of_every_class_are_shortened_as_copies(node: TextNode) -> None:
    postprocessor = Postprocessor(
        reranker=Reranker(backend="lexical"), spans=SpanOptions(max_spans=1), compress="spans", context=0
    )
    (found,) = postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    assert type(found.node) is type(node)
    assert (found.node.get_content(), node.get_content()) == (SHORT, TEXT)
    found.node.metadata["new"] = 1
    assert "new" not in node.metadata
