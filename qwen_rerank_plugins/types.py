"""The types that the package shares: a scorer's input and output, and a reranker's result.

Texts are Python strings, spans are character offsets into the caller's string, and
scores are Python floats. A probability is `logistic(log_odds)`, unless a calibration is configured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, overload, runtime_checkable

from qwen_rerank_plugins.errors import InputError, InputTypeError

__all__ = [
    "Document",
    "PairScore",
    "Priority",
    "RankedDocument",
    "RelevantSpan",
    "RerankResult",
    "ScoreRequest",
    "Scorer",
    "Span",
    "SpanOptions",
    "TextLimits",
    "Usage",
]

Document = str | Mapping[str, Any]
"""A text, or a mapping whose `text` is scored and whose other keys are kept."""

Span = tuple[int, int]
"""Start and end (exclusive) of a passage, in characters of the original string."""

Priority = Literal["interactive", "background"]
"""Whether a call comes before or after calls of the other kind where a scorer queues them."""


@dataclass(frozen=True, slots=True)
class TextLimits:
    """Limits of one call in addition to the scorer's; None for no limit. All are integers of at least 1.

    Attributes:
        max_document_tokens: Tokens of a document, without the template. A longer one is truncated.
        max_query_tokens: Tokens of the query, without the template. A longer one is truncated.
        max_length: Tokens of the whole prompt, as in the configuration: only the document is truncated, or is read in
            shorter chunks.
        max_chunks: Chunks of a document that is read in chunks. The rest of the document is left out.

    Raises:
        InputError: A limit is less than 1.
        InputTypeError: A limit is not an integer.
    """

    max_document_tokens: int | None = None
    max_query_tokens: int | None = None
    max_length: int | None = None
    max_chunks: int | None = None

    def __post_init__(self) -> None:
        for name in (one.name for one in fields(self)):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputTypeError(f"`{name}` must be an integer or None, got {value!r}")
            if value < 1:
                raise InputError(f"`{name}` must be at least 1, got {value!r}")


@dataclass(frozen=True, slots=True)
class SpanOptions:
    """Which parts of the returned documents are scored by themselves, and which of them are returned.

    Attributes:
        unit: "sentence"; or "passage", a paragraph, or a window of sentences where a paragraph is long.
        max_spans: Spans per document; None for all.
        threshold: Lowest `relevance_score` of a span, from 0 to 1; None for no threshold.
        max_scored: Spans of all documents of a call; a call with more is refused after its documents were ranked. None
            for no limit.

    Raises:
        InputError: A value is out of range, or the unit is unknown.
        InputTypeError: A value has the wrong type.
    """

    unit: Literal["sentence", "passage"] = "sentence"
    max_spans: int | None = 3
    threshold: float | None = None
    max_scored: int | None = None

    def __post_init__(self) -> None:
        if self.unit not in ("sentence", "passage"):
            raise InputError(f'`unit` must be "sentence" or "passage", got {self.unit!r}')
        for name, value, kind in (
            ("max_spans", self.max_spans, int),
            ("threshold", self.threshold, int | float),
            ("max_scored", self.max_scored, int),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                expected = "an integer" if kind is int else "a number"
                raise InputTypeError(f"`{name}` must be {expected} or None, got {value!r}")
            if kind is int and value is not None and value < 1:
                raise InputError(f"`{name}` must be at least 1, got {value!r}")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:  # false for NaN as well
            raise InputError(f"`threshold` must be from 0 to 1, got {self.threshold!r}")


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One query-document pair to be scored.

    Attributes:
        query: The search query.
        document: The text to score; may be empty.
        instruction: What relevance means; None for the scorer's default.
        limits: Limits in addition to the scorer's, or None.
    """

    query: str
    document: str
    instruction: str | None = None
    limits: TextLimits | None = None


@dataclass(frozen=True, slots=True)
class PairScore:
    """The score of one pair.

    Attributes:
        relevance_score: Probability in [0, 1] that the document is relevant.
        log_odds: Its logit, which does not saturate; None from a service that returns probabilities only.
        truncated: The document was truncated; False where it was scored in chunks.
        query_truncated: The query was truncated.
        span: The best chunk of a document that was scored in chunks, else None.
        num_tokens: Tokens of the pair's whole prompt, prefixes that were reused included; 0 if unknown.
        cached: The score came from the score cache.
        blank: The document is blank and was not sent to the service, which might refuse it. It is ranked last.
        warnings: What was wrong with the pair's texts; fixed sentences, without any text of the
            caller.
        calibrated: Whether the probability is calibrated; None if no calibration is configured.
    """

    relevance_score: float
    log_odds: float | None = None
    truncated: bool = False
    query_truncated: bool = False
    span: Span | None = None
    num_tokens: int = 0
    cached: bool = False
    blank: bool = False
    warnings: tuple[str, ...] = ()
    calibrated: bool | None = None

    @classmethod
    def from_log_odds(cls, log_odds: float, **details: Any) -> PairScore:
        """Return a score whose probability is the logistic function of the log-odds.

        Args:
            log_odds: The logit, finite.
            details: The other attributes.
        """
        return cls(logistic(log_odds), log_odds, **details)


