"""The column `spans`: the relevant spans of each document that is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from qwen_rerank_plugins import ConfigurationError, InputError, PairScore, Reranker, SpanOptions
from qwen_rerank_plugins.batch import BatchOptions
from qwen_rerank_plugins.types import ScoreRequest
from tests.batch.files import read_csv, read_jsonl, run, write_csv, write_jsonl
from tests.doubles import FakeScorer

WHALE = "Trains run. The blue whale sings! 🐋 Nothing."
FOX = "A red fox. A whale.\r\nBlue sky."
ROWS = [
    {"query": "blue whale", "document": WHALE},
    {"query": "red fox", "document": FOX},
    {"query": "blue whale", "document": FOX},
    {"query": "blue whale", "document": " "},
]


def expected(query: str, document: str, options: SpanOptions) -> list[dict[str, Any]]:
    (ranked,) = Reranker(backend="lexical").rank(query, [document], spans=options).results
    return [
        {
            "start": one.start,
            "end": one.end,
            "relevance_score": one.relevance_score,
            "log_odds": one.log_odds,
            "text": document[one.start : one.end],
        }
        for one in ranked.spans
    ]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_spans_are_those_of_the_python_interface(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out.{suffix}"
    run(write_csv(tmp_path / "in.csv", ROWS), target, spans=2)
    if suffix == "csv":
        found = [json.loads(row["spans"]) for row in read_csv(target)]
    else:
        rows = pq.read_table(target).to_pylist() if suffix == "parquet" else read_jsonl(target)
        found = [row["spans"] for row in rows]
    assert found == [expected(row["query"], row["document"], SpanOptions(max_spans=2)) for row in ROWS]
    assert [len(one) for one in found] == [2, 2, 2, 0]


def test_the_unit_and_the_threshold_are_options(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", ROWS[:2])
    run(source, tmp_path / "out.jsonl", spans=5, span_unit="passage", span_threshold=0.5)
    options = SpanOptions(unit="passage", max_spans=5, threshold=0.5)
    found = [row["spans"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert found == [expected(row["query"], row["document"], options) for row in ROWS[:2]]


@pytest.mark.parametrize("explode", [False, True])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_documents_of_a_list_have_their_spans(tmp_path: Path, suffix: str, explode: bool) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"query": "blue whale", "documents": [FOX, WHALE]}])
    run(source, tmp_path / f"out.{suffix}", spans=1, explode=explode)
    target = tmp_path / f"out.{suffix}"
    rows = pq.read_table(target).to_pylist() if suffix == "parquet" else read_jsonl(target)
    found = rows if explode else rows[0]["results"]
    texts = sorted([span["text"] for span in one["spans"]] for one in found)
    assert texts == [["A whale."], ["The blue whale sings!"]]


def by_length(request: ScoreRequest) -> PairScore:
    return PairScore.from_log_odds(float(len(request.document)) / 10.0 - 4.0, num_tokens=1)


def test_only_documents_that_are_kept_have_spans_and_no_other_spans_are_scored(tmp_path: Path) -> None:
    """Also where the calls are smaller than the lists: each ranks a part of a list."""
    rows = [{"query": "q", "document": f"First {'a' * n}. Second {'b' * n}."} for n in range(30)]
    scorer = FakeScorer(by_length)
    source = write_csv(tmp_path / "in.csv", rows)
    run(source, tmp_path / "out.jsonl", scorer=scorer, spans=2, top_n=3, call_pairs=10)
    kept = read_jsonl(tmp_path / "out.jsonl")
    assert [row["rank"] for row in kept] == [3, 2, 1]
    assert all(len(row["spans"]) == 2 for row in kept)
    scored = [request.document for call, _ in scorer.calls for request in call]
    assert len(scored) == 30 + 3 * 3 * 2  # three calls, three documents each, two spans each
    scorer = FakeScorer(by_length)
    run(source, tmp_path / "none.jsonl", scorer=scorer, spans=2, min_score=1.0)
    assert sum(len(call) for call, _ in scorer.calls) == 30


def test_without_the_option_no_span_is_scored_and_no_column_added(tmp_path: Path) -> None:
    scorer = FakeScorer(by_length)
    run(write_csv(tmp_path / "in.csv", ROWS), tmp_path / "out.jsonl", scorer=scorer)
    assert sum(len(call) for call, _ in scorer.calls) == len(ROWS)
    assert "spans" not in read_jsonl(tmp_path / "out.jsonl")[0]


def test_a_job_is_not_resumed_with_other_spans(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", ROWS)
    with source.open("a", encoding="utf-8") as file:
        file.write("a row without a document\r\n")
    with pytest.raises(InputError, match="line"):
        run(source, tmp_path / "out.jsonl", spans=2, window_rows=2)
    for options in ({}, {"spans": 3}, {"spans": 2, "top_n": 4}, {"spans": 2, "min_score": 0.5}):
        with pytest.raises(InputError, match=r"spans was .*discard it with --overwrite"):
            run(source, tmp_path / "out.jsonl", resume=True, on_bad_row="reject", **options)
    report = run(source, tmp_path / "out.jsonl", resume=True, on_bad_row="reject", spans=2)
    assert report.num_resumed_pairs in {2, 4}  # the second call may have been in flight
    assert report.num_written == 4
    found = [row["spans"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert found == [expected(row["query"], row["document"], SpanOptions(max_spans=2)) for row in ROWS]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"spans": 0}, "spans"),
        ({"spans": True}, "spans"),
        ({"spans": 1, "span_unit": "word"}, "span_unit"),
        ({"spans": 1, "span_threshold": 1.5}, "span_threshold"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        BatchOptions(**options)
