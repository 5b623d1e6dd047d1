"""Texts that are scored with a warning: lone surrogates, templates, blanks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from qwen_rerank_plugins import PairScore, ScoreRequest
from qwen_rerank_plugins.batch.rows import parse_json
from qwen_rerank_plugins.batch.scoring import UNCALIBRATED
from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.lexical import LexicalScorer
from qwen_rerank_plugins.recipe import REPAIRED_TEXT, TEMPLATE_IN_TEXT, repair_json, replace_surrogates
from qwen_rerank_plugins.types import logistic
from tests.batch.files import PAIRS, read_csv, read_jsonl, run, write_csv, write_jsonl
from tests.calibrations import OFFSET, SLOPE, fit, write_calibration
from tests.doubles import FakeScorer


def scored(asked: list[ScoreRequest]) -> FakeScorer:
    """Scores by word overlap, and records its requests."""

    def score_one(request: ScoreRequest) -> PairScore:
        asked.append(request)
        return LexicalScorer().score([request])[0]

    return FakeScorer(score_one)


BROKEN = [
    '{"query": "q", "document": "cut \\ud83d", "n": 1.10}',
    '{"query": "q", "document": "fine", "note": "\\udc00"}',
    '{"query": "half \\uD83D!", "document": "whole \\ud83d\\ude00", "i": "x"}',
    '{"query": "q", "document": "\\\\ud83d is text", "i": "\\ud83d\\ud83d"}',
    '{"query": "q", "document": "\\ufffd was there before"}',
]
REPAIRED = ["cut \ufffd", "fine", "whole 😀", "\\ud83d is text", "\ufffd was there before"]
MARKED = [True, False, True, True, False]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_half_an_emoji_is_replaced_and_its_row_is_scored_and_marked(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}"
    source.write_text("\n".join(BROKEN), encoding="utf-8")
    asked: list[ScoreRequest] = []
    report = run(source, target, scorer=scored(asked), details=True, instruction_column="i")
    assert (report.num_written, report.num_rejected, report.num_warned) == (5, 0, 3)
    assert sorted(request.document for request in asked) == sorted(REPAIRED)
    assert {request.query for request in asked} == {"q", "half \ufffd!"}
    assert {request.instruction for request in asked} == {None, "x", "\ufffd\ufffd"}
    rows: list[dict[str, Any]] = (
        read_jsonl(target)
        if suffix == "jsonl"
        else pq.read_table(target).to_pylist()
        if suffix == "parquet"
        else [{**row, "warnings": json.loads(row["warnings"])} for row in read_csv(target)]
    )
    assert [row["document"] for row in rows] == REPAIRED
    assert [row["warnings"] == [REPAIRED_TEXT] for row in rows] == MARKED
    assert rows[1]["note"] == "\ufffd"


def test_a_repaired_object_keeps_every_other_character(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(BROKEN[0], encoding="utf-8")
    run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    line = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert line.startswith('{"query": "q", "document": "cut \\ufffd", "n": 1.10, "relevance_score"')


@pytest.mark.parametrize("explode", [False, True])
def test_in_a_list_the_document_is_marked_and_not_its_neighbours(tmp_path: Path, explode: bool) -> None:
    cell = '["fine", {"text": "cut \\ud83d"}]'
    source = write_csv(tmp_path / "in.csv", [{"query": "q", "documents": cell}])
    report = run(source, tmp_path / "out.jsonl", details=True, explode=explode)
    rows = read_jsonl(tmp_path / "out.jsonl")
    results = rows if explode else rows[0]["results"]
    assert {one["index"]: one["warnings"] for one in results} == {0: [], 1: [REPAIRED_TEXT]}
    assert report.num_warned == 1
    if explode:
        assert [row["document"] for row in rows if row["index"] == 1] == [{"text": "cut \ufffd"}]


@given(
    st.text(st.characters(categories=["Lu", "Cs", "Po"]) | st.sampled_from("\\u\ud83d\ude00dD8"), max_size=8)
)
def test_json_is_repaired_as_its_texts_are(text: str) -> None:
    """Each lone surrogate is replaced by one character; pairs, and text that only looks like an escape, stay."""
    for encoded in (json.dumps(text), json.dumps(text).upper().replace("\\U", "\\u").replace("\\N", "\\n")):
        assert parse_json(repair_json(encoded)) == replace_surrogates(parse_json(encoded))


def test_json_that_is_nested_too_deeply_stays_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(f'{"[" * 100_000}"\\ud83d"', encoding="utf-8")
    report = run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", on_bad_row="reject", form="pairs")
    assert report.num_rejected == 1


def test_warnings_of_the_scorer_survive_a_stop_and_are_counted_by_rows(tmp_path: Path) -> None:
    documents = [{"text": "a"}, "<Document>: b", "<Document>: c"]
    rows = [{"query": "q", "documents": documents}, {"query": "q", "documents": ["d"]}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    warning = TEMPLATE_IN_TEXT

    def score_one(request: ScoreRequest) -> PairScore:
        return PairScore(0.5, 0.0, warnings=(warning,) if "<" in request.document else ())

    report = run(source, tmp_path / "out.jsonl", scorer=FakeScorer(score_one), details=True)
    assert report.num_warned == report.as_dict()["num_warned"] == 1
    results = read_jsonl(tmp_path / "out.jsonl")[0]["results"]
    assert [one["warnings"] for one in results] == [[], [warning], [warning]]


def test_a_row_whose_instruction_has_no_fit_is_marked(tmp_path: Path) -> None:
    rows = [
        {"query": "blue whale", "document": "blue", "i": instruction} for instruction in ("mine", "other")
    ]
    source, target = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    config = {"calibration": write_calibration(tmp_path, fit("mine"))}
    report = run(source, target, config=config, details=True, instruction_column="i")
    mine, other = read_jsonl(target)
    assert (mine["warnings"], other["warnings"], report.num_warned) == ([], [UNCALIBRATED], 1)
    assert mine["log_odds"] == other["log_odds"] == 1.0
    assert mine["relevance_score"] == pytest.approx(logistic(SLOPE + OFFSET))
    assert other["relevance_score"] == pytest.approx(logistic(1.0))
    run(source, target, details=True, overwrite=True, instruction_column="i")
    assert [row["warnings"] for row in read_jsonl(target)] == [[], []]


def test_min_score_of_a_job_compares_calibrated_probabilities(tmp_path: Path) -> None:
    """Log-odds 4.5: 0.989 without, 0.777 with the calibration."""
    source = write_jsonl(tmp_path / "in.jsonl", [{"query": "blue whale", "document": "the blue whale sings"}])
    config = {"calibration": write_calibration(tmp_path)}
    for min_score, num_written in ((0.77, 1), (0.78, 0)):
        report = run(source, tmp_path / "out.jsonl", config=config, min_score=min_score, overwrite=True)
        assert report.num_written == num_written


def test_blank_documents_that_were_not_sent_are_last_and_do_not_change_the_order_of_others(
    tmp_path: Path,
) -> None:
    """Probabilities saturate: the others are sorted by log-odds, although blank documents have none."""
    log_odds = {"low": 40.0, "high": 50.0}
    target = tmp_path / "out.csv"

    def score_one(request: ScoreRequest) -> PairScore:
        if not request.document:
            return PairScore(0.0, blank=True)
        return PairScore.from_log_odds(log_odds[request.document])

    rows = [{"query": "q", "document": text} for text in ("", "low", "high")]
    run(write_csv(tmp_path / "in.csv", rows), target, scorer=FakeScorer(score_one), details=True)
    written = read_csv(target)
    assert [(row["document"], row["rank"], row["blank"]) for row in written] == [
        ("", "3", "true"), ("low", "2", "false"), ("high", "1", "false"),
    ]  # fmt: skip
    without_log_odds = FakeScorer(lambda request: PairScore(0.0, blank=not request.document))
    run(tmp_path / "in.csv", target, scorer=without_log_odds, overwrite=True)
    assert [row["rank"] for row in read_csv(target)] == ["3", "1", "2"]


def test_the_command_counts_rows_with_warnings_and_adds_no_column_without_details(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*PAIRS])
    source.write_text(source.read_text(encoding="utf-8") + BROKEN[0], encoding="utf-8")
    words = ["batch", str(source), str(tmp_path / "out.jsonl"), "--backend", "lexical"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert "rows with warnings about their texts: 1; see them with --details" in result.stderr
    assert all("warnings" not in row for row in read_jsonl(tmp_path / "out.jsonl"))


def test_rank_repairs_and_marks_documents_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('"fine"\n{"text": "cut \\ud83d"}\n', encoding="utf-8")
    words = ["rank", "cut", str(tmp_path / "in.jsonl"), "--backend", "lexical", "--format"]
    result = CliRunner().invoke(app, [*words, "json"])
    rows = json.loads(result.stdout)["results"]
    assert [(row["document"], row["warnings"]) for row in rows] == [
        ({"text": "cut \ufffd"}, [REPAIRED_TEXT]), ("fine", []),
    ]  # fmt: skip
    assert f"1 of the documents: {REPAIRED_TEXT}" in result.stderr
    assert "cut \ufffd" in CliRunner().invoke(app, [*words, "table"]).stdout


def test_evaluate_scores_and_counts_broken_texts(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q", "text": "cut"}])
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "d\\ud83d", "text": "cut \\ud83d"}\n{"_id": "e", "text": "fine"}', encoding="utf-8"
    )
    (tmp_path / "qrels.tsv").write_text("q\td\ufffd\t1\n", encoding="utf-8")
    words = ["evaluate", "--dataset", str(tmp_path), "--backend", "lexical", "--resamples", "10"]
    words += ["--format", "json", "--save-run", str(tmp_path / "run"), "--report", str(tmp_path / "r.html")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["dataset"]["texts_with_lone_surrogates"] == 1
    assert "texts with lone surrogates, which were replaced by U+FFFD: 1" in result.stderr
    assert "d\ufffd 1 " in (tmp_path / "run").read_text(encoding="utf-8")
