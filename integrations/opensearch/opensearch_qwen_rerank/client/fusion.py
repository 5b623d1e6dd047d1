"""Fuses the first stage's and the model's score of each hit into one. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Fusion", "LinearFusion", "RankFusion", "min_max_normalize"]


class LinearFusion(BaseModel):
    """A weighted mean of both scores after min-max normalization within the window.

    Attributes:
        weight: Weight of the model's score; 1 ignores the first stage, 0 ignores the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    weight: Annotated[float, Field(ge=0, le=1)] = 0.5

    def fuse(self, first: Sequence[float], model: Sequence[float]) -> list[float]:
        """Return the fused score of each hit; both lists have the scores in the same order of hits."""
        pairs = zip(min_max_normalize(first), min_max_normalize(model), strict=True)
        return [(1.0 - self.weight) * one + self.weight * other for one, other in pairs]


class RankFusion(BaseModel):
    """Reciprocal rank fusion: the sum of 1 / (k + rank) over both orders, with ranks from 1.

    After Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods" (SIGIR 2009), which uses k = 60.

    Attributes:
        k: Constant of the formula; a larger value gives the first ranks less weight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    k: Annotated[int, Field(ge=1)] = 60

    def fuse(self, first_ranks: Sequence[int], model_ranks: Sequence[int]) -> list[float]:
        """Return the fused score of each hit; both lists have the ranks, from 1, in the same order of hits."""
        pairs = zip(first_ranks, model_ranks, strict=True)
        return [1.0 / (self.k + one) + 1.0 / (self.k + other) for one, other in pairs]


Fusion = LinearFusion | RankFusion


def min_max_normalize(scores: Sequence[float]) -> list[float]:
    """Scale scores to 0…1; if all are equal, all become 1.0, as in OpenSearch's own normalization."""
    if not scores:
        return []
    low, high = min(scores), max(scores)
    if low == high:
        return [1.0] * len(scores)
    return [(score - low) / (high - low) for score in scores]
