"""The benchmark of priorities runs with the demo model, and its figures are complete."""

from __future__ import annotations

import json

import pytest

from benchmarks import priority


def test_it_prints_latencies_and_what_small_batches_cost(capsys: pytest.CaptureFixture[str]) -> None:
    code = priority.main(["--rounds", "1", "--calls", "2", "--seconds", "0.2"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures["latency"]) == {"alone", "beside background", "beside interactive"}
    assert all(0 < found["p50_s"] <= found["p99_s"] for found in figures["latency"].values())
    assert set(figures["pairs_per_s"]) == {"background", "interactive"}
    assert code == (0 if figures["lost"] <= priority.MAX_LOST else 1)
