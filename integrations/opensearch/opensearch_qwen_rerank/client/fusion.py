"""From two scores of a hit, the first stage's and the model's, to one. Pure arithmetic; no hits, no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Fusion", "LinearFusion", "RankFusion", "min_max"]


class LinearFusion(BaseModel):
    """A weighted mean of both scores, each brought to 0…1 within the window by its least and greatest.

    Attributes:
        weight: The model's share; 1 is the model alone, 0 the first stage alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    weight: Annotated[float, Field(ge=0, le=1)] = 0.5

    def fuse(self, first: Sequence[float], model: Sequence[float]) -> list[float]:
        """Give the fused score of each hit; both lists have the window's hits in one order."""
        pairs = zip(min_max(first), min_max(model), strict=True)
        return [(1.0 - self.weight) * one + self.weight * other for one, other in pairs]


class RankFusion(BaseModel):
    """Reciprocal rank fusion: 1 / (k + rank), summed over both orders, ranks from 1.

    After Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods" (SIGIR 2009), which has k = 60.

    Attributes:
        k: How little the first ranks stand out; larger is flatter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    k: Annotated[int, Field(ge=1)] = 60

    def fuse(self, first_ranks: Sequence[int], model_ranks: Sequence[int]) -> list[float]:
        """Give the fused score of each hit; both lists have the hits' ranks, from 1, in one order of hits."""
        pairs = zip(first_ranks, model_ranks, strict=True)
        return [1.0 / (self.k + one) + 1.0 / (self.k + other) for one, other in pairs]


Fusion = LinearFusion | RankFusion


def min_max(scores: Sequence[float]) -> list[float]:
    """Bring scores to 0…1; equal ones are 1.0 each, as in OpenSearch's own normalization."""
    if not scores:
        return []
    low, high = min(scores), max(scores)
    if low == high:
        return [1.0] * len(scores)
    return [(score - low) / (high - low) for score in scores]
