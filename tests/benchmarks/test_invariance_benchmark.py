"""The protocol of docs/invariance.md passes on this machine, and detects a broken guarantee."""

from __future__ import annotations

import json
import math

import pytest
from torch import Tensor

from benchmarks import invariance
from benchmarks.invariance import Comparison
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.linear import PackedLinear

QUICK = ["--pairs", "2", "--rounds", "1"]


def test_the_demo_model_keeps_every_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert invariance.main(QUICK) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = json.loads(lines[-1])
    rows = {row["varied"]: row for row in facts["comparisons"]}
    assert len(rows) == 7
    assert all(row["count"] and name in "\n".join(lines[:-1]) for name, row in rows.items())
    assert rows["dense attention"]["max_ulp"] > 0
    assert (facts["dtype"], facts["attention_backend"]) == ("float32", "GroupedAttention")


def test_a_product_that_depends_on_the_company_breaks_the_promise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every product rounds according to its number of rows, and the probe at loading does not detect it."""
    product = PackedLinear.__call__

    def by_company(linear: PackedLinear, x: Tensor, out: Tensor | None = None) -> Tensor:
        return product(linear, x, out).mul_(1 + len(x) * 1e-6)

    monkeypatch.setattr(PackedLinear, "__call__", by_company)
    monkeypatch.setattr(Decoder, "is_batch_invariant", True)
    assert invariance.main(QUICK) == 1
    assert "NO" in capsys.readouterr().out


def test_differences_are_counted_in_bits() -> None:
    alone = {0: 1.0, 1: -1.0, 2: 0.0}
    trials = [{0: 1.0, 1: -1.0 - 2**-23}, {2: -0.0, 0: 1 - 2**-24}]
    found = Comparison.of("x", 0.0, alone, iter(trials))
    assert (found.count, found.identical, found.max_ulp, found.max_abs_diff) == (4, 0.5, 1, 2**-23)
    assert not found.is_kept
    nothing = Comparison.of("x", 1.0, alone, iter([{0: math.nan}]))
    assert nothing.max_abs_diff == math.inf
    assert not nothing.is_kept
