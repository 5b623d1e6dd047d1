"""From LangChain documents to the texts that are scored, and from a ranking back to documents.

Knows no settings and no callbacks. Documents that come in are never changed; the results are copies of the same class
with the same `id` and fields, and their own metadata dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document

from qwen_rerank_plugins import InputTypeError, RankedDocument, RerankResult
from qwen_rerank_plugins.adapters import (
    Candidates,
    OwnsRerankerModel,
    clipped,
    collect_documents,
    render_metadata,
    reranked_metadata,
)

SCORE = "relevance_score"

Candidate = str | Mapping[str, Any] | Document
"""What `rerank` accepts: a text, a mapping with `text` or `page_content`, or a document."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """The outcome of one call.

    Attributes:
        documents: Copies of the documents, best first.
        result: The ranking that they follow.
    """

    documents: list[Document]
    result: RerankResult

    def outputs(self) -> dict[str, Any]:
        """Return what a trace shows."""
        shown = {"documents": self.documents, "model": self.result.model, "status": self.result.status}
        return shown if self.result.error is None else {**shown, "error": self.result.error}


def rank_documents(
    wrapper: OwnsRerankerModel, documents: Iterable[Document], query: str, options: Mapping[str, Any]
) -> Reranked:
    """Rank documents with the options of one call.

    Raises:
        InputError: The input cannot be ranked.
        RerankError: Scoring failed, and `on_error` is "raise".
    """
    candidates = _render(documents, wrapper.metadata_fields or ())
    result = wrapper.reranker.rank(query, candidates.texts, spans=wrapper.requested_spans, **options)
    return _reranked(wrapper, candidates, result)


async def arank_documents(
    wrapper: OwnsRerankerModel, documents: Iterable[Document], query: str, options: Mapping[str, Any]
) -> Reranked:
    """Rank documents as `rank_documents` does, without blocking the event loop."""
    candidates = _render(documents, wrapper.metadata_fields or ())
    spans = wrapper.requested_spans
    result = await wrapper.reranker.arank(query, candidates.texts, spans=spans, **options)
    return _reranked(wrapper, candidates, result)


def render_candidates(candidates: Iterable[Candidate], fields: Sequence[str]) -> list[str]:
    """Render the text of each candidate.

    Raises:
        InputTypeError: They are not an iterable of candidates; the message names the index of the first wrong item.
    """
    return [
        _render_candidate(one, fields, f"documents[{index}]")
        for index, one in enumerate(collect_documents(candidates, (str, Mapping, Document)))
    ]


def _render_candidate(candidate: Candidate, fields: Sequence[str], place: str) -> str:
    if isinstance(candidate, str):
        return candidate
    if isinstance(candidate, Document):
        return render_metadata(candidate.metadata, fields) + candidate.page_content
    text = candidate.get("text", candidate.get("page_content"))
    if not isinstance(text, str):
        found = sorted(map(str, candidate))
        raise InputTypeError(f"{place} has no text: {found!r}. Add a string under 'text' or 'page_content'.")
    return render_metadata(candidate, fields) + text


def _render(documents: Iterable[Document], fields: Sequence[str]) -> Candidates[Document]:
    return Candidates.render(
        collect_documents(documents, Document),
        lambda one: (render_metadata(one.metadata, fields), one.page_content),
    )


def _reranked(wrapper: OwnsRerankerModel, candidates: Candidates[Document], result: RerankResult) -> Reranked:
    return Reranked([_copy(wrapper, candidates, one, result) for one in result.results], result)


def _copy(
    wrapper: OwnsRerankerModel,
    candidates: Candidates[Document],
    ranked: RankedDocument,
    result: RerankResult,
) -> Document:
    document, offset = candidates.documents[ranked.index], candidates.offsets[ranked.index]
    excerpt = wrapper.excerpt(ranked, document.page_content, lambda span: clipped(span, offset))
    metadata = reranked_metadata(
        document.metadata,
        ranked,
        result,
        content=document.page_content,
        offset=offset,
        first_stage_score=document.metadata.get(SCORE),
        excerpt=excerpt,
    )
    if ranked.relevance_score is not None:
        metadata[SCORE] = ranked.relevance_score
    shorter = {} if excerpt is None or excerpt.text is None else {"page_content": excerpt.text}
    return document.model_copy(update={"metadata": metadata, **shorter})