def logistic(log_odds: float) -> float:
    """Return the probability whose logit is `log_odds`, without overflow."""
    power = math.exp(-abs(log_odds))
    return (1.0 if log_odds >= 0 else power) / (1.0 + power)


@dataclass(frozen=True, slots=True)
class RelevantSpan:
    """A part of a document, with the score that its text has by itself.

    Attributes:
        start: Its first character, in code points of the document's text as it was passed in.
        end: The position after its last character.
        relevance_score: Probability in [0, 1] that this text alone is relevant.
        log_odds: The probability's logit; None from a service that returns probabilities only.
    """

    start: int
    end: int
    relevance_score: float
    log_odds: float | None = None


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranked result.

    Attributes:
        index: Position in the input, from 0.
        document: The object that was passed in.
        score: Its score; None if nothing was scored (see `RerankResult.status`).
        spans: Its most relevant spans, best first, if they were requested; ties keep the order of the text.
    """

    index: int
    document: Document
    score: PairScore | None = None
    spans: tuple[RelevantSpan, ...] = ()

    @property
    def text(self) -> str:
        """The document's text: the document itself, or its `text` if it is a mapping."""
        return self.document if isinstance(self.document, str) else str(self.document["text"])

    @property
    def relevance_score(self) -> float | None:
        """Probability in [0, 1] that the document is relevant; None if nothing was scored."""
        return None if self.score is None else self.score.relevance_score

    @property
    def log_odds(self) -> float | None:
        """The probability's logit, or None."""
        return None if self.score is None else self.score.log_odds

    @property
    def truncated(self) -> bool:
        """Whether the document was truncated to fit."""
        return self.score is not None and self.score.truncated

    @property
    def query_truncated(self) -> bool:
        """Whether the query was truncated to fit."""
        return self.score is not None and self.score.query_truncated

    @property
    def span(self) -> Span | None:
        """The best chunk of a document that was scored in chunks, else None."""
        return None if self.score is None else self.score.span

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was wrong with the query, the instruction or the document's text."""
        return () if self.score is None else self.score.warnings

    @property
    def calibrated(self) -> bool | None:
        """Whether the probability is calibrated; None if nothing was scored or no calibration is configured."""
        return None if self.score is None else self.score.calibrated


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of a request. A span that is scored counts as a pair.

    Attributes:
        num_pairs: Pairs in the request.
        num_tokens: Tokens of all pairs' whole prompts, prefixes that were reused included.
        num_cached_pairs: Pairs whose score came from the score cache.
    """

    num_pairs: int = 0
    num_tokens: int = 0
    num_cached_pairs: int = 0


@dataclass(frozen=True, slots=True)
class RerankResult:
    """A ranked list: iteration, `len` and an index read `results`.

    Attributes:
        query: The query that was passed in.
        results: Best first, after `min_score` and `top_n`; ties keep the input's order.
        scores: One score per document, in input order and before `min_score` and `top_n`; empty unless `status` is
            "ranked".
        model: The model that scored.
        usage: Number of pairs and tokens.
        status: "ranked"; or "disabled" (`enabled` is False) or "failed" (scoring failed and `on_error` is
            "keep_order"), with `results` in input order, cut to `top_n` and without scores.
        error: Why scoring failed, if `status` is "failed".
    """

    query: str
    results: tuple[RankedDocument, ...]
    scores: tuple[PairScore, ...] = ()
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    status: Literal["ranked", "disabled", "failed"] = "ranked"
    error: str | None = None

    def __iter__(self) -> Iterator[RankedDocument]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, position: int) -> RankedDocument: ...

    @overload
    def __getitem__(self, position: slice) -> tuple[RankedDocument, ...]: ...

    def __getitem__(self, position: int | slice) -> RankedDocument | tuple[RankedDocument, ...]:
        return self.results[position]

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all scores, each once, in input order."""
        return tuple(dict.fromkeys(warning for score in self.scores for warning in score.warnings))

    @property
    def calibrated(self) -> bool | None:
        """Whether all probabilities are calibrated; None if nothing was scored or no calibration is configured."""
        marks = {score.calibrated for score in self.scores}
        return None if marks <= {None} else marks == {True}


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores pairs: the local model, a remote service, word overlap.

    A scorer returns one score per request in the same order, does not modify its input, is safe to call from
    several threads, and raises `RerankError` for every failure that its users can expect. It may have a method
    `warm_up()`, which computes once without caching a score.
    """

    @property
    def model(self) -> str:
        """The name under which scores are reported."""

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score every pair, in input order.

        Args:
            requests: The pairs; may be empty.
            deadline_s: Seconds from now within which the result is needed; None for no deadline.
            priority: Whether the call comes before or after calls of the other kind; a scorer without a queue
                ignores it.
        """

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score every pair without blocking the event loop."""

    def info(self) -> dict[str, Any]:
        """What is loaded, as plain JSON types: model, device, dtype, limits, cache statistics."""

    def close(self) -> None:
        """Release all resources; later calls raise `ClosedError`, a second `close` does nothing."""
