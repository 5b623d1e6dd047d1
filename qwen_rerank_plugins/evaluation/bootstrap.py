"""Bootstrap confidence intervals of means over queries; all columns share the resamples.

Uses neither measures nor rerankers: rows are queries, columns are the values to average.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Intervals", "Resampling"]

Array = np.ndarray[Any, np.dtype[np.float64]]

_BLOCK_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class Intervals:
    """Percentile intervals.

    Attributes:
        low: Lower bounds, one per column.
        high: Upper bounds, one per column.
    """

    low: Array
    high: Array


@dataclass(frozen=True, slots=True)
class Resampling:
    """The settings of the bootstrap.

    Attributes:
        resamples: Number of resamples.
        seed: Seed; the same seed and number of queries give the same resamples.
        level: Fraction of the resampled means that an interval contains.
    """

    resamples: int = 10_000
    seed: int = 0
    level: float = 0.95

    def intervals(self, columns: Array) -> Intervals:
        """Return the percentile interval of each column's mean.

        Args:
            columns: [queries, columns]; paired, since every resample takes the same queries of all columns.
        """
        if len(columns) == 0:
            undefined = np.full(columns.shape[1], np.nan)
            return Intervals(undefined, undefined)
        means = np.concatenate(list(self._means(columns)))
        tail = (1.0 - self.level) / 2.0
        low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
        return Intervals(low, high)

    def _means(self, columns: Array) -> Iterator[Array]:
        """Yield resampled means in blocks [resamples of the block, columns]; a resample is a count of each query."""
        rng = np.random.default_rng(self.seed)
        num_queries = len(columns)
        share = np.full(num_queries, 1.0 / num_queries)
        block = max(1, _BLOCK_CELLS // num_queries)
        for start in range(0, self.resamples, block):
            size = min(block, self.resamples - start)
            yield rng.multinomial(num_queries, share, size=size) @ columns / num_queries
