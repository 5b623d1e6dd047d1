"""What every dialect comes down to: lists to be ranked, and how to write the answer.

A dialect turns a request's JSON value into an `RankingRequest`; the app ranks what it asks for, and the exchange turns the
`Outcome` into the JSON value of the answer. Nothing here knows HTTP, keys or queues.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.types import RerankResult

__all__ = ["BodyError", "Outcome", "RankingRequest", "Route"]


class BodyError(InputError):
    """A request's body is not what its dialect takes; the message names the place and holds no text of the caller's.

    Attributes:
        status: 400 for what no dialect could take (no JSON object, nothing to rank), 422 for a wrong value.
    """

    def __init__(self, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class Route(enum.StrEnum):
    """Which kind of address a request came to; within RERANK the body decides on the dialect."""

    RERANK = "rerank"
    SCORE = "score"
    DASHSCOPE = "dashscope"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What ranking gave.

    Attributes:
        results: One ranked list a query of the exchange, in its order, with `scores` for every document.
        model: The name of the model that scored.
        request_id: The request's id, as the answer's header has it.
        created_s: Unix time in whole seconds.
    """

    results: Sequence[RerankResult]
    model: str
    request_id: str
    created_s: int


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """A request, free of its dialect.

    Attributes:
        dialect: Its name, one of a fixed set, fit for logs and metrics.
        queries: At least one.
        documents: One list of texts a query; a text may be empty, a list may not.
        render: Writes the answer in the dialect, as plain JSON types; scores already rounded for the wire.
        top_n: How many documents each ranked list holds at most; None for all.
        instruction: What relevance means; None for the service's default.
        model: The model's name that was asked for, if any.
        allow_truncation: False when the client wants an error in place of a document that was cut.
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
        """Pairs to be scored."""
        return sum(map(len, self.documents))
