"""Documents whose content is their score, and rankers over a scorer that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from haystack import Document
from haystack_integrations.components.rankers.qwen_rerank import QwenReranker

from qwen_rerank_plugins import Reranker
from tests.doubles import FakeScorer


def some_documents(
    *contents: str, scores: Sequence[float | None] | None = None, **fields: Any
) -> list[Document]:
    """Documents with ids d0, d1, ..., and the given first scores, else none."""
    first = scores or [None] * len(contents)
    return [
        Document(content=content, id=f"d{index}", score=score, **fields)
        for index, (content, score) in enumerate(zip(contents, first, strict=True))
    ]


def faked(scorer: FakeScorer | None = None, *, own: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A ranker whose scores are the numbers in the contents; `own` are the component's own parameters."""
    return QwenReranker(reranker=Reranker(scorer=scorer or FakeScorer(), **settings), **(own or {}))


def ids(documents: Sequence[Document]) -> list[str]:
    """The documents' ids, in order."""
    return [one.id for one in documents]


def asked(scorer: FakeScorer) -> list[str]:
    """The texts of all requests to a scorer."""
    return [str(request.document) for requests, _ in scorer.calls for request in requests]
