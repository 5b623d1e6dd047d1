from __future__ import annotations

import math

import numpy as np
import pytest

from qwen_rerank_plugins.evaluation import Resampling, bootstrap


def test_an_interval_agrees_with_the_normal_approximation() -> None:
    """A share of 0.3 of 400 queries: 1.96 standard errors on each side."""
    column = np.zeros((400, 1))
    column[:120] = 1.0
    found = Resampling().intervals(column)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert found.low[0] == pytest.approx(0.3 - half, abs=0.006)
    assert found.high[0] == pytest.approx(0.3 + half, abs=0.006)


def test_columns_are_resampled_together() -> None:
    """A difference that is the same for every query has no spread, whatever the spread of the columns."""
    column = np.random.default_rng(1).random(50)
    found = Resampling(resamples=200).intervals(np.stack([column, column + 0.25, 0.25 + 0 * column], axis=1))
    assert (found.low[1] - found.low[0], found.high[1] - found.high[0]) == pytest.approx((0.25, 0.25))
    assert (found.low[2], found.high[2]) == pytest.approx((0.25, 0.25))


def test_the_seed_decides_and_the_blocks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(2).random((30, 2))
    whole = Resampling(resamples=500, seed=4).intervals(columns)
    monkeypatch.setattr(bootstrap, "_BLOCK_CELLS", 30 * 7)
    in_blocks = Resampling(resamples=500, seed=4).intervals(columns)
    other = Resampling(resamples=500, seed=5).intervals(columns)
    assert whole.low.tolist() == in_blocks.low.tolist()
    assert whole.low.tolist() != other.low.tolist()


def test_one_query_has_an_interval_without_width() -> None:
    found = Resampling(resamples=10).intervals(np.array([[0.5]]))
    assert (found.low[0], found.high[0]) == (0.5, 0.5)
