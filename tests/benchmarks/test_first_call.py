"""The benchmark of the first call runs with the demo model, and its figures are complete."""

from __future__ import annotations

import json

import pytest

from benchmarks import first_call


def test_it_prints_stalls_cold_and_warm(capsys: pytest.CaptureFixture[str]) -> None:
    code = first_call.main(["--rounds", "1"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures) == {"cold", "warm"}
    assert figures["cold"]["call_s"] > figures["warm"]["call_s"]
    assert min(figures["cold"]["stall_s"], figures["warm"]["stall_s"]) > 0
    assert code == (0 if figures["warm"]["stall_s"] <= first_call.MAX_WARM_STALL_S else 1)
