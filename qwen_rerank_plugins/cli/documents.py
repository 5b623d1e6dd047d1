"""Read documents from text, JSON Lines and CSV; errors name the line. Knows neither reranker nor terminal."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwen_rerank_plugins.errors import InputError

InputFormat = Literal["text", "jsonl", "csv"]

DEFAULT_CSV_FIELDS = ("text", "document")

_FORMATS: dict[str, InputFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """The documents of a file.

    Attributes:
        texts: The text of each document.
        records: Each document as the file holds it: a string, or the mapping that the text is part of.
        num_blank_lines: Number of blank lines, which are skipped.
    """

    texts: list[str]
    records: list[Any]
    num_blank_lines: int


def read_documents(path: str, *, input_format: InputFormat | None, text_field: str | None) -> DocumentFile:
    """Read documents from a file with one per line, as JSON Lines, or as CSV.

    Args:
        path: A file, or `-` for standard input.
        input_format: None to decide by the suffix: `.jsonl`, `.ndjson` or `.csv`, anything else is text.
        text_field: Key or column of the text; None for `text`, in CSV also `document` or the only column.

    Raises:
        InputError: The file cannot be read, is not UTF-8 (or UTF-16 with a byte order mark), or has an invalid line.
    """
    name = "standard input" if path == "-" else path
    text = _decode(_read_bytes(path), name)
    chosen = input_format or _FORMATS.get(Path(path).suffix.lower(), "text")
    if chosen == "csv":
        return _read_csv(text, name, text_field)
    return _read_lines(text, name, chosen, text_field or "text")


def _read_bytes(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"file cannot be read: {path!r}: {reason}") from error


def _decode(data: bytes, name: str) -> str:
    encoding = "utf-16" if data.startswith(_UTF16_MARKS) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        # The codec utf-8-sig counts from after the byte order mark.
        skipped = 3 if encoding == "utf-8-sig" and data.startswith(codecs.BOM_UTF8) else 0
        offset = error.start + skipped
        kind = encoding.removesuffix("-sig").upper()
        place = f"byte {data[offset]:#04x} at offset {offset}"
        hint = "convert it to UTF-8, or to UTF-16 with a byte order mark"
        raise InputError(f"{name} is not {kind}: {place}; {hint}") from error


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Number the lines from 1; only line feeds end a line, not the other line separators of Unicode."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield number, line.removesuffix("\r")


def _read_lines(text: str, name: str, chosen: InputFormat, text_field: str) -> DocumentFile:
    texts: list[str] = []
    records: list[Any] = []
    num_blank_lines = 0
    for number, line in _lines(text):
        if not line.strip():
            num_blank_lines += 1
            continue
        record = _parse_json(line, f"{name}, line {number}") if chosen == "jsonl" else line
        texts.append(_text_of_record(record, f"{name}, line {number}", text_field))
        records.append(record)
    return DocumentFile(texts, records, num_blank_lines)


def _parse_json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: invalid JSON: {error.msg} at column {error.colno}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        raise InputError(f"{place}: unsupported JSON: {error}") from error


def _text_of_record(record: Any, place: str, text_field: str) -> str:
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise InputError(f"{place}: must be a string or an object with {text_field!r}, got {kind}")
    if text_field not in record:
        keys = ", ".join(repr(key) for key in list(record)[:8]) or "nothing"
        raise InputError(f"{place}: no {text_field!r} among {keys}; choose a key with --text-field")
    text = record[text_field]
    if not isinstance(text, str):
        raise InputError(f"{place}: {text_field!r} must be a string, got {type(text).__name__}")
    return text


def _read_csv(text: str, name: str, text_field: str | None) -> DocumentFile:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # the default refuses long documents
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    texts: list[str] = []
    records: list[Any] = []
    num_blank_lines = 0
    columns: list[str] | None = None
    try:
        for row in reader:
            if _is_blank(row):
                num_blank_lines += 1
            elif columns is None:
                columns = row
                position = columns.index(_csv_column(columns, name, text_field))
            else:
                texts.append(_csv_cell(row, columns, position, f"{name}, line {reader.line_num}"))
                records.append(dict(zip(columns, row, strict=False)))
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: invalid CSV: {error}") from error
    return DocumentFile(texts, records, num_blank_lines)


def _is_blank(row: list[str]) -> bool:
    return not row or (len(row) == 1 and not row[0].strip())


def _csv_column(columns: list[str], name: str, text_field: str | None) -> str:
    candidates = (
        [text_field] if text_field else [*DEFAULT_CSV_FIELDS, *(columns if len(columns) == 1 else [])]
    )
    for candidate in candidates:
        if candidate in columns:
            return candidate
    found = ", ".join(repr(column) for column in columns)
    wanted = " or ".join(repr(field) for field in ([text_field] if text_field else DEFAULT_CSV_FIELDS))
    raise InputError(f"{name}: no column {wanted} among {found}; choose a column with --text-field")


def _csv_cell(row: list[str], columns: list[str], position: int, place: str) -> str:
    if len(row) > len(columns):
        raise InputError(f"{place}: {len(row)} cells, but the first line has {len(columns)}")
    if position >= len(row):
        raise InputError(f"{place}: the row ends before column {columns[position]!r}")
    return row[position]
