"""From scores to a ranked list. Pure functions; no scorer, no settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qwen_rerank_plugins.errors import EngineError, NonFiniteScoreError
from qwen_rerank_plugins.types import (
    Document,
    PairScore,
    RankedDocument,
    RerankResult,
    ScoreRequest,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Job:
    """Checked input of one call: lists to be ranked together, and the options that hold for all of them.

    Attributes:
        queries: One a list.
        documents: One tuple a query, as long as it has documents.
        requests: One for each document, list after list.
        top_n: Documents to give of each list, or None.
        min_score: Threshold, or None.
        deadline_s: The call's own deadline, or None.
    """

    queries: tuple[str, ...]
    documents: tuple[tuple[Document, ...], ...]
    requests: list[ScoreRequest]
    top_n: int | None
    min_score: float | None
    deadline_s: float | None


def check_scores(scores: Sequence[PairScore], num_pairs: int) -> None:
    """Refuse a scorer's answer that is short, long, or not finite: it would give somebody a wrong rank.

    Raises:
        EngineError: The number of scores is not that of the pairs.
        NonFiniteScoreError: A score or its logit is NaN or infinite.
    """
    if len(scores) != num_pairs:
        raise EngineError(f"the scorer gave {len(scores)} scores for {num_pairs} pairs")
    for index, score in enumerate(scores):
        numbers = (score.relevance_score, 0.0 if score.log_odds is None else score.log_odds)
        if not all(math.isfinite(number) for number in numbers):
            raise NonFiniteScoreError(
                f"the score of pair {index} is not finite: {numbers[0]!r}, {score.log_odds!r}"
            )


def ranked_lists(job: Job, scores: Sequence[PairScore], *, model: str) -> list[RerankResult]:
    """Rank each list of a job by its part of the scores, one for each request."""
    results: list[RerankResult] = []
    start = 0
    for query, documents in zip(job.queries, job.documents, strict=True):
        own = tuple(scores[start : start + len(documents)])
        start += len(documents)
        order = ranked_order(own, top_n=job.top_n, min_score=job.min_score)
        results.append(
            RerankResult(
                query=query,
                results=tuple(_ranked_document(index, documents[index], own[index]) for index in order),
                scores=own,
                model=model,
                usage=usage_of(own),
            )
        )
    return results


def ranked_order(scores: Sequence[PairScore], *, top_n: int | None, min_score: float | None) -> list[int]:
    """Give the indices best first: sorted, those below the threshold dropped, then cut; ties keep their order.

    Log-odds are sorted where every score has them, since probabilities saturate at 0 and 1.
    """
    log_odds = [score.log_odds for score in scores if score.log_odds is not None]
    keys = log_odds if len(log_odds) == len(scores) else [score.relevance_score for score in scores]
    order = sorted(range(len(scores)), key=lambda index: -keys[index])
    if min_score is not None:
        order = [index for index in order if scores[index].relevance_score >= min_score]
    return order[:top_n]


def usage_of(scores: Sequence[PairScore]) -> Usage:
    """Sum up what the scores cost."""
    return Usage(
        num_pairs=len(scores),
        num_tokens=sum(score.num_tokens for score in scores),
        num_cached_pairs=sum(score.cached for score in scores),
    )


def unscored_lists(
    job: Job, *, model: str, status: Literal["disabled", "failed"], error: str | None = None
) -> list[RerankResult]:
    """Give each list's first documents in the order they came: no threshold, no scores, and a mark that says so."""
    return [
        RerankResult(
            query=query,
            results=tuple(
                RankedDocument(index, doc, None) for index, doc in enumerate(documents[: job.top_n])
            ),
            model=model,
            status=status,
            error=error,
        )
        for query, documents in zip(job.queries, job.documents, strict=True)
    ]


def _ranked_document(index: int, document: Document, score: PairScore) -> RankedDocument:
    return RankedDocument(
        index=index,
        document=document,
        relevance_score=score.relevance_score,
        log_odds=score.log_odds,
        truncated=score.truncated,
        query_truncated=score.query_truncated,
        span=score.span,
    )
