"""Read a file of any columns as a table of texts, within limits. Scores nothing."""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from qwen_rerank_plugins.batch.delimited import (
    SAMPLE_ROWS,
    Record,
    fit_cells,
    named_delimiter,
    read_records,
    regular_delimiters,
)
from qwen_rerank_plugins.batch.elements import open_json
from qwen_rerank_plugins.batch.encodings import CANDIDATES, EncodingError, NotTextError, detect_encoding
from qwen_rerank_plugins.batch.formats import SUFFIXES
from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.progress import Guess
from qwen_rerank_plugins.batch.protocols import TextFormat
from qwen_rerank_plugins.batch.sources import read_objects
from qwen_rerank_plugins.batch.streams import LineTooLongError, TextLines, find_bad_bytes

__all__ = ["Ambiguity", "RejectedRow", "Table", "TableLimits", "read_table"]

SHOWN_REJECTED = 3
DECODED_CELLS = 10_000  # of Parquet, at a time: each is a Python object
MAX_HEADER_CHARS = 24
MIN_TEXT_CHARS = 12  # mean of the cells below a header
ONE_COLUMN = "\x1f"  # a delimiter that text does not contain

_TEXT_COLUMN = re.compile(
    "text|document|documents|doc|content|body|passage|文本|文档|内容|正文|段落", re.IGNORECASE
)
_NUMBER = re.compile(r"\s*[+-]?[0-9]+(?:[.,][0-9]+)?(?:[eE][+-]?[0-9]+)?%?\s*")
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Limits of what is read. A file that exceeds one is read up to it.

    Attributes:
        max_rows: Maximum rows, the header included.
        max_cells: Maximum cells.
        max_chars: Maximum characters of all cells.
        timeout_s: Maximum seconds.
    """

    max_rows: int
    max_cells: int
    max_chars: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """An option of which several values are plausible, or none. The rows are read with the first choice.

    Attributes:
        option: The option that chooses one.
        choices: The plausible values; all known ones if none is plausible.
        message: What to do.
    """

    option: Literal["encoding", "delimiter"]
    choices: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be read.

    Attributes:
        line: Its first line in the file, from 1; in Parquet the number of the row.
        problem: The reason.
    """

    line: int
    problem: str


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file as texts.

    Attributes:
        format: The format; `text` for one text per line.
        encoding: The encoding; None for Parquet.
        delimiter: The delimiter; None if there is one column, or no delimiter in this format.
        guess: Encoding and delimiter with three decoded texts, if one of them is a guess.
        ambiguous: The guesses that are uncertain.
        header: The names of the columns; None if the first row seems to be no header.
        document_column: Index of the column that seems to hold the documents.
        rows: The cells of each row, without the header.
        num_rows: The number of rows; None if a limit was reached.
        num_blank: Blank rows, which are skipped.
        num_rejected: Rows that cannot be read.
        rejected: The first of them.
    """

    format: Literal["csv", "jsonl", "parquet", "text"]
    encoding: str | None
    delimiter: str | None
    guess: Guess | None
    ambiguous: tuple[Ambiguity, ...]
    header: Sequence[str] | None
    document_column: int
    rows: Sequence[Sequence[str]]
    num_rows: int | None
    num_blank: int
    num_rejected: int
    rejected: Sequence[RejectedRow]


def read_table(path: Path, options: BatchOptions, limits: TableLimits, *, one_column: bool = False) -> Table:
    """Read a file. Its suffix determines the format; with an unknown one, each line is a text.

    Lines are split at tabs if these split them regularly, and at another delimiter if the options name one.

    Args:
        path: The file, uncompressed.
        options: Encoding and delimiter; None to detect them.
        limits: What is read at most.
        one_column: Whether CSV has one column, and so no delimiter.

    Raises:
        NotTextError: The file is neither text nor Parquet.
        InputError: The file cannot be read.
        MissingDependencyError: The format is Parquet, and pyarrow is not installed.
    """
    options = options.model_copy(update={"max_row_chars": min(options.max_row_chars, limits.max_chars)})
    csv.field_size_limit(
        max(csv.field_size_limit(), options.max_row_chars)
    )  # the default refuses long documents
    found = SUFFIXES.get(path.suffix.lower())
    columns: dict[str, None] = {}
    if found == "parquet":
        rows = _collect(_aligned(_parquet_objects(path, options), columns), limits)
        return _table("parquet", None, (), rows, columns)
    text_format, ambiguous = _detect_encoding(path, options)
    open_lines = partial(TextLines, path, encoding=text_format.encoding, max_chars=options.max_row_chars)
    if found == "jsonl":
        with open_json(path, encoding=text_format.encoding, max_chars=options.max_row_chars) as lines:
            rows = _collect(_aligned(_json_objects(lines), columns), limits)
        return _table("jsonl", text_format, ambiguous, rows, columns)
    _check_is_text(path, open_lines)
    if not one_column:
        delimiter, is_guess, doubts = _detect_delimiter(path, open_lines, options)
        guessed = (*text_format.guessed, *(("delimiter",) if is_guess else ()))
        text_format, ambiguous = TextFormat(text_format.encoding, delimiter, guessed), ambiguous + doubts
    if text_format.delimiter or found == "csv":
        with open_lines() as lines:
            rows = _collect(_fitted(read_records(lines, text_format.delimiter or ONE_COLUMN)), limits)
        if text_format.delimiter or not rows.num_rejected:
            return _table("csv", text_format, ambiguous, rows)
    with open_lines() as lines:
        return _table("text", text_format, ambiguous, _collect(_line_records(lines), limits))


@dataclass(slots=True)
class _Rows:
    cells: list[list[str]] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    num_rejected: int = 0
    num_blank: int = 0
    is_complete: bool = True


def _collect(records: Iterator[Record], limits: TableLimits) -> _Rows:
    """Return the rows of records until a limit is reached."""
    rows, until_s = _Rows(), time.monotonic() + limits.timeout_s
    width = num_chars = 0
    for line, cells, problem in records:
        width, num_chars = max(width, len(cells)), num_chars + sum(map(len, cells))
        num_rows = len(rows.cells) + 1
        is_full = num_rows > limits.max_rows or num_rows * width > limits.max_cells
        if is_full or num_chars > limits.max_chars or time.monotonic() > until_s:
            rows.is_complete = False
            break
        if problem is not None:
            rows.num_rejected += 1
            if len(rows.rejected) < SHOWN_REJECTED:
                rows.rejected.append(RejectedRow(line, problem))
        elif cells:
            rows.cells.append(cells)
        else:
            rows.num_blank += 1
    return rows


def _table(
    file_format: Literal["csv", "jsonl", "parquet", "text"],
    text_format: TextFormat | None,
    ambiguous: tuple[Ambiguity, ...],
    rows: _Rows,
    columns: Mapping[str, None] | None = None,
) -> Table:
    """Return a table whose columns have names; without `columns`, the first row is perhaps the header."""
    cells = rows.cells
    header = None if columns is None else list(columns)[: max(map(len, cells), default=0)]
    if header is not None:
        cells = [[*row, *([""] * (len(header) - len(row)))] for row in cells]
    elif cells and _is_header(cells[0], cells[1:SAMPLE_ROWS]):
        header, cells = cells[0], cells[1:]
    sample = cells[:SAMPLE_ROWS]
    return Table(
        format=file_format,
        encoding=text_format and text_format.encoding,
        delimiter=text_format and text_format.delimiter,
        guess=Guess.of(text_format, (cell for row in sample for cell in row)),
        ambiguous=ambiguous,
        header=header,
        document_column=_document_column(header or [], sample),
        rows=cells,
        num_rows=len(cells) if rows.is_complete else None,
        num_blank=rows.num_blank,
        num_rejected=rows.num_rejected,
        rejected=rows.rejected,
    )


# How a text is decoded and split.


def _detect_encoding(path: Path, options: BatchOptions) -> tuple[TextFormat, tuple[Ambiguity, ...]]:
    if options.encoding is not None:
        return TextFormat(options.encoding), ()
    try:
        encoding, is_guess = detect_encoding(path)
    except EncodingError as error:
        choices = error.choices or tuple(CANDIDATES)
        message = f"the encoding may be {' or '.join(choices)}; choose one with `encoding`"
        return TextFormat(choices[0], None, ("encoding",)), (Ambiguity("encoding", choices, message),)
    return TextFormat(encoding, None, ("encoding",) if is_guess else ()), ()


def _detect_delimiter(
    path: Path, open_lines: Callable[[], TextLines], options: BatchOptions
) -> tuple[str | None, bool, tuple[Ambiguity, ...]]:
    """Return the delimiter or None, whether it is a guess, and whether others are plausible."""
    named = options.delimiter or named_delimiter(open_lines)
    if named is not None:
        return named, False, ()
    suffix, found = path.suffix.lower(), regular_delimiters(open_lines)
    if suffix not in SUFFIXES:  # in plain text, the others are punctuation
        found = [delimiter for delimiter in found[:1] if delimiter == "\t"]
    default = "\t" if suffix == ".tsv" else ","
    if not found or (default == "\t" and default in found):
        return (default if found else None), False, ()
    if len(found) == 1:
        return found[0], found[0] != default, ()
    message = f"the delimiter may be {' or '.join(map(repr, found))}; choose one with `delimiter`"
    return found[0], True, (Ambiguity("delimiter", tuple(found), message),)


def _check_is_text(path: Path, open_lines: Callable[[], TextLines]) -> None:
    with open_lines() as lines, suppress(LineTooLongError):
        if any(map(_CONTROL.search, islice(lines, SAMPLE_ROWS))):
            raise NotTextError(f"{path} is not text: it has control characters")


# Records of each format; a blank one has no cells.


def _line_records(lines: TextLines) -> Iterator[Record]:
    for line, too_long in lines.records():
        problem = too_long or find_bad_bytes(line, lines.encoding)
        for text in line.removesuffix("\n").removesuffix("\r").split("\r"):
            yield lines.number, [text] if text.strip() else [], problem


def _fitted(records: Iterator[Record]) -> Iterator[Record]:
    """Fit each record to the first one."""
    first: list[str] = []
    for line, cells, problem in records:
        if first and cells and problem is None:
            yield line, *fit_cells(cells, first)
        else:
            first = first or (cells if problem is None else [])
            yield line, cells, problem


Objects = Iterator[tuple[int, Mapping[str, Any], str | None]]


def _json_objects(lines: TextLines) -> Objects:
    for row, _ in read_objects(lines):
        yield (lines.number, {}, None) if row is None else (row.line, row.cells or {}, row.problem)


def _parquet_objects(path: Path, options: BatchOptions) -> Objects:
    from qwen_rerank_plugins.batch.parquet import ParquetTable

    number = 0
    for part, is_too_long in ParquetTable(path, options).parts(None):
        problem = f"longer than {options.max_row_chars} characters" if is_too_long else None
        step = max(1, DECODED_CELLS // max(1, part.num_columns))
        for start in range(0, part.num_rows, step):
            for cells in [{}] if is_too_long else part.slice(start, step).to_pylist():
                number += 1
                yield number, cells, problem


def _aligned(objects: Objects, columns: dict[str, None]) -> Iterator[Record]:
    """Turn objects into cells, one per column so far; new keys add columns."""
    for line, values, problem in objects:
        columns.update(dict.fromkeys(values))
        yield line, [_cell(values.get(name)) for name in columns] if values else [], problem


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


# Which row and which column is which.


def _is_header(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Return whether a row names columns: short, different texts, above numbers or longer texts."""
    names = [name.strip() for name in first]
    if any(map(_TEXT_COLUMN.fullmatch, names)):
        return True
    is_short = all(name and len(name) <= MAX_HEADER_CHARS and not _NUMBER.fullmatch(name) for name in names)
    if not is_short or len(names) == 1 or len({*names}) < len(names):
        return False
    cells = [cell for row in below for cell in row]
    is_longer = sum(map(len, cells)) > MIN_TEXT_CHARS * len(cells)
    return is_longer or any(map(_NUMBER.fullmatch, cells))


def _document_column(header: Sequence[str], sample: Sequence[Sequence[str]]) -> int:
    """Return the index of the column with a known name, or else of the one with the longest texts."""
    named = (index for index, name in enumerate(header) if _TEXT_COLUMN.fullmatch(name.strip()))
    lengths = [sum(map(len, column)) for column in zip(*sample, strict=True)]
    return next(named, lengths.index(max(lengths)) if lengths else 0)
