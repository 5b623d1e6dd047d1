from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins import InputError
from tests.batch.files import read_csv, read_jsonl, run

ROWS = [{"id": "1", "query": "a, b; c", "document": "d"}, {"id": "2", "query": "q", "document": "1,5"}]


def quoted(delimiter: str) -> str:
    lines = [["id", "query", "document"], *([f'"{cell}"' for cell in row.values()] for row in ROWS)]
    return "".join(f"{delimiter.join(line)}\r\n" for line in lines)


def rows_of(
    folder: Path, text: str, name: str = "in.csv", encoding: str = "utf-8", **options: Any
) -> list[dict[str, str]]:
    (folder / name).write_bytes(text.encode(encoding))
    run(folder / name, folder / "out.jsonl", overwrite=True, **options)
    added = {"relevance_score", "rank"}
    return [{k: v for k, v in row.items() if k not in added} for row in read_jsonl(folder / "out.jsonl")]


@pytest.mark.parametrize("name", ["in.csv", "in.tsv"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_the_one_that_yields_the_columns(tmp_path: Path, name: str, delimiter: str) -> None:
    assert rows_of(tmp_path, quoted(delimiter), name) == ROWS


@pytest.mark.parametrize("line", ["sep=~\r\n", '"sep=~"\n', "SEP=~\n", "sep=~;;;\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_first_line_may_name_the_delimiter(tmp_path: Path, line: str, encoding: str) -> None:
    assert rows_of(tmp_path, line + quoted("~"), encoding=encoding) == ROWS


def test_an_option_comes_before_the_first_line_and_the_detection(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "sep=;\n" + quoted("~"), delimiter="~") == ROWS
    with pytest.raises(InputError, match="no column 'document'"):
        rows_of(tmp_path, quoted(";"), delimiter=",")


def test_a_delimiter_counts_only_if_it_yields_the_columns(tmp_path: Path) -> None:
    """Semicolons are frequent here, but they are punctuation."""
    with pytest.raises(InputError, match="no column 'document' or 'documents', only 'a;b;c', 'd'; name"):
        rows_of(tmp_path, "a;b;c,d\n1;2;3,4\n")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("query,document,,\nq,d,,\nq,e\nq,f,,,,\nq,g,\n", ["column_3", "column_4"]),
        ("query,document,\nq,d,\nq,e\nq,f,,,,\nq,g\n", [""]),
        ("query,document,,\r\nq,d\r\nq,e, , \r\nq,f\r\nq,g\r\n", ["column_3", "column_4"]),
        ("query,document\nq,d,,\nq,e\nq,f,\nq,g\n", []),
    ],
)
def test_empty_columns_at_the_end_may_be_missing_or_too_many(
    tmp_path: Path, text: str, names: list[str]
) -> None:
    rows = rows_of(tmp_path, text)
    assert [row["document"] for row in rows] == ["d", "e", "f", "g"]
    assert list(rows[0]) == ["query", "document", *names]


def test_blank_names_in_between_are_numbered_and_their_cells_are_kept(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ",query, ,document\n7,q,note,d\n")
    assert rows == [{"column_1": "7", "query": "q", "column_3": "note", "document": "d"}]
    assert rows_of(tmp_path, ",query,document\n7,q,d\n") == [{"": "7", "query": "q", "document": "d"}]


def test_a_cell_that_no_column_names_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("query,document\nq,d,,x\nq,e\n", encoding="utf-8")
    report = run(tmp_path / "in.csv", tmp_path / "out.csv", on_bad_row="reject")
    assert report.rejected is not None
    assert read_jsonl(report.rejected)[0]["reason"] == "the row has 4 cells; the first line has 2"
    assert len(read_csv(tmp_path / "out.csv")) == 1
