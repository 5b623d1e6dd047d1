"""From Haystack's documents to the texts that are scored, and from a ranking back to documents.

Pure functions over documents and ranked lists: no model, no settings, no pipeline. Documents that come in are never
changed; what goes out are copies of the same class with the same `id`, and a `meta` of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from haystack import Document

from qwen_rerank_plugins import InputTypeError, RankedDocument, RerankResult
from qwen_rerank_plugins.wrapping import FIRST_STAGE_SCORE, ranked_metadata, unranked_metadata


@dataclass(frozen=True, slots=True)
class Candidates:
    """Documents and what is scored of each.

    Attributes:
        documents: As they came, each id once.
        texts: What is scored: the content, with the values of named meta fields before it.
        offsets: Where the content begins in each text, in characters.
    """

    documents: list[Document]
    texts: list[str]
    offsets: list[int]

    @classmethod
    def of(cls, documents: Iterable[Document], fields: Sequence[str], separator: str) -> Candidates:
        """Collect documents and write out the text of each.

        Raises:
            InputTypeError: They are a single document, no iterable, or hold something else; names the index.
        """
        unique = _without_duplicates(_collected(documents))
        prefixes = [_prefix(one.meta, fields, separator) for one in unique]
        texts = [prefix + (one.content or "") for prefix, one in zip(prefixes, unique, strict=True)]
        return cls(unique, texts, [len(prefix) for prefix in prefixes])

    def ranked(self, result: RerankResult) -> list[Document]:
        """Copy the documents that a ranking gives, in its order, with what it tells in score and meta."""
        if result.status != "ranked":
            return [_marked(self.documents[one.index], result) for one in result.results]
        return [_scored(self.documents[one.index], one, self.offsets[one.index]) for one in result.results]


def _collected(documents: object) -> list[Document]:
    if isinstance(documents, str | bytes | Mapping | Document) or not isinstance(documents, Iterable):
        kind = type(documents).__name__
        raise InputTypeError(f"documents has the wrong type: {kind}; allowed: a list of Document")
    collected = list(documents)
    for index, document in enumerate(collected):
        if not isinstance(document, Document):
            kind = type(document).__name__
            raise InputTypeError(f"documents[{index}] has the wrong type: {kind}; allowed: a Document")
    return collected


def _without_duplicates(documents: Iterable[Document]) -> list[Document]:
    """Keep one document an id, at its first place: the best scored, as Haystack's own rankers do."""
    kept: dict[str, Document] = {}
    for document in documents:
        other = kept.get(document.id)
        if other is None or _first_score(document) > _first_score(other):
            kept[document.id] = document
    return list(kept.values())


def _first_score(document: Document) -> float:
    return float("-inf") if document.score is None else document.score


def _prefix(meta: Mapping[str, Any], fields: Sequence[str], separator: str) -> str:
    """The values of the named fields that a document has, each with the separator after it."""
    values = [meta.get(name) for name in fields]
    return "".join(f"{value}{separator}" for value in values if value is not None and value != "")


def _scored(document: Document, ranked: RankedDocument, offset: int) -> Document:
    """Copy a document with its score; the first score that it ever came with is kept in its meta."""
    meta = ranked_metadata(document.meta, ranked, document.content or "", offset)
    if document.score is not None:
        meta.setdefault(FIRST_STAGE_SCORE, document.score)
    return replace(document, score=ranked.relevance_score, meta=meta)


def _marked(document: Document, result: RerankResult) -> Document:
    """Copy a document that was not scored: its score stands, and a mark says why there is no new one."""
    return replace(document, meta=unranked_metadata(document.meta, result))
