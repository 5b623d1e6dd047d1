"""Parts of answers: scores, details of pairs, usage. Knows no dialect.

An answer is a plain dictionary, whose `TypedDict` is its schema and is checked statically. The order is that of the
result, determined by unrounded scores. Scores are rounded for JSON, since OpenSearch's built-in connector functions cast
a score to `Double` and an index to `Integer`: its JSON parser returns an `Integer` for a literal without point or
exponent, and a `BigDecimal` for one with more than 18 characters, and either fails the whole search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, Literal, NotRequired, TypeVar, cast

from pydantic import Field
from typing_extensions import TypedDict

from qwen_rerank_plugins.errors import NonFiniteScoreError
from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.types import PairScore, RankedDocument, RerankResult

__all__ = [
    "MAX_LITERAL_LENGTH",
    "SIGNIFICANT_DIGITS",
    "AnsweredSpan",
    "Detailed",
    "Details",
    "Index",
    "Natural",
    "Pair",
    "Ranked",
    "Score",
    "Scores",
    "Status",
    "TotalUsage",
    "Usage",
    "detailed",
    "details",
    "in_input_order",
    "pairs",
    "ranked",
    "score_of",
    "scores",
    "status",
    "usage",
    "wire_number",
]

T = TypeVar("T")

SIGNIFICANT_DIGITS: Final = 12
"""More digits than fp32 has, with room for sign, point, zeros and a two-digit exponent."""

MAX_LITERAL_LENGTH: Final = 18
"""Longest literal that json-smart 2.5.2 parses as a `Double`."""

Natural = Annotated[int, Field(ge=0)]
Index = Annotated[int, Field(ge=0, description="Position in the documents of the request, from 0.")]
Score = Annotated[
    float | None,
    Field(
        description="Probability of relevance, or log-odds if raw scores were requested; null if unscored."
    ),
]
Scores = Annotated[
    list[float],
    Field(description="One score per document, in input order, independent of `top_n`; empty if unscored."),
]


class Details(TypedDict):
    """Details of a pair in addition to its score."""

    log_odds: Annotated[float | None, Field(description="Logit of the probability, which does not saturate.")]
    truncated: Annotated[bool, Field(description="The document was truncated.")]
    query_truncated: Annotated[bool, Field(description="The query was truncated.")]
    span: Annotated[
        Annotated[list[Natural], Field(min_length=2, max_length=2)] | None,
        Field(description="Start and end of the best passage, in characters of the ranked text."),
    ]
    warnings: NotRequired[
        Annotated[list[str], Field(description="What was wrong with the pair's texts; absent if nothing.")]
    ]


class Pair(Details):
    """Everything about one document, with `return_pairs`, in input order."""

    index: Index
    relevance_score: float
    num_tokens: Natural


class Ranked(TypedDict, Generic[T]):
    """One ranked document, with its echo on request."""

    index: Index
    relevance_score: Score
    document: NotRequired[T]


class AnsweredSpan(TypedDict):
    """A relevant part of a document, with the score of its text alone."""

    start: Annotated[int, Field(ge=0, description="Its first code point in the ranked text.")]
    end: Annotated[int, Field(ge=0, description="The position after its last code point.")]
    score: Annotated[float, Field(description="Probability of relevance.")]
    log_odds: Annotated[float | None, Field(description="Logit of the probability.")]


class Detailed(Details, Ranked[T], Generic[T]):
    """One ranked document, with its details."""

    relevant_spans: NotRequired[
        Annotated[list[AnsweredSpan], Field(description="Best first; absent if not requested.")]
    ]


class TotalUsage(TypedDict):
    """Tokens of all pairs."""

    total_tokens: Natural


class Usage(TotalUsage):
    """Tokens of all pairs, in the format of OpenAI's API."""

    prompt_tokens: Natural


class Status(TypedDict):
    """What holds for a whole answer."""

    status: NotRequired[
        Annotated[
            Literal["disabled", "failed"],
            Field(description="Ranking is disabled, or failed and the input order was kept."),
        ]
    ]
    calibrated: NotRequired[
        Annotated[
            bool,
            Field(
                description="Whether the probabilities are calibrated; false for an instruction without a fit. Absent if "
                "the service has no calibration."
            ),
        ]
    ]


