"""The contracts between the rooms: what goes into a scorer, what comes out, and what a user gets.

Nothing here computes. Texts are Python strings, spans are character offsets into the caller's own string,
scores are Python floats. A probability is `sigmoid(log_odds)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
    "Document",
    "PairScore",
    "RankedDocument",
    "RerankResult",
    "ScoreRequest",
    "Scorer",
    "Span",
    "Usage",
]

Document = str | Mapping[str, Any]
"""A text, or a mapping whose `text` is scored and whose other keys travel along."""

Span = tuple[int, int]
"""Start and end (exclusive) of a passage, in characters of the original string."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One query-document pair to be scored.

    Attributes:
        query: What is searched for.
        document: The text to be judged; may be empty.
        instruction: What relevance means here; None takes the scorer's default.
    """

    query: str
    document: str
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class PairScore:
    """The score of one pair.

    Attributes:
        relevance_score: Probability in [0, 1] that the document is relevant.
        log_odds: Its logit, which does not saturate; None from a service that does not tell.
        truncated: The document was cut (never set when all of it was read in chunks).
        query_truncated: The query was cut.
        span: The best chunk's place in the document when it was read in chunks, else None.
        num_tokens: Tokens of the pair as the plain recipe would count them; 0 if unknown.
        cached: The score came from the score cache.
    """

    relevance_score: float
    log_odds: float | None = None
    truncated: bool = False
    query_truncated: bool = False
    span: Span | None = None
    num_tokens: int = 0
    cached: bool = False


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranked result.

    Attributes:
        index: Position in the documents that were passed in, from 0.
        document: The very object that was passed in.
        relevance_score: Probability in [0, 1]; None where nothing was scored (see `RerankResult.status`).
        log_odds: The probability's logit, or None.
        truncated: The document was cut to fit.
        query_truncated: The query was cut to fit.
        span: The best passage's place in the document's text, when it was read in chunks.
    """

    index: int
    document: Document
    relevance_score: float | None
    log_odds: float | None = None
    truncated: bool = False
    query_truncated: bool = False
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost.

    Attributes:
        num_pairs: Pairs that were asked for.
        num_tokens: Tokens of all pairs as the plain recipe would count them.
        num_cached_pairs: Pairs whose score came from the score cache.
    """

    num_pairs: int = 0
    num_tokens: int = 0
    num_cached_pairs: int = 0


@dataclass(frozen=True, slots=True)
class RerankResult:
    """A ranked list.

    Attributes:
        query: The query as it was passed in.
        results: Best first, after threshold and cut; ties keep the input's order.
        scores: One score a document, in input order, whatever was cut; empty unless `status` is "ranked".
        model: The model that scored.
        usage: Pairs and tokens.
        status: "ranked"; "disabled" (switched off) or "failed" (scoring failed and `on_error` is "keep_order"):
            then `results` holds the first documents in the order they came, without scores.
        error: Why scoring failed, when `status` is "failed".
    """

    query: str
    results: tuple[RankedDocument, ...]
    scores: tuple[PairScore, ...] = ()
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    status: Literal["ranked", "disabled", "failed"] = "ranked"
    error: str | None = None


@runtime_checkable
class Scorer(Protocol):
    """Anything that can score pairs: the local model, a remote service, a lexical double.

    A scorer keeps the order and the number of its requests, never changes its input, is safe to call from
    several threads, and raises only `RerankError`s for what can go wrong in use.
    """

    @property
    def model(self) -> str:
        """The name under which scores are reported."""

    def score(self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None) -> list[PairScore]:
        """Score every pair, in input order.

        Args:
            requests: The pairs; an empty sequence gives an empty list.
            deadline_s: Seconds from now after which the result is worthless; None for the scorer's own.
        """

    async def ascore(
        self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None
    ) -> list[PairScore]:
        """Score every pair without blocking the event loop."""

    def info(self) -> dict[str, Any]:
        """What is loaded, as plain JSON types: model, device, dtype, limits, cache figures."""

    def close(self) -> None:
        """Release what is held; later calls raise `ClosedError`. Closing twice is fine."""
