"""The benchmark of spans runs with the demo model, and its figures are complete."""

from __future__ import annotations

import json

import pytest

from benchmarks import spans


def test_it_prints_ratios_and_judges_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "CASES", {"a few": (6, 2, 1000.0)})
    assert spans.main(["--rounds", "1"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["cases"]["a few"]
    assert figures["num_spans"] == 2 * spans.NUM_SENTENCES
    assert figures["plain_s"] > 0
    assert figures["spans_s"] > 0
    assert figures["max_difference"] <= spans.MAX_DIFFERENCE
    monkeypatch.setattr(spans, "CASES", {"a few": (6, 2, 0.0)})
    assert spans.main(["--rounds", "1"]) == 1
