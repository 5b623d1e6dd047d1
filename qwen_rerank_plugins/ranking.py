"""Turn scores into ranked lists, and into the relevant spans of what is returned.

Pure functions, independent of scorers and settings. `checked_scores` is the one place where probabilities are calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qwen_rerank_plugins.calibration import Calibration
from qwen_rerank_plugins.errors import EngineError, InputError, NonFiniteScoreError
from qwen_rerank_plugins.segmentation import segment
from qwen_rerank_plugins.types import (
    PairScore,
    RankedDocument,
    RelevantSpan,
    RerankResult,
    ScoreRequest,
    Span,
    SpanOptions,
    Usage,
)
from qwen_rerank_plugins.validation import RankInput

__all__ = [
    "MAX_SCORED_SPANS",
    "SpanInput",
    "add_spans",
    "checked_scores",
    "rank_lists",
    "ranked_order",
    "span_input",
    "sum_usage",
    "unscored_lists",
]

MAX_SCORED_SPANS = 512
"""Spans of one document that are scored, from its beginning: many short lines must not multiply a request's cost."""


@dataclass(frozen=True, slots=True)
class SpanInput:
    """The spans of a call's returned documents, all of which are scored together.

    Attributes:
        spans: One list per returned document, list after list.
        requests: One request per span, in this order.
    """

    spans: list[list[Span]]
    requests: list[ScoreRequest]


def checked_scores(
    requests: Sequence[ScoreRequest], scores: list[PairScore], calibration: Calibration | None
) -> list[PairScore]:
    """Return a scorer's scores, calibrated if a calibration is configured, unless they cannot be ranked.

    Raises:
        EngineError: The number of scores differs from the number of pairs.
        NonFiniteScoreError: A probability or its logit is NaN or infinite.
    """
    if len(scores) != len(requests):
        raise EngineError(f"the scorer returned {len(scores)} scores for {len(requests)} pairs")
    for index, score in enumerate(scores):
        log_odds = 0.0 if score.log_odds is None else score.log_odds
        if not (math.isfinite(score.relevance_score) and math.isfinite(log_odds)):
            values = f"{score.relevance_score!r}, {score.log_odds!r}"
            raise NonFiniteScoreError(f"the score of pair {index} is not finite: {values}")
    return scores if calibration is None else calibration.apply(requests, scores)


def rank_lists(given: RankInput, scores: Sequence[PairScore], *, model: str) -> list[RerankResult]:
    """Rank each list by its part of the scores, of which there is one per request."""
    results: list[RerankResult] = []
    start = 0
    for query, documents in zip(given.queries, given.documents, strict=True):
        own = tuple(scores[start : start + len(documents)])
        start += len(documents)
        order = ranked_order(own, top_n=given.top_n, min_score=given.min_score)
        results.append(
            RerankResult(
                query=query,
                results=tuple(RankedDocument(index, documents[index], own[index]) for index in order),
                scores=own,
                model=model,
                usage=sum_usage(own),
            )
        )
    return results


def ranked_order(scores: Sequence[PairScore], *, top_n: int | None, min_score: float | None) -> list[int]:
    """Return indices, best first: sorted, then those below `min_score` dropped, then cut to `top_n`.

    Ties keep their order. If every score has log-odds, they are compared, because probabilities saturate at 0 and 1.
    Blank documents that were not scored are last.
    """
    has_log_odds = all(score.log_odds is not None for score in scores if not score.blank)
    keys = [
        score.log_odds if has_log_odds and score.log_odds is not None else score.relevance_score
        for score in scores
    ]
    order = sorted(range(len(scores)), key=lambda index: (scores[index].blank, -keys[index]))
    if min_score is not None:
        order = [index for index in order if scores[index].relevance_score >= min_score]
    return order[:top_n]


def span_input(given: RankInput, options: SpanOptions, results: Sequence[RerankResult]) -> SpanInput:
    """Return the spans of all returned documents, with requests that differ from the documents' in the text alone.

    Raises:
        InputError: There are more than `max_scored`.
    """
    found = SpanInput([], [])
    first = 0
    for result, documents in zip(results, given.documents, strict=True):
        for ranked in result.results:
            request = given.requests[first + ranked.index]
            spans = segment(request.document, options.unit)[:MAX_SCORED_SPANS]
            found.spans.append(spans)
            found.requests.extend(replace(request, document=request.document[slice(*span)]) for span in spans)
        first += len(documents)
    if options.max_scored is not None and len(found.requests) > options.max_scored:
        number = f"{len(found.requests)} spans to score, at most {options.max_scored} are allowed"
        raise InputError(f"too many relevant spans: {number}; return fewer documents (`top_n`)")
    return found


def add_spans(
    options: SpanOptions, results: Sequence[RerankResult], spans: SpanInput, scores: Sequence[PairScore]
) -> list[RerankResult]:
    """Return the results with the most relevant spans of each document, given a score per request of `spans`."""
    rest, scored = iter(spans.spans), iter(scores)
    complete = []
    for result in results:
        documents, costs = [], [*result.scores]
        for document in result.results:
            own = next(rest)
            own_scores = [next(scored) for _ in own]
            costs += own_scores
            order = ranked_order(own_scores, top_n=options.max_spans, min_score=options.threshold)
            best = (
                RelevantSpan(*own[i], own_scores[i].relevance_score, own_scores[i].log_odds) for i in order
            )
            documents.append(replace(document, spans=tuple(best)))
        complete.append(replace(result, results=tuple(documents), usage=sum_usage(costs)))
    return complete


def sum_usage(scores: Sequence[PairScore]) -> Usage:
    """Sum up the cost of scores."""
    return Usage(
        num_pairs=len(scores),
        num_tokens=sum(score.num_tokens for score in scores),
        num_cached_pairs=sum(score.cached for score in scores),
    )


def unscored_lists(
    given: RankInput, *, model: str, status: Literal["disabled", "failed"], error: str | None = None
) -> list[RerankResult]:
    """Return each list in its original order, cut to `top_n`, without scores and marked with `status`."""
    return [
        RerankResult(
            query=query,
            results=tuple(
                RankedDocument(index, document, None)
                for index, document in enumerate(documents[: given.top_n])
            ),
            model=model,
            status=status,
            error=error,
        )
        for query, documents in zip(given.queries, given.documents, strict=True)
    ]
