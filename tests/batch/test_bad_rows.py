from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen_rerank_plugins import InputError, InstructionTooLongError, PairScore, ScoreRequest
from tests.batch.files import read_csv, read_jsonl, run, write_csv
from tests.doubles import FakeScorer

GOOD = '{"query": "q", "document": "d"}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON: Expecting property name"),
        (b"[1]", "the row must be a JSON object, not list"),
        (b'{"query": "q"}', "the row has no 'document', only 'query'"),
        (b'{"query": 3, "document": "d"}', "'query' must be a string, not int"),
        (b'{"query": "q", "document": null}', "'document' must be a string, not null"),
        (b'{"query": " \\n", "document": "d"}', "'query' is blank"),
        (b'{"query": "q", "document": "\xe9"}', "not UTF-8: byte 0xe9 at character 29"),
        (b'{"query": "q", "document": "d", "x": NaN}', "not valid JSON: NaN"),
        (b'{"query": "q", "document": "d", "x": 1e999}', "number too large: 1e999"),
        (b'{"query": "q", "document": "d", "rank": 1}', "the row already has 'rank'"),
        (b'{"query": "q", "document": "d", "query": "r"}', "key 3 of an object repeats an earlier key"),
        (b'{"query": "q", "document": "d", "o": [{"": 1, "": 2}]}', "key 2 of an object repeats"),
        (b'{"query": "q", "document": "d", "\\u0071uery": "r"}', "key 3 of an object repeats"),
        (b"[" * 10_000, "JSON cannot be parsed"),
        (b'{"query": "q", "document": "' + b"x" * 20_000 + b'"}', "longer than 16000 characters"),
    ],
)
def test_a_bad_line_of_json_stops_the_job_or_is_rejected(tmp_path: Path, line: bytes, reason: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(GOOD.encode() + b"\n\n" + line + b"\n" + GOOD.encode())
    with pytest.raises(InputError, match=r"line 3 \(row 2\)") as caught:
        run(source, tmp_path / "out.jsonl", max_row_chars=16_000, encoding="utf-8")
    assert reason in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()
    # The same job continues with another policy.
    report = run(
        source,
        tmp_path / "out.jsonl",
        max_row_chars=16_000,
        encoding="utf-8",
        on_bad_row="reject",
        resume=True,
    )
    assert (report.num_rows, report.num_written, report.num_rejected) == (3, 2, 1)
    assert report.rejected == tmp_path / "out.jsonl.rejected.jsonl"
    (rejected,) = read_jsonl(report.rejected)
    assert (rejected["line"], rejected["row"]) == (3, 2)
    assert reason in rejected["reason"]
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 2


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("1,q\n", "the row has 2 cells; the first line has 3", 3),
        ("1,q,d,x\n", "the row has 4 cells; the first line has 3", 3),
        ("1,,d\n", "'query' is blank", 3),
        ('1,q,"x"y\n', "not valid CSV: ',' expected after", 3),
        ('1,q,"never closed\n2,q,', "not valid CSV: unexpected end of data (to line 4)", 3),
        (f"1,q,{'x' * 20_000}\n", "longer than 16000 characters", 3),
    ],
)
def test_a_bad_row_of_csv_is_rejected_with_its_line(
    tmp_path: Path, text: str, reason: str, line: int
) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"id,query,document\n0,q,d\n{text}" + "9,q,e\n", encoding="utf-8")
    report = run(source, tmp_path / "out.csv", on_bad_row="reject", max_row_chars=16_000)
    assert report.rejected is not None
    (rejected,) = read_jsonl(report.rejected)
    assert rejected["line"] == line
    assert reason in rejected["reason"]
    ids = [row["id"] for row in read_csv(tmp_path / "out.csv")]
    assert ids == (["0"] if "never" in text else ["0", "9"])
    assert report.num_written + report.num_rejected == report.num_rows


def test_what_was_read_of_a_bad_row_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes(b"id,query,document\n1, ,d\n2,q,caf\xe9\n3,q\n4,q,d\n")
    report = run(source, tmp_path / "out.csv", on_bad_row="reject", encoding="utf-8")
    assert report.rejected is not None
    first, second, third = read_jsonl(report.rejected)
    assert first["cells"] == {"id": "1", "query": " ", "document": "d"}
    assert second["text"] == "2,q,caf\udce9\n"
    assert third["text"] == "3,q\n"


def test_an_empty_document_is_scored(tmp_path: Path) -> None:
    report = run(write_csv(tmp_path / "in.csv", [{"query": "q", "document": ""}]), tmp_path / "out.csv")
    assert (report.num_written, report.num_rejected) == (1, 0)


