from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import InputError
from qwen_rerank_plugins.cli.documents import DocumentFile, read_documents


def _read(folder: Path, name: str, data: bytes | str, text_field: str | None = None) -> DocumentFile:
    path = folder / name
    path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    return read_documents(str(path), input_format=None, text_field=text_field)


def test_text_holds_one_document_a_line_and_blank_lines_are_counted(tmp_path: Path) -> None:
    file = _read(tmp_path, "a.txt", "one\n\n  two \r\n \t\nthree")
    assert file == DocumentFile(["one", "  two ", "three"], ["one", "  two ", "three"], 2)


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    assert _read(tmp_path, "a.txt", "a\u2028b\x0bc\x85d\re\n").texts == ["a\u2028b\x0bc\x85d\re"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    assert _read(tmp_path, "a.txt", mark + "猫\ncat\n".encode(encoding)).texts == ["猫", "cat"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc\nd\xe9f\n", r"is not UTF-8: byte 0xe9 at offset 5"),
        (b"\xef\xbb\xbfab\xff", r"is not UTF-8: byte 0xff at offset 5"),
        (b"\xff\xfea\x00b", r"is not UTF-16: byte 0x62 at offset 4"),
    ],
)
def test_other_encodings_are_refused_with_the_byte_and_its_offset(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _read(tmp_path, "a.txt", data)


def test_jsonl_holds_strings_and_objects_that_are_kept_whole(tmp_path: Path) -> None:
    file = _read(tmp_path, "a.jsonl", '"plain"\n\n{"text": "t", "id": 7}\n')
    assert file == DocumentFile(["plain", "t"], ["plain", {"text": "t", "id": 7}], 1)
    other = _read(tmp_path, "a.ndjson", '{"text": "no", "body": "yes"}\n', text_field="body")
    assert (other.texts, other.records) == (["yes"], [{"text": "no", "body": "yes"}])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: invalid JSON"),
        ("3", "line 3: must be a string or an object with 'text', got int"),
        ("null", "line 3: must be a string or an object with 'text', got NoneType"),
        ('{"body": "x"}', "line 3: no 'text' among 'body'; choose a key with --text-field"),
        ('{"text": null}', "line 3: 'text' must be a string, got NoneType"),
        ("[" * 100_000, "line 3: unsupported JSON"),
        ("1" * 5_000, "line 3: unsupported JSON"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _read(tmp_path, "a.jsonl", f'"good"\n\n{line}\n')


@pytest.mark.parametrize("header", ["id,text", "document,id", "only"])
def test_the_column_of_a_csv_is_found(tmp_path: Path, header: str) -> None:
    columns = header.split(",")
    row = ["words" if column in {"text", "document", "only"} else "7" for column in columns]
    file = _read(tmp_path, "a.csv", f"\ufeff{header}\n{','.join(row)}\n")
    assert (file.texts, file.records) == (["words"], [dict(zip(columns, row, strict=True))])


def test_csv_cells_may_hold_lines_quotes_and_much_text(tmp_path: Path) -> None:
    long = "x" * 300_000
    file = _read(
        tmp_path, "a.csv", f'\nid,body\n1,"two\r\nlines, ""quoted"""\n\n2,{long}\n3,\n', text_field="body"
    )
    assert file.texts == ['two\r\nlines, "quoted"', long, ""]
    assert file.num_blank_lines == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column 'text' or 'document' among 'a', 'b'; choose a column with --text-field"),
        ("id,text\n1,x\n2\n", "line 3: the row ends before column 'text'"),
        ("id,text\n1,x,y\n", "line 2: 3 cells, but the first line has 2"),
        ('id,text\n1,"never closed\n', "invalid CSV: unexpected end of data"),
    ],
)
def test_a_bad_csv_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _read(tmp_path, "a.csv", text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none.txt"), str(tmp_path), "nul\0byte"):
        with pytest.raises(InputError, match="file cannot be read"):
            read_documents(path, input_format=None, text_field=None)


def test_standard_input_is_text_unless_an_option_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"text": "a"}\n'
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert read_documents("-", input_format=None, text_field=None).texts == ['{"text": "a"}']
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert read_documents("-", input_format="jsonl", text_field=None).texts == ["a"]


def test_an_empty_file_holds_no_documents(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl", "a.csv"):
        assert _read(tmp_path, name, "") == DocumentFile([], [], 0)


@given(st.lists(st.text(min_size=1).filter(lambda text: bool(text.strip()))))
def test_any_text_comes_back_from_jsonl(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp()
    lines: list[Any] = [json.dumps({"text": text}) for text in texts]
    assert _read(folder, "any.jsonl", "\n".join(lines)).texts == texts
