"""Read documents from text, JSON and CSV; errors name the line. Knows neither reranker nor terminal."""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from qwen_rerank_plugins.batch import Guess, delimited
from qwen_rerank_plugins.batch.elements import open_json
from qwen_rerank_plugins.batch.encodings import detect_encoding
from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.protocols import TextFormat
from qwen_rerank_plugins.batch.rows import BadRowError, parse_json
from qwen_rerank_plugins.batch.streams import MAX_LINE_CHARS, TextLines, read_lines
from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.recipe import repair_json

InputFormat = Literal["text", "jsonl", "csv"]

DEFAULT_CSV_FIELDS = ("text", "document")

_FORMATS: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """The documents of a file.

    Attributes:
        texts: The text of each document.
        records: Each document as the file holds it: a string, or the mapping that the text is part of.
        num_blank_lines: Number of blank lines, which are skipped.
        guess: Encoding and delimiter with three decoded texts, if one of them is a guess; else None.
        repaired: Indices of the documents in whose JSON U+FFFD replaced a lone surrogate.
    """

    texts: list[str]
    records: list[Any]
    num_blank_lines: int
    guess: Guess | None = None
    repaired: frozenset[int] = frozenset()


def read_documents(
    path: str,
    *,
    input_format: InputFormat | None,
    text_field: str | None,
    options: BatchOptions | None = None,
) -> DocumentFile:
    """Read documents from a file with one per line, as JSON Lines or a JSON array, or as CSV.

    Args:
        path: A file, plain or gzip, or `-` for standard input.
        input_format: None to decide by the suffix: `.jsonl`, `.ndjson`, `.json`, `.csv` or `.tsv`, anything else is text.
        text_field: Key or column of the text; None for `text`, in CSV also `document` or the only column.
        options: `encoding` and `delimiter`; None to detect both.

    Raises:
        InputError: The file cannot be read, its encoding is not known, or it has an invalid line.
    """
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    chosen = input_format or _FORMATS.get(suffix, "text")
    options = options or BatchOptions()
    with _named_file(path) as (file, name):
        encoding, is_guess = (options.encoding, False) if options.encoding else detect_encoding(file)
        open_lines: Callable[[], TextLines] = partial(
            TextLines, file, encoding=encoding, max_chars=MAX_LINE_CHARS
        )
        text_format = TextFormat(encoding, options.delimiter, ("encoding",) if is_guess else ())
        if chosen == "csv":
            return _read_csv(open_lines, name, text_field, text_format, "\t" if suffix == ".tsv" else ",")
        if chosen == "jsonl":
            open_lines = partial(open_json, file, encoding=encoding, max_chars=MAX_LINE_CHARS)
        return _read_lines(open_lines(), name, chosen, text_field or "text", text_format)


@contextmanager
def _named_file(path: str) -> Iterator[tuple[Path, str]]:
    """Provide a file with its name in messages; standard input is copied to a temporary one, to be read twice."""
    if path != "-":
        yield Path(path), path
        return
    with tempfile.NamedTemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        try:
            yield Path(file.name), "standard input"
        except InputError as error:
            raise InputError(str(error).replace(file.name, "standard input")) from error


def _read_lines(
    lines: TextLines, name: str, chosen: InputFormat, text_field: str, text_format: TextFormat
) -> DocumentFile:
    texts: list[str] = []
    records: list[Any] = []
    repaired: set[int] = set()
    num_blank_lines = 0
    for number, line in read_lines(lines, name):
        place = f"{name}, line {number}"
        if not line.strip():
            num_blank_lines += 1
            continue
        record: Any = line
        if chosen == "jsonl":
            text = repair_json(line)
            repaired |= {len(texts)} if text != line else set()
            try:
                record = parse_json(text)
            except BadRowError as error:
                raise InputError(f"{place}: {error}") from error
        texts.append(_text_of_record(record, place, text_field))
        records.append(record)
    return DocumentFile(texts, records, num_blank_lines, Guess.of(text_format, texts), frozenset(repaired))


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


def _read_csv(
    open_lines: Callable[[], TextLines],
    name: str,
    text_field: str | None,
    text_format: TextFormat,
    default_delimiter: str,
) -> DocumentFile:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARS))  # the default refuses long documents
    delimiter = text_format.delimiter
    if delimiter is None:
        wanted = {text_field} if text_field else set(DEFAULT_CSV_FIELDS)
        delimiter, is_guess = delimited.detect_delimiter(
            open_lines, default_delimiter, lambda names: bool(wanted & {*names})
        )
        guessed = (*text_format.guessed, *(("delimiter",) if is_guess else ()))
        text_format = TextFormat(text_format.encoding, delimiter, guessed)
    texts: list[str] = []
    records: list[Any] = []
    num_blank_lines = 0
    columns: list[str] | None = None
    with open_lines() as lines:
        for number, cells, problem in delimited.read_records(lines, delimiter):
            place = f"{name}, line {number}"
            if problem is not None:
                raise InputError(f"{place}: {problem}")
            if not cells:
                num_blank_lines += 1
            elif columns is None:
                columns = delimited.column_names(cells)
                position = columns.index(_csv_column(columns, name, text_field))
            else:
                row = cells[: len(columns)] if not any(map(str.strip, cells[len(columns) :])) else cells
                texts.append(_csv_cell(row, columns, position, place))
                records.append(dict(zip(columns, row, strict=False)))
    return DocumentFile(texts, records, num_blank_lines, Guess.of(text_format, texts))


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
