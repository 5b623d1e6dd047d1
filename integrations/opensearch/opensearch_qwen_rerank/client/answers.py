"""From a ranking to the answer: hits in their new order, each with what is known of it, cut to the page.

Pure functions over plain JSON. Hits and answers that come in are never changed; what goes out are copies of the
objects whose keys change, which share their sources with what came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opensearch_qwen_rerank.client.fusion import Fusion, LinearFusion, RankFusion
from opensearch_qwen_rerank.client.searching import Search
from opensearch_qwen_rerank.client.texts import HitText
from qwen_rerank_plugins import InputError, InputTypeError, RankedDocument, RerankResult

__all__ = ["MARK", "Candidate", "answer", "check_fusable", "hits_of", "reordered", "unscored"]

MARK = "rerank"
"""The key under which an answer and its hits tell of their reranking."""

RESCORED = frozenset({"ranked", "skipped"})
"""How a reranking ends that leaves no score of the first stage in place of the model's."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit of the first stage and what is scored of it.

    Attributes:
        hit: As it came.
        rank: Its place in the first stage's order, from 1.
        first_score: The first stage's score; None where the search was sorted by something else.
        texts: What is scored; empty for a hit without text.
    """

    hit: Mapping[str, Any]
    rank: int
    first_score: float | None
    texts: tuple[HitText, ...] = ()

    @classmethod
    def of(cls, hit: Mapping[str, Any], rank: int, texts: Sequence[HitText] = ()) -> Candidate:
        """Take a hit; what an earlier reranking kept of the first stage beats what the hit has now."""
        kept = hit.get(MARK)
        if isinstance(kept, Mapping) and "first_stage_rank" in kept:
            return cls(hit, kept["first_stage_rank"], kept.get("first_stage_score"), tuple(texts))
        score = hit.get("_score")
        return cls(hit, rank, None if score is None else float(score), tuple(texts))

    def with_score(self, score: float | None, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Copy the hit with a score in place of the first stage's, which is kept beside what else is told."""
        mark: dict[str, Any] = {"relevance_score": None, **(told or {})}
        mark |= {"first_stage_score": self.first_score, "first_stage_rank": self.rank}
        return {**self.hit, "_score": score, MARK: mark}


def hits_of(response: object) -> list[Any]:
    """Give the hits of a search's answer.

    Raises:
        InputTypeError: It is no such answer.
    """
    outer = response.get("hits") if isinstance(response, Mapping) else None
    hits = outer.get("hits") if isinstance(outer, Mapping) else None
    if not isinstance(hits, list) or not all(isinstance(hit, Mapping) for hit in hits):
        kind = type(response).__name__
        raise InputTypeError(f"response is no answer to a search: {kind}; allowed: a mapping with hits.hits")
    return hits


def check_fusable(candidates: Sequence[Candidate], fusion: Fusion | None) -> None:
    """Refuse a weighted mean with scores that are not there.

    Raises:
        InputError: A hit has no first-stage score.
    """
    if not isinstance(fusion, LinearFusion):
        return
    bare = [one.rank for one in candidates if one.first_score is None]
    if bare:
        raise InputError(
            f"hits have no first-stage score: ranks {bare[:5]!r}; allowed: a search by score, track_scores, or RankFusion"
        )


def reordered(
    candidates: Sequence[Candidate], result: RerankResult, fusion: Fusion | None
) -> list[dict[str, Any]]:
    """Give copies of the hits that a ranking gives, best first, with their scores.

    Args:
        candidates: The hits that were scored; `result` ranks their texts, one after the other.
        result: A ranking of all texts; those below a threshold may be missing.
        fusion: How the first stage's score counts.
    """
    owners = [(owner, text) for owner, one in enumerate(candidates) for text in one.texts]
    best: dict[int, tuple[RankedDocument, HitText]] = {}
    for ranked in result.results:  # best first: the first text of a hit is its best
        owner, text = owners[ranked.index]
        best.setdefault(owner, (ranked, text))
    scores = _scores(candidates, result, list(best), fusion)
    order = list(best) if fusion is None else sorted(sorted(best), key=lambda owner: -scores[owner])
    return [candidates[owner].with_score(scores[owner], _told(*best[owner])) for owner in order]


def unscored(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Give copies of hits that were not scored, in their order: no score that could be taken for one of the model's."""
    return [one.with_score(None) for one in candidates]


def answer(
    response: Mapping[str, Any], hits: Sequence[Mapping[str, Any]], mark: Mapping[str, Any], search: Search
) -> dict[str, Any]:
    """Copy a search's answer with other hits, cut to the page, and a mark; its total stands as it is.

    Args:
        response: The answer as it came.
        hits: All hits that were fetched, in their new order.
        mark: What the answer tells of its reranking.
        search: The search that was sent, for the page.
    """
    end = None if search.size is None else search.start + search.size
    outer = {**response["hits"], "hits": [dict(hit) for hit in hits[search.start : end]]}
    if mark["status"] in RESCORED:
        scores = [hit["_score"] for hit in hits if hit["_score"] is not None]
        outer["max_score"] = max(scores, default=None)
    return {**response, "hits": outer, MARK: dict(mark)}


def _scores(
    candidates: Sequence[Candidate], result: RerankResult, order: Sequence[int], fusion: Fusion | None
) -> dict[int, float]:
    """The score of each hit; `order` is the model's, of those that it keeps."""
    if isinstance(fusion, RankFusion):
        ranks = [candidates[owner].rank for owner in order]
        return dict(zip(order, fusion.fuse(ranks, range(1, len(order) + 1)), strict=True))
    scores = iter(result.scores)
    model = [max(next(scores).relevance_score for _ in one.texts) for one in candidates]
    if fusion is None:
        return dict(enumerate(model))
    return dict(enumerate(fusion.fuse([one.first_score or 0.0 for one in candidates], model)))


def _told(ranked: RankedDocument, text: HitText) -> dict[str, Any]:
    """What a hit tells of its best text."""
    told: dict[str, Any] = {"relevance_score": ranked.relevance_score}
    if ranked.log_odds is not None:
        told["log_odds"] = ranked.log_odds
    for name, holds in (("truncated", ranked.truncated), ("query_truncated", ranked.query_truncated)):
        if holds:
            told[name] = True
    if text.inner_hit is not None:
        told["inner_hit"] = text.inner_hit
    return told if ranked.span is None else told | text.passage(ranked.span)