def wire_number(value: float) -> float:
    """Round a score so that its JSON literal has a point or an exponent and at most 18 characters.

    Valid for magnitudes below 1e14. Twelve significant digits are kept, or eleven for a negative number with a
    three-digit exponent. Rounding never changes the order of two scores, but may make them equal.

    Raises:
        NonFiniteScoreError: The score is NaN or infinite, which JSON cannot represent.
    """
    if not math.isfinite(value):
        raise NonFiniteScoreError(f"a score is not finite: {value!r}")
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    # json writes floats with float.__repr__.
    if len(repr(rounded)) > MAX_LITERAL_LENGTH:
        rounded = float(f"{value:.{SIGNIFICANT_DIGITS - 1}g}")
    return rounded


def score_of(scored: RankedDocument | PairScore, *, raw: bool = False) -> float | None:
    """Return the probability, or with `raw` the log-odds; None if unscored.

    Raises:
        BodyError: Log-odds are requested, and the scorer does not return them.
    """
    value = scored.relevance_score
    if raw and value is not None:
        value = scored.log_odds
        if value is None:
            message = "raw scores are not available: the scorer returns no log-odds; request probabilities"
            raise BodyError(message)
    return None if value is None else wire_number(value)


def details(scored: RankedDocument | PairScore) -> Details:
    """Return the details of a pair in addition to its score."""
    found: Details = {
        "log_odds": None if scored.log_odds is None else wire_number(scored.log_odds),
        "truncated": scored.truncated,
        "query_truncated": scored.query_truncated,
        "span": None if scored.span is None else list(scored.span),
    }
    if scored.warnings:
        found["warnings"] = list(scored.warnings)
    return found


def in_input_order(results: Sequence[RerankResult]) -> list[RankedDocument]:
    """Return all documents of results that are not limited by `top_n`, in input order, also those without scores."""
    return [one for result in results for one in sorted(result.results, key=lambda ranked: ranked.index)]


def ranked(result: RerankResult, echo: Callable[[RankedDocument], T] | None) -> list[Ranked[T]]:
    """Return the ranked documents, best first.

    Args:
        result: The result.
        echo: Returns what is echoed of a document; None for no echo.
    """
    entries: list[Ranked[T]] = []
    for one in result.results:
        entry: Ranked[T] = {"index": one.index, "relevance_score": score_of(one)}
        if echo is not None:
            entry["document"] = echo(one)
        entries.append(entry)
    return entries


def detailed(ranked: RankedDocument, scores: Sequence[float], *, with_spans: bool) -> Detailed[Any]:
    """Return a ranked document with its details, without an echo.

    Args:
        ranked: The document.
        scores: The score of every document, in input order; empty if unscored.
        with_spans: Whether to add its relevant spans, which may be none.
    """
    score = scores[ranked.index] if scores else None
    found = cast(Detailed[Any], {"index": ranked.index, "relevance_score": score, **details(ranked)})
    if with_spans:
        found["relevant_spans"] = [
            {
                "start": span.start,
                "end": span.end,
                "score": wire_number(span.relevance_score),
                "log_odds": None if span.log_odds is None else wire_number(span.log_odds),
            }
            for span in ranked.spans
        ]
    return found


def scores(result: RerankResult, *, raw: bool = False) -> list[Any]:
    """Return one number per document, in input order, independent of `top_n`."""
    return [score_of(score, raw=raw) for score in result.scores]


def pairs(result: RerankResult) -> list[Pair]:
    """Return the details of every document, in input order, with probabilities as scores."""
    return [
        {
            "index": index,
            "relevance_score": wire_number(score.relevance_score),
            **details(score),
            "num_tokens": score.num_tokens,
        }
        for index, score in enumerate(result.scores)
    ]


def status(results: Sequence[RerankResult]) -> Status:
    """Return the `status` of an answer without scores, or whether the scores are calibrated, or nothing."""
    for one in results:
        if one.status != "ranked":
            return {"status": one.status}
        if one.calibrated is not None:
            return {"calibrated": one.calibrated}
    return {}


def usage(results: Sequence[RerankResult]) -> Usage:
    """Return the tokens of all pairs."""
    tokens = sum(result.usage.num_tokens for result in results)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