def test_nulls_of_parquet_are_bad_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query": ["q", None], "document": [None, "d"]}), tmp_path / "in.parquet")
    report = run(tmp_path / "in.parquet", tmp_path / "out.parquet", on_bad_row="reject")
    assert report.rejected is not None
    assert [row["reason"] for row in read_jsonl(report.rejected)] == [
        "'document' must be a string, not null",
        "'query' must be a string, not null",
    ]
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_one_bad_document_rejects_its_list(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"query": "q", "documents": ["d", 3]}\n{"query": "q", "documents": ["d"]}', encoding="utf-8"
    )
    report = run(source, tmp_path / "out.jsonl", on_bad_row="reject")
    assert report.rejected is not None
    assert "'documents[1]' must be a string, not int" in read_jsonl(report.rejected)[0]["reason"]
    assert report.num_written == 1


def test_an_instruction_of_a_row_that_the_scorer_refuses_is_a_bad_row(tmp_path: Path) -> None:
    def score_one(request: ScoreRequest) -> PairScore:
        if request.instruction == "too long":
            raise InstructionTooLongError("the instruction is too long")
        return PairScore(0.5 if request.instruction == "other" else 0.25)

    rows = [
        {"query": "q", "document": str(n), "i": text}
        for n, text in enumerate(["", "other", "too long", "", "again"])
    ]
    source = write_csv(tmp_path / "in.csv", rows)
    with pytest.raises(InstructionTooLongError):
        run(source, tmp_path / "out.csv", scorer=FakeScorer(score_one), instruction_column="i")
    report = run(
        source,
        tmp_path / "out.csv",
        scorer=FakeScorer(score_one),
        instruction_column="i",
        on_bad_row="reject",
        overwrite=True,
    )
    assert report.rejected is not None
    assert read_jsonl(report.rejected)[0]["reason"] == "the instruction is too long"
    written = [(row["i"], row["relevance_score"], row["rank"]) for row in read_csv(tmp_path / "out.csv")]
    assert written == [("", "0.25", "1"), ("other", "0.5", "1"), ("", "0.25", "2"), ("again", "0.25", "1")]


def test_an_instruction_of_the_job_that_the_scorer_refuses_ends_the_job(tmp_path: Path) -> None:
    """It is wrong for every row: rejecting the rows would end a job without a single score as a success."""

    def score_one(request: ScoreRequest) -> PairScore:
        raise InstructionTooLongError("the instruction is too long")

    source = write_csv(tmp_path / "in.csv", [{"query": "q", "document": "d", "i": ""}])
    with pytest.raises(InstructionTooLongError):
        run(
            source,
            tmp_path / "out.csv",
            scorer=FakeScorer(score_one),
            instruction="much too long",
            instruction_column="i",
            on_bad_row="reject",
        )
    assert not (tmp_path / "out.csv").exists()


def test_repeated_keys_in_a_cell_of_json_make_its_row_bad(tmp_path: Path) -> None:
    cell = '[{"text": "kept", "text": "lost"}]'
    report = run(
        write_csv(tmp_path / "in.csv", [{"query": "q", "documents": cell}]),
        tmp_path / "out.csv",
        on_bad_row="reject",
    )
    assert report.rejected is not None
    reason = read_jsonl(report.rejected)[0]["reason"]
    assert reason == (
        "'documents' must be a JSON array: key 2 of an object repeats an earlier key; each key may occur once"
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_document_above_the_limit_makes_its_row_bad(tmp_path: Path, suffix: str) -> None:
    rows = [{"query": "q" * 20, "document": "d" * length} for length in (9, 10, 11)]
    source = tmp_path / f"in.{suffix}"
    run(write_csv(tmp_path / "first.csv", rows), source)
    report = run(
        source, tmp_path / "out.jsonl", on_bad_row="reject", max_document_chars=10, replace_columns=True
    )
    assert report.rejected is not None
    (rejected,) = read_jsonl(report.rejected)
    assert rejected["reason"] == "'document' has 11 characters; at most 10 are allowed"
    assert report.num_written == 2


def test_the_document_of_a_list_that_is_above_the_limit_is_named(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"query": "q", "documents": ["d", {"text": "long one"}]}', encoding="utf-8")
    with pytest.raises(InputError, match=r"'documents\[1\]' has 8 characters; at most 5 are allowed"):
        run(source, tmp_path / "out.jsonl", max_document_chars=5)
