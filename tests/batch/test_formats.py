from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen_rerank_plugins import InputError, Reranker
from qwen_rerank_plugins.batch import unescape_formula
from tests.batch.files import PAIRS, RANKS, read_csv, read_jsonl, run, write_csv, write_jsonl


def test_a_csv_keeps_its_cells_and_gets_score_and_rank(tmp_path: Path) -> None:
    report = run(write_csv(tmp_path / "in.csv", PAIRS), tmp_path / "out.csv")
    rows = read_csv(tmp_path / "out.csv")
    assert list(rows[0]) == ["id", "query", "document", "relevance_score", "rank"]
    assert [{**row, "document": unescape_formula(row["document"])} for row in rows] == [
        {**pair, "relevance_score": row["relevance_score"], "rank": str(rank)}
        for pair, row, rank in zip(PAIRS, rows, RANKS, strict=True)
    ]
    assert (report.status, report.num_rows, report.num_written, report.num_pairs) == ("complete", 5, 5, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_scores_and_ranks_are_those_of_the_reranker(tmp_path: Path) -> None:
    run(write_csv(tmp_path / "in.csv", PAIRS), tmp_path / "out.jsonl", window_rows=2, call_pairs=1)
    written = read_jsonl(tmp_path / "out.jsonl")
    with Reranker(backend="lexical") as reranker:
        for query in ("blue whale", "red fox"):
            own = [row for row in written if row["query"] == query]
            result = reranker.rank(query, [row["document"] for row in own])
            assert [own[one.index]["rank"] for one in result.results] == list(range(1, len(own) + 1))
            assert [row["relevance_score"] for row in own] == [one.relevance_score for one in result.scores]


def test_instruction_and_query_are_joined_with_their_lengths(tmp_path: Path) -> None:
    """Instruction "a" with query "bc", and "ab" with "c": the same letters, but two lists, each with its own ranks."""
    rows = [{"i": "a", "query": "bc", "document": "d"}, {"i": "ab", "query": "c", "document": "d"}]
    run(write_csv(tmp_path / "in.csv", rows), tmp_path / "out.csv", instruction_column="i")
    assert [row["rank"] for row in read_csv(tmp_path / "out.csv")] == ["1", "1"]


@pytest.mark.parametrize("input_format", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
@pytest.mark.parametrize("output_format", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
def test_every_format_goes_to_every_other_with_the_same_rows(
    tmp_path: Path, input_format: str, output_format: str
) -> None:
    run(
        write_csv(tmp_path / "first.csv", PAIRS),
        tmp_path / f"in.{input_format}",
        rank_column="r0",
        score_column="s0",
    )
    escaped = not input_format.startswith(("jsonl", "parquet"))
    target = tmp_path / f"out.{output_format}"
    run(tmp_path / f"in.{input_format}", target, unescape_formulas=escaped)
    run(target, tmp_path / "last.jsonl", unescape_formulas=True, score_column="s2", rank_column="r2")
    rows = read_jsonl(tmp_path / "last.jsonl")
    assert [{name: row[name] for name in ("id", "query", "document")} for row in rows] == PAIRS
    assert [int(row["rank"]) for row in rows] == RANKS
    assert [float(row["relevance_score"]) for row in rows] == [row["s2"] for row in rows]
    if target.suffix == ".gz":
        assert gzip.decompress(target.read_bytes())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str, suffix: str) -> None:
    source = tmp_path / f"in.{suffix}"
    text = 'query,document\n猫,"猫と犬"\n' if suffix == "csv" else '{"query": "猫", "document": "猫と犬"}\n'
    source.write_bytes(text.encode(encoding))
    run(source, tmp_path / "out.jsonl")
    (row,) = read_jsonl(tmp_path / "out.jsonl")
    assert (row["query"], row["document"]) == ("猫", "猫と犬")


def test_csv_for_excel_has_a_mark_and_ends_lines_as_the_standard_says(tmp_path: Path) -> None:
    run(write_csv(tmp_path / "in.csv", PAIRS[:1]), tmp_path / "out.csv", bom=True, delimiter=",")
    data = (tmp_path / "out.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbfid,query,document,relevance_score,rank\r\n")


def test_formulas_can_be_left_as_they_are(tmp_path: Path) -> None:
    run(write_csv(tmp_path / "in.csv", PAIRS), tmp_path / "out.csv", escape_formulas=False)
    assert [row["document"] for row in read_csv(tmp_path / "out.csv")] == [pair["document"] for pair in PAIRS]


def test_a_column_named_like_a_formula_is_inert_too(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", [{"=cmd": "-2+3", "query": "q", "document": "d"}])
    run(source, tmp_path / "out.csv")
    assert next(iter(read_csv(tmp_path / "out.csv")[0])) == "'=cmd"
    assert read_csv(tmp_path / "out.csv")[0]["'=cmd"] == "'-2+3"


def test_cells_may_hold_lines_nul_bytes_and_more_than_the_csv_module_likes(tmp_path: Path) -> None:
    long = "word " * 100_000
    rows = [{"query": "word", "document": long}, {"query": "a\0b", "document": "one\r\ntwo\rthree\n\n"}]
    run(write_csv(tmp_path / "in.csv", rows), tmp_path / "out.csv")
    assert [{"query": r["query"], "document": r["document"]} for r in read_csv(tmp_path / "out.csv")] == rows


def test_json_keeps_every_character_of_a_row(tmp_path: Path) -> None:
    line = '{"n": 1.10, "big": 123456789012345678901234567890, "query":"\\u732b", "document": "x",  "o": {"a": [ ]} }'
    (tmp_path / "in.jsonl").write_text(f"\n{line}\r\n \n", encoding="utf-8")
    report = run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    out = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert out.startswith(line[:-2] + ', "relevance_score": ')
    assert json.loads(out)["rank"] == 1
    assert report.num_blank_lines == 2


def test_a_table_of_json_rows_has_every_column_of_any_of_them(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"query": "q", "document": "d", "n": 1, "mixed": 1, "flag": True},
        {"query": "q", "document": "e", "n": 2.5, "mixed": "x", "more": {"a": [1]}, "huge": 1 << 70},
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    run(source, tmp_path / "out.csv")
    first, second = read_csv(tmp_path / "out.csv")
    names = ["query", "document", "n", "mixed", "flag", "more", "huge", "relevance_score", "rank"]
    assert list(first) == names
    assert (first["flag"], first["more"], second["more"], second["n"]) == ("true", "", '{"a": [1]}', "2.5")
    run(source, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names == names
    assert table.column("n").to_pylist() == [1.0, 2.5]
    assert table.column("mixed").to_pylist() == ["1", "x"]
    assert table.column("flag").to_pylist() == [True, None]
    assert table.column("huge").to_pylist() == [None, str(1 << 70)]


def test_parquet_keeps_types_and_metadata(tmp_path: Path) -> None:
    table = pa.table(
        {
            "query": pa.array(["q", "q"]).dictionary_encode(),
            "document": pa.array(["d", "q"], pa.large_string()),
            "when": pa.array([datetime(2026, 1, 2, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
            "raw": pa.array([b"\xff\x00", None]),
        },
        metadata={"kept": "yes"},
    )
    pq.write_table(table, tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.select(table.schema.names).equals(table)
    assert out.schema.metadata[b"kept"] == b"yes"
    assert out.column("rank").to_pylist() == [2, 1]
    assert [str(out.schema.field(name).type) for name in ("relevance_score", "rank")] == ["double", "int64"]
    run(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert read_jsonl(tmp_path / "out.jsonl")[0]["raw"] == "/wA="


def test_details_are_added_on_request(tmp_path: Path) -> None:
    run(write_csv(tmp_path / "in.csv", PAIRS[:1]), tmp_path / "out.jsonl", details=True)
    (row,) = read_jsonl(tmp_path / "out.jsonl")
    assert list(row)[-7:] == [
        "relevance_score", "rank", "log_odds", "truncated", "query_truncated", "blank", "warnings",
    ]  # fmt: skip
    assert (row["log_odds"], row["truncated"]) == (4.5, False)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_without_rows_gives_a_file_without_rows(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"in.{suffix}"
    if suffix == "parquet":
        pq.write_table(
            pa.table({"query": pa.array([], pa.string()), "document": pa.array([], pa.string())}), source
        )
    else:
        source.write_text("query,document\n" if suffix == "csv" else "", encoding="utf-8")
    report = run(source, tmp_path / f"out.{suffix}")
    assert (report.status, report.num_rows, report.num_written) == ("complete", 0, 0)
    assert (tmp_path / f"out.{suffix}").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("in.csv", "", "file is empty"),
        ("in.csv", "a,b\n1,2\n", "no column 'document' or 'documents', only 'a', 'b'"),
        ("in.csv", "q,document\n1,2\n", "no column 'query', only 'q', 'document'"),
        ("in.csv", "query,document,documents\n", "choose one with --form pairs or --form lists"),
        ("in.csv", "query,document,id,id\n", "repeated columns: 'id'"),
        ("in.csv", "query,document,rank\n", "already has 'rank'; choose other names"),
        ("in.csv", 'query,"document\n', "line 1: not valid CSV"),
        ("in.jsonl", '{"text": 1}\n', "no column 'document' or 'documents', only 'text'"),
        ("in.txt", "", "unknown file format"),
        ("in.xlsx", b"PK", "spreadsheet files are not supported: .*; use CSV"),
        ("in.csv.gz", b"\x1f\x8b\x08\x00broken", "not a complete gzip file"),
        ("in.parquet", "no parquet", "file cannot be read"),
        ("in.csv", b"\xff\xfea\x00b", "is not valid UTF-16"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_at_once(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        run(tmp_path / name, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query": [1], "document": ["d"]}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="column 'query' has type 'int64'; convert it to a string"):
        run(tmp_path / "in.parquet", tmp_path / "out.csv")


def test_a_process_wide_limit_of_the_csv_module_is_never_lowered(tmp_path: Path) -> None:
    before = csv.field_size_limit(1 << 30)
    try:
        run(write_csv(tmp_path / "in.csv", PAIRS), tmp_path / "out.csv")
        assert csv.field_size_limit() == 1 << 30
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_output_of_an_earlier_run_is_refused_or_its_columns_are_replaced(
    tmp_path: Path, suffix: str
) -> None:
    first, second = tmp_path / f"first.{suffix}", tmp_path / "second.jsonl"
    run(write_csv(tmp_path / "in.csv", PAIRS), first, details=True)
    with pytest.raises(InputError, match=r"already has .*'rank'.*--replace-columns"):
        run(first, second, details=True)
    run(first, second, details=True, replace_columns=True, overwrite=True)
    run(tmp_path / "in.csv", tmp_path / "expected.jsonl", details=True)
    expected = read_jsonl(tmp_path / "expected.jsonl")
    written = read_jsonl(second)
    assert [list(row) for row in written] == [list(row) for row in expected]
    assert [row["rank"] for row in written] == RANKS


def test_a_column_that_scoring_needs_is_not_replaced(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", PAIRS)
    with pytest.raises(InputError, match="already has 'document'"):
        run(source, tmp_path / "out.csv", score_column="document", replace_columns=True)


def test_a_row_of_json_without_the_replaced_columns_keeps_every_character(tmp_path: Path) -> None:
    line = '{"query": "q",  "document": "d", "n": 1.10}'
    (tmp_path / "in.jsonl").write_text(
        line + line.replace("}", ', "rank": 7}').join("\n\n"), encoding="utf-8"
    )
    run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", replace_columns=True)
    first, second = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert first.startswith(line[:-1])
    assert json.loads(second)["rank"] == 2
