"""The benchmarks of spans run, and their figures are complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import span_answers, spans
from qwen_rerank_plugins import Reranker


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


def test_answers_are_counted_where_the_spans_hold_them(tmp_path: Path) -> None:
    """The lexical scorer finds the sentence with the question's words; the second question shares no word with its document."""
    text = "The river is wide. The lighthouse was built in 1894. Ships pass at night."
    rows: list[dict[str, Any]] = [
        {
            "id": "a",
            "question": "when was the lighthouse built",
            "answers": [{"text": "1894", "answer_start": 47}],
        },
        {"id": "b", "question": "zzz", "answers": [{"text": "night", "answer_start": 67}]},
    ]
    assert all(
        text[one["answers"][0]["answer_start"] :].startswith(one["answers"][0]["text"]) for one in rows
    )
    data = {"data": [{"paragraphs": [{"context": text, "qas": rows}]}]}
    (tmp_path / "one.json").write_text(json.dumps(data), encoding="utf-8")
    asked = span_answers.questions_of(tmp_path / "one.json", sample=0, seed=0)
    with Reranker(backend="lexical") as reranker:
        found = span_answers.measure(reranker, asked, seed=0)
    assert (found["questions"], found["spans_per_paragraph"]) == (2, 3.0)
    assert (found["answers"]["best 1"], found["answers"]["best 3"], found["answers"]["first 1"]) == (
        0.5,
        1.0,
        0.0,
    )
    assert found["answers"]["compressed 1, context 0"] == 0.5
    assert 0.2 < found["characters"]["compressed 1, context 0"] < 0.6
