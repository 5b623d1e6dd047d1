"""From Haystack's documents to the texts that are scored, and from a ranking back to documents.

Pure functions over documents and ranked lists: no model, no settings, no pipeline. Documents that come in are never
changed; the results are copies of the same class with the same `id`, and their own `meta`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from haystack import Document

from qwen_rerank_plugins import RankedDocument, RerankResult
from qwen_rerank_plugins.adapters import (
    Candidates,
    SpanParameters,
    clipped,
    collect_documents,
    reranked_metadata,
)


def render_documents(
    documents: Iterable[Document], render_prefix: Callable[[Mapping[str, Any]], str]
) -> Candidates[Document]:
    """Collect documents, one per id, and render the text of each.

    Args:
        documents: The documents.
        render_prefix: Returns the text that precedes the content, from a document's `meta`.

    Raises:
        InputTypeError: They are not an iterable of documents; the message names the index of the first wrong item.
    """
    return Candidates.render(
        _deduplicate(collect_documents(documents, Document)),
        lambda one: (render_prefix(one.meta), one.content or ""),
    )


def render_values(meta: Mapping[str, Any], fields: Sequence[str], separator: str) -> str:
    """Return the values of the named fields that a document has, each followed by the separator, as Haystack does."""
    values = [meta.get(name) for name in fields]
    return "".join(f"{value}{separator}" for value in values if value is not None and value != "")


def reranked_documents(
    candidates: Candidates[Document], result: RerankResult, parameters: SpanParameters
) -> list[Document]:
    """Copy the ranked documents, in the order of the ranking, with their outcome in `score` and `meta`."""
    return [_copy(candidates, one, result, parameters) for one in result.results]


def _deduplicate(documents: Iterable[Document]) -> list[Document]:
    """Keep one document per id, at its first place: the one with the best score, as Haystack's own rankers do."""
    kept: dict[str, Document] = {}
    for document in documents:
        other = kept.get(document.id)
        if other is None or _score(document) > _score(other):
            kept[document.id] = document
    return list(kept.values())


def _score(document: Document) -> float:
    return float("-inf") if document.score is None else document.score


def _copy(
    candidates: Candidates[Document],
    ranked: RankedDocument,
    result: RerankResult,
    parameters: SpanParameters,
) -> Document:
    document, offset = candidates.documents[ranked.index], candidates.offsets[ranked.index]
    excerpt = parameters.excerpt(ranked, document.content or "", lambda span: clipped(span, offset))
    meta = reranked_metadata(
        document.meta,
        ranked,
        result,
        content=document.content or "",
        offset=offset,
        first_stage_score=document.score,
        excerpt=excerpt,
    )
    score = document.score if ranked.relevance_score is None else ranked.relevance_score
    content = document.content if excerpt is None or excerpt.text is None else excerpt.text
    return replace(document, content=content, score=score, meta=meta)
