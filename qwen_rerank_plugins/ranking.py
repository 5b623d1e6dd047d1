"""Turn scores into ranked lists. Pure functions, independent of scorers and settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qwen_rerank_plugins.errors import EngineError, NonFiniteScoreError
from qwen_rerank_plugins.types import (
    Document,
    PairScore,
    Priority,
    RankedDocument,
    RerankResult,
    ScoreRequest,
    Usage,
)

__all__ = ["RankInput", "check_scores", "rank_lists", "ranked_order", "sum_usage", "unscored_lists"]


@dataclass(frozen=True, slots=True)
class RankInput:
    """The validated input of one call: lists that are ranked together, and the options of all of them.

    Attributes:
        queries: One query per list.
        documents: One tuple of documents per query, of any length.
        requests: One request per document, list after list.
        top_n: Maximum number of documents of each list in the result, or None.
        min_score: Threshold, or None.
        deadline_s: Seconds within which the result is needed, or None.
        priority: Whether the call comes before or after calls of the other kind.
    """

    queries: tuple[str, ...]
    documents: tuple[tuple[Document, ...], ...]
    requests: list[ScoreRequest]
    top_n: int | None
    min_score: float | None
    deadline_s: float | None
    priority: Priority


def check_scores(scores: Sequence[PairScore], num_pairs: int) -> None:
    """Refuse scores that cannot be ranked.

    Raises:
        EngineError: The number of scores differs from the number of pairs.
        NonFiniteScoreError: A probability or its logit is NaN or infinite.
    """
    if len(scores) != num_pairs:
        raise EngineError(f"the scorer returned {len(scores)} scores for {num_pairs} pairs")
    for index, score in enumerate(scores):
        log_odds = 0.0 if score.log_odds is None else score.log_odds
        if not (math.isfinite(score.relevance_score) and math.isfinite(log_odds)):
            values = f"{score.relevance_score!r}, {score.log_odds!r}"
            raise NonFiniteScoreError(f"the score of pair {index} is not finite: {values}")


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
