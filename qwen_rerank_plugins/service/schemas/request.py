"""Types shared by all dialects: the request to rank and the outcome to render.

A dialect converts the JSON value of a body into a `RankingRequest`. The app ranks it, and the request's `render`
converts the `Outcome` into the JSON value of the answer. Nothing here knows HTTP, keys or queues.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qwen_rerank_plugins.types import RerankResult

__all__ = ["Outcome", "RankingRequest", "Route"]


class Route(enum.StrEnum):
    """Kind of address. On RERANK addresses the body determines the dialect."""

    RERANK = "rerank"
    SCORE = "score"
    DASHSCOPE = "dashscope"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of ranking a request.

    Attributes:
        results: One ranked list per query, in the order of the queries, with `scores` for every document.
        model: Name of the model.
        request_id: The request id, as in the answer's header.
        created_s: Unix time in whole seconds.
    """

    results: Sequence[RerankResult]
    model: str
    request_id: str
    created_s: int


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """A request, independent of its dialect.

    Attributes:
        dialect: Name of the dialect, from a fixed set, for logs and metrics.
        queries: At least one query.
        documents: One list of texts per query; a text may be empty, a list may not.
        render: Returns the answer in the dialect as plain JSON types, with scores rounded by `wire_number`.
        top_n: Maximum length of each ranked list; None for all documents.
        instruction: Definition of relevance; None for the default.
        model: Name of the requested model, or None.
        allow_truncation: Whether documents may be truncated; if False, a truncated document is an error.
    """

    dialect: str
    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]
    render: Callable[[Outcome], Any]
    top_n: int | None = None
    instruction: str | None = None
    model: str | None = None
    allow_truncation: bool = True

    @property
    def num_pairs(self) -> int:
        """Number of pairs to score."""
        return sum(map(len, self.documents))
