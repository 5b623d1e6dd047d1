"""Builds the reranked response: hits in their new order with their `rerank` metadata, cut to the page.

Pure functions over plain JSON. Hits and responses that are passed in are not changed. The result has copies of the objects whose
keys change, which share the hits' sources with the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opensearch_qwen_rerank.client.fusion import Fusion, LinearFusion, RankFusion
from opensearch_qwen_rerank.client.hit_text import HitText
from opensearch_qwen_rerank.client.search_request import SearchRequest
from qwen_rerank_plugins import InputError, InputTypeError, RankedDocument, RerankResult

__all__ = [
    "RERANK_KEY",
    "Candidate",
    "build_response",
    "check_fusable",
    "get_hits",
    "rerank_hits",
    "unscored_hits",
]

RERANK_KEY = "rerank"
"""Key of the metadata in a response and in its hits."""

RESCORED = frozenset({"ranked", "skipped"})
"""Statuses after which no hit has the first stage's score as `_score`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit of the first stage and its scored texts.

    Attributes:
        hit: The hit as it was returned.
        rank: Rank in the first stage's order, from 1.
        first_score: The first stage's score; None if the search was sorted by something else.
        texts: The scored texts; empty for a hit without text.
    """

    hit: Mapping[str, Any]
    rank: int
    first_score: float | None
    texts: tuple[HitText, ...] = ()

    @classmethod
    def from_hit(cls, hit: Mapping[str, Any], rank: int, texts: Sequence[HitText] = ()) -> Candidate:
        """Create a candidate; rank and score that an earlier reranking kept take precedence over the hit's own."""
        kept = hit.get(RERANK_KEY)
        if isinstance(kept, Mapping) and "first_stage_rank" in kept:
            return cls(hit, kept["first_stage_rank"], kept.get("first_stage_score"), tuple(texts))
        score = hit.get("_score")
        return cls(hit, rank, None if score is None else float(score), tuple(texts))

    def with_score(self, score: float | None, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a copy of the hit with another score, and metadata that keeps the first stage's."""
        metadata: dict[str, Any] = {"relevance_score": None, **(details or {})}
        metadata |= {"first_stage_score": self.first_score, "first_stage_rank": self.rank}
        return {**self.hit, "_score": score, RERANK_KEY: metadata}


def get_hits(response: object) -> list[Any]:
    """Return the hits of a search response.

    Raises:
        InputTypeError: The value is not a search response.
    """
    outer = response.get("hits") if isinstance(response, Mapping) else None
    hits = outer.get("hits") if isinstance(outer, Mapping) else None
    if not isinstance(hits, list) or not all(isinstance(hit, Mapping) for hit in hits):
        kind = type(response).__name__
        raise InputTypeError(f"response is not a search response: {kind}. Pass a mapping with hits.hits.")
    return hits


def check_fusable(candidates: Sequence[Candidate], fusion: Fusion | None) -> None:
    """Raise if a weighted mean needs scores that hits do not have.

    Raises:
        InputError: A hit has no first-stage score.
    """
    if not isinstance(fusion, LinearFusion):
        return
    bare = [one.rank for one in candidates if one.first_score is None]
    if bare:
        raise InputError(
            f"hits have no first-stage score: ranks {bare[:5]!r}. Sort by score, set track_scores, or use RankFusion."
        )


def rerank_hits(
    candidates: Sequence[Candidate], result: RerankResult, fusion: Fusion | None
) -> list[tuple[dict[str, Any], HitText]]:
    """Return copies of the hits in a ranking with their scores, best first, each with its best text.

    Args:
        candidates: The scored hits; `result` ranks all their texts in this order.
        result: A ranking of the texts; those below a threshold may be missing.
        fusion: How the first stage's score is combined with the model's.
    """
    owners = [(owner, text) for owner, one in enumerate(candidates) for text in one.texts]
    best: dict[int, tuple[RankedDocument, HitText]] = {}
    for ranked in result.results:  # best first: the first text of a hit is its best
        owner, text = owners[ranked.index]
        best.setdefault(owner, (ranked, text))
    scores = _scores(candidates, result, list(best), fusion)
    order = list(best) if fusion is None else sorted(sorted(best), key=lambda owner: -scores[owner])
    return [
        (candidates[owner].with_score(scores[owner], _details(*best[owner])), best[owner][1])
        for owner in order
    ]


def unscored_hits(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Return copies of hits that were not scored, in their order; without `_score`, which would look like the model's."""
    return [one.with_score(None) for one in candidates]


def build_response(
    response: Mapping[str, Any],
    hits: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    search: SearchRequest,
) -> dict[str, Any]:
    """Return a copy of a response with other hits, cut to the page, and metadata; the total is kept.

    Args:
        response: The response as it was returned.
        hits: All fetched hits in their new order.
        metadata: The response's metadata.
        search: The search that was sent.
    """
    end = None if search.size is None else search.start + search.size
    outer = {**response["hits"], "hits": [dict(hit) for hit in hits[search.start : end]]}
    if metadata["status"] in RESCORED:
        scores = [hit["_score"] for hit in hits if hit["_score"] is not None]
        outer["max_score"] = max(scores, default=None)
    return {**response, "hits": outer, RERANK_KEY: dict(metadata)}


def _scores(
    candidates: Sequence[Candidate], result: RerankResult, order: Sequence[int], fusion: Fusion | None
) -> dict[int, float]:
    """Return the score of each hit; `order` has the hits above the threshold in the model's order."""
    if isinstance(fusion, RankFusion):
        ranks = [candidates[owner].rank for owner in order]
        return dict(zip(order, fusion.fuse(ranks, range(1, len(order) + 1)), strict=True))
    scores = iter(result.scores)
    model = [max(next(scores).relevance_score for _ in one.texts) for one in candidates]
    if fusion is None:
        return dict(enumerate(model))
    return dict(enumerate(fusion.fuse([one.first_score or 0.0 for one in candidates], model)))


def _details(ranked: RankedDocument, text: HitText) -> dict[str, Any]:
    """Return the metadata of a hit's best text."""
    details: dict[str, Any] = {"relevance_score": ranked.relevance_score}
    if ranked.log_odds is not None:
        details["log_odds"] = ranked.log_odds
    if ranked.calibrated is not None:
        details["calibrated"] = ranked.calibrated
    for name, is_set in (("truncated", ranked.truncated), ("query_truncated", ranked.query_truncated)):
        if is_set:
            details[name] = True
    if text.inner_hit is not None:
        details["inner_hit"] = text.inner_hit
    return details if ranked.span is None else details | text.passage(ranked.span)
