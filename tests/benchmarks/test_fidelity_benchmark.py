"""benchmarks/fidelity.py on the demo model: its figures are those of their definitions."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import fidelity
from qwen_rerank_plugins.core.model import int8
from qwen_rerank_plugins.core.model.linear import Linear

QUICK = ["--documents", "4", "--threads", "1"]


@pytest.mark.parametrize("outliers", [False, True])
def test_the_tables_and_the_facts(capsys: pytest.CaptureFixture[str], *, outliers: bool) -> None:
    assert fidelity.main([*QUICK, *(["--outliers"] if outliers else [])]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = json.loads(lines[-1])
    assert facts["outliers"] is outliers
    for layers in facts["layers"].values():
        assert [row["layer"] for row in layers] == [0, 1, 2, 3]
        errors = [error for row in layers for error in row["relative_error"].values()]
        assert all(0 < error < 0.1 for error in errors)
    by_name = {row["variant"]: row for row in facts["scores"]}
    assert len(by_name) == 4
    assert all(name in "\n".join(lines[:-1]) for name in by_name)
    assert all(0 < row["max_log_odds"] < facts["log_odds_std"] for row in by_name.values())


def test_ranks_are_compared_by_pairs_and_by_the_best() -> None:
    scores = torch.arange(20.0)
    swapped = scores.clone()
    swapped[[9, 10]] = scores[[10, 9]]
    assert fidelity.kendall(scores, scores) == 1.0
    assert fidelity.kendall(scores, -scores) == -1.0
    assert fidelity.kendall(scores, swapped) == pytest.approx(1 - 2 / 190)
    assert fidelity.top_overlap(scores, swapped) == 0.9
    assert fidelity.top_overlap(scores[:4], scores[:4]) == 1.0


def test_a_probe_measures_the_product_that_int8_would_have_given() -> None:
    linear = Linear(torch.randn(24, 32, generator=torch.Generator().manual_seed(1)))
    x = torch.randn(7, 32, generator=torch.Generator().manual_seed(2))
    probe = fidelity.Probe(linear, int8.EIGHT_BITS)
    found = int8.Int8Linear.from_linear(linear, int8.EIGHT_BITS)
    wanted = x @ linear.weight.T
    assert torch.equal(probe(x), linear(x))
    expected = (found(found.encode(x)) - wanted).norm() / wanted.norm()
    assert probe.errors == [pytest.approx(float(expected), rel=1e-4)]
    assert (probe.num_rows, probe.num_fine) == (7, 0)
