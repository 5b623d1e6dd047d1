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
from typer.testing import CliRunner

from qwen_rerank_plugins import InputError
from qwen_rerank_plugins.cli.app import app
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
        (("猫" * 9 + "\n").encode() + b"d\xe9f\n", r"line 2: not UTF-8: byte 0xe9 at character 2"),
        (b"\xef\xbb\xbfab\xff", r"line 1: not UTF-8: byte 0xff at character 3"),
        (b"\xff\xfea\x00b", r"is not valid UTF-16-LE: byte 0x62 after line 0"),
    ],
)
def test_damage_is_refused_with_the_byte_and_its_line(tmp_path: Path, data: bytes, message: str) -> None:
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
        ("{", "line 3: not valid JSON"),
        ("3", "line 3: must be a string or an object with 'text', got int"),
        ("null", "line 3: must be a string or an object with 'text', got NoneType"),
        ('{"body": "x"}', "line 3: no 'text' among 'body'; choose a key with --text-field"),
        ('{"text": null}', "line 3: 'text' must be a string, got NoneType"),
        ("[" * 100_000, "line 3: JSON cannot be parsed"),
        ("1" * 5_000, "line 3: JSON cannot be parsed"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _read(tmp_path, "a.jsonl", f'"good"\n\n{line}\n')


def test_values_of_json_may_span_lines_and_strings_end_with_theirs(tmp_path: Path) -> None:
    file = _read(tmp_path, "a.json", '"one, [two]"\n{"text":\n"three"}\n\n"four"')
    assert file.texts == ["one, [two]", "three", "four"]
    with pytest.raises(InputError, match="line 2: must be a string or an object with 'text', got int"):
        _read(tmp_path, "a.json", '"one"\n2\n"three"')


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
        ('id,text\n1,"never closed\n', "not valid CSV: unexpected end of data"),
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


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16-le", "utf-8"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "怎么洗猫\n用温水和猫用香波轻轻地洗\n"),
        ("a.csv", "id;text\n1;怎么洗猫\n2;用温水和猫用香波轻轻地洗\n"),
        ("a.tsv", "sep=|\nid|text|\n1|怎么洗猫||\n2|用温水和猫用香波轻轻地洗\n"),
        ("a.json", '[{"text":\n "怎么洗猫"}, "用温水和猫用香波轻轻地洗"]'),
    ],
)
def test_encodings_delimiters_and_arrays_are_those_of_batch(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    file = _read(tmp_path, name, text.encode(encoding))
    assert file.texts == ["怎么洗猫", "用温水和猫用香波轻轻地洗"]
    guessed = [*(["encoding"] if encoding != "utf-8" else []), *(["delimiter"] if name == "a.csv" else [])]
    assert list(file.guess.options if file.guess else ()) == guessed
    if guessed:
        assert file.guess is not None
        assert "'怎么洗猫', '用温水和猫用香波轻轻地洗'" in str(file.guess)


def test_the_command_takes_encoding_and_delimiter_and_prints_a_guess(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id;text\n1;怎么洗猫\n".encode("gbk"))
    words = ["rank", "洗猫", str(path), "--backend", "lexical", "--format", "json"]
    named = CliRunner().invoke(app, [*words, "--encoding", "gbk", "--delimiter", ";"])
    assert json.loads(named.stdout)["results"][0]["document"]["text"] == "怎么洗猫"
    assert "guessed" not in named.stderr
    guessed = CliRunner().invoke(app, [*words, "--delimiter", ";"])
    assert "encoding 'gb18030' guessed; the text reads '怎么洗猫'" in guessed.stderr
    assert "and delimiter ';' guessed" in CliRunner().invoke(app, words).stderr
    assert CliRunner().invoke(app, [*words, "--encoding", "utf-8"]).exit_code == 2


def test_an_error_in_standard_input_names_it_and_no_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"PK\x03\x04")))
    with pytest.raises(InputError, match=r"^standard input is a workbook"):
        read_documents("-", input_format=None, text_field=None)
