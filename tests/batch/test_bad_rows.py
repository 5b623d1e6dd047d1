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
        (b"{", "not JSON: Expecting property name"),
        (b"[1]", "a list; allowed: an object"),
        (b'{"query": "q"}', "no 'document', but 'query'"),
        (b'{"query": 3, "document": "d"}', "'query' is a int; allowed: a string"),
        (b'{"query": "q", "document": null}', "'document' is null; allowed: a string"),
        (b'{"query": " \\n", "document": "d"}', "'query' is blank"),
        (b'{"query": "q", "document": "\\ud800"}', "half of a surrogate pair"),
        (b'{"query": "q", "document": "\xe9"}', "not UTF-8: byte 0xe9 at character 29"),
        (b'{"query": "q", "document": "d", "x": NaN}', "not JSON: NaN"),
        (b'{"query": "q", "document": "d", "x": 1e999}', "a number is too large: 1e999"),
        (b'{"query": "q", "document": "d", "rank": 1}', "has 'rank' already"),
        (b"[" * 10_000, "JSON that cannot be read"),
        (b'{"query": "q", "document": "' + b"x" * 20_000 + b'"}', "longer than 16000 characters"),
    ],
)
def test_a_bad_line_of_json_stops_the_job_or_is_set_aside(tmp_path: Path, line: bytes, reason: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(GOOD.encode() + b"\n\n" + line + b"\n" + GOOD.encode())
    with pytest.raises(InputError, match=r"line 3 \(row 2\)") as caught:
        run(source, tmp_path / "out.jsonl", max_row_chars=16_000)
    assert reason in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()
    # The same job goes on with another policy.
    report = run(source, tmp_path / "out.jsonl", max_row_chars=16_000, on_bad_row="set_aside", resume=True)
    assert (report.num_rows, report.num_written, report.num_set_aside) == (3, 2, 1)
    assert report.rejected == tmp_path / "out.jsonl.rejected.jsonl"
    (told,) = read_jsonl(report.rejected)
    assert (told["line"], told["row"]) == (3, 2)
    assert reason in told["reason"]
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 2


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("1,q\n", "the number of cells is 2; allowed: 3", 3),
        ("1,q,d,x\n", "the number of cells is 4; allowed: 3", 3),
        ("1,,d\n", "'query' is blank", 3),
        ('1,q,"x"y\n', "not CSV: ',' expected after", 3),
        ('1,q,"never closed\n2,q,', "not CSV: unexpected end of data (to line 4)", 3),
        (f"1,q,{'x' * 20_000}\n", "longer than 16000 characters", 3),
    ],
)
def test_a_bad_row_of_csv_is_set_aside_with_its_line(
    tmp_path: Path, text: str, reason: str, line: int
) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"id,query,document\n0,q,d\n{text}" + "9,q,e\n", encoding="utf-8")
    report = run(source, tmp_path / "out.csv", on_bad_row="set_aside", max_row_chars=16_000)
    assert report.rejected is not None
    (told,) = read_jsonl(report.rejected)
    assert told["line"] == line
    assert reason in told["reason"]
    ids = [row["id"] for row in read_csv(tmp_path / "out.csv")]
    assert ids == (["0"] if "never" in text else ["0", "9"])
    assert report.num_written + report.num_set_aside == report.num_rows


def test_what_was_read_of_a_bad_row_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes(b"id,query,document\n1, ,d\n2,q,caf\xe9\n3,q\n4,q,d\n")
    report = run(source, tmp_path / "out.csv", on_bad_row="set_aside")
    assert report.rejected is not None
    first, second, third = read_jsonl(report.rejected)
    assert first["cells"] == {"id": "1", "query": " ", "document": "d"}
    assert second["text"] == "2,q,caf\udce9\n"
    assert third["text"] == "3,q\n"


def test_an_empty_document_is_scored(tmp_path: Path) -> None:
    report = run(write_csv(tmp_path / "in.csv", [{"query": "q", "document": ""}]), tmp_path / "out.csv")
    assert (report.num_written, report.num_set_aside) == (1, 0)


def test_nulls_of_parquet_are_bad_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query": ["q", None], "document": [None, "d"]}), tmp_path / "in.parquet")
    report = run(tmp_path / "in.parquet", tmp_path / "out.parquet", on_bad_row="set_aside")
    assert report.rejected is not None
    assert [row["reason"] for row in read_jsonl(report.rejected)] == [
        "'document' is null; allowed: a string",
        "'query' is null; allowed: a string",
    ]
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_one_bad_document_sets_its_list_aside(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"query": "q", "documents": ["d", 3]}\n{"query": "q", "documents": ["d"]}', encoding="utf-8"
    )
    report = run(source, tmp_path / "out.jsonl", on_bad_row="set_aside")
    assert report.rejected is not None
    assert "'documents[1]' is a int" in read_jsonl(report.rejected)[0]["reason"]
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
        on_bad_row="set_aside",
        overwrite=True,
    )
    assert report.rejected is not None
    assert read_jsonl(report.rejected)[0]["reason"] == "the instruction is too long"
    written = [(row["i"], row["relevance_score"], row["rank"]) for row in read_csv(tmp_path / "out.csv")]
    assert written == [("", "0.25", "1"), ("other", "0.5", "1"), ("", "0.25", "2"), ("again", "0.25", "1")]
