"""Confidence intervals of means by resampling queries, the same queries for everything that is compared.

Knows neither measures nor rerankers: rows are queries, columns are what is averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Intervals", "Resampling"]

Array = np.ndarray[Any, np.dtype[np.float64]]

_CELLS_OF_A_BLOCK = 4_000_000


@dataclass(frozen=True, slots=True)
class Intervals:
    """Percentile intervals.

    Attributes:
        low: Lower ends, one a column.
        high: Upper ends.
    """

    low: Array
    high: Array


@dataclass(frozen=True, slots=True)
class Resampling:
    """How means are resampled.

    Attributes:
        resamples: How many sets of queries are drawn.
        seed: The same seed and number of queries draw the same sets.
        level: Share of the resampled means that an interval holds.
    """

    resamples: int = 10_000
    seed: int = 0
    level: float = 0.95

    def intervals(self, columns: Array) -> Intervals:
        """Give the percentile interval of each column's mean.

        Args:
            columns: [queries, columns]; paired, since every draw takes the same queries of all columns.
        """
        if len(columns) == 0:
            nothing = np.full(columns.shape[1], np.nan)
            return Intervals(nothing, nothing)
        means = np.concatenate(list(self._means(columns)))
        tail = (1.0 - self.level) / 2.0
        low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
        return Intervals(low, high)

    def _means(self, columns: Array) -> Iterator[Array]:
        """Resampled means in blocks [resamples of the block, columns]: a draw is how often it takes each query."""
        rng = np.random.default_rng(self.seed)
        num_queries = len(columns)
        share = np.full(num_queries, 1.0 / num_queries)
        block = max(1, _CELLS_OF_A_BLOCK // num_queries)
        for start in range(0, self.resamples, block):
            size = min(block, self.resamples - start)
            yield rng.multinomial(num_queries, share, size=size) @ columns / num_queries
