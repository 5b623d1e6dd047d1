"""From LangChain documents to the texts that are scored, and from a ranking back to documents.

Pure functions over documents and ranked lists: no model, no settings, no callbacks. Documents that come in are never
changed; what goes out are copies of the same class with the same `id` and fields, and a metadata dictionary of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document

from qwen_rerank_plugins import InputTypeError, RankedDocument, RerankResult
from qwen_rerank_plugins.wrapping import FIRST_STAGE_SCORE, ranked_metadata, unranked_metadata

SCORE = "relevance_score"

Candidate = str | Mapping[str, Any] | Document
"""What `rerank` takes: a text, a mapping with `text` or `page_content`, or a document."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Documents and what is scored of each.

    Attributes:
        documents: As they came.
        texts: What is scored: the content, with named metadata fields before it.
        offsets: Where the content begins in each text, in characters.
    """

    documents: tuple[Document, ...]
    texts: list[str]
    offsets: list[int]

    @classmethod
    def of(cls, documents: Iterable[Document], fields: Sequence[str]) -> Candidates:
        """Collect documents and write out the text of each.

        Raises:
            InputTypeError: They are a single document, no iterable, or hold something else; names the index.
        """
        collected = _collected(documents)
        texts: list[str] = []
        offsets: list[int] = []
        for index, document in enumerate(collected):
            if not isinstance(document, Document):
                kind = type(document).__name__
                raise InputTypeError(f"documents[{index}] has the wrong type: {kind}; allowed: a Document")
            prefix = _prefix(document.metadata, fields)
            texts.append(prefix + document.page_content)
            offsets.append(len(prefix))
        return cls(collected, texts, offsets)

    def ranked(self, result: RerankResult) -> list[Document]:
        """Copy the documents that a ranking gives, in its order, with what it tells in their metadata."""
        if result.status != "ranked":
            return [_marked(self.documents[one.index], result) for one in result.results]
        return [_scored(self.documents[one.index], one, self.offsets[one.index]) for one in result.results]


def candidate_texts(candidates: Iterable[Candidate], fields: Sequence[str]) -> list[str]:
    """Write out the text of each candidate.

    Raises:
        InputTypeError: They are a single one, no iterable, or hold something else; names the index.
    """
    return [
        _candidate_text(one, fields, f"documents[{index}]")
        for index, one in enumerate(_collected(candidates))
    ]


def _collected(documents: Iterable[Any]) -> tuple[Any, ...]:
    """Collect an iterable; a document iterates over its own fields, so a single one is refused by name."""
    single = isinstance(documents, str | bytes | Mapping | Document)
    if single or not isinstance(documents, Iterable):
        kind = type(documents).__name__
        raise InputTypeError(f"documents has the wrong type: {kind}; allowed: a list of documents")
    return tuple(documents)


def _candidate_text(candidate: Any, fields: Sequence[str], place: str) -> str:
    if isinstance(candidate, str):
        return candidate
    if isinstance(candidate, Document):
        return _prefix(candidate.metadata, fields) + candidate.page_content
    if not isinstance(candidate, Mapping):
        kind = type(candidate).__name__
        raise InputTypeError(
            f"{place} has the wrong type: {kind}; allowed: a string, a mapping or a Document"
        )
    text = candidate.get("text", candidate.get("page_content"))
    if not isinstance(text, str):
        raise InputTypeError(f"{place} has no text: {sorted(candidate)!r}; allowed: 'text' or 'page_content'")
    return _prefix(candidate, fields) + text


def _prefix(metadata: Mapping[str, Any], fields: Sequence[str]) -> str:
    """The named fields that a document has, one `name: value` a line, and a blank line; else nothing."""
    present = [(name, metadata.get(name)) for name in fields]
    lines = [f"{name}: {value}\n" for name, value in present if value is not None and value != ""]
    return "".join(lines) + "\n" if lines else ""


def _scored(document: Document, ranked: RankedDocument, offset: int) -> Document:
    """Copy a document with its score; the first score that it ever came with is kept under another key."""
    metadata = ranked_metadata(document.metadata, ranked, document.page_content, offset)
    if SCORE in metadata:
        metadata.setdefault(FIRST_STAGE_SCORE, metadata[SCORE])
    metadata[SCORE] = ranked.relevance_score
    return document.model_copy(update={"metadata": metadata})


def _marked(document: Document, result: RerankResult) -> Document:
    """Copy a document that was not scored: what it came with stands, and a mark says why there is no more."""
    return document.model_copy(update={"metadata": unranked_metadata(document.metadata, result)})
