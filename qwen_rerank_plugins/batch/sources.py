"""Read rows from CSV, JSON Lines and JSON arrays, in chunks. Reading the same file again yields the same rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.batch.delimited import (
    Record,
    column_names,
    detect_delimiter,
    fit_cells,
    read_records,
)
from qwen_rerank_plugins.batch.elements import open_json
from qwen_rerank_plugins.batch.encodings import detect_encoding
from qwen_rerank_plugins.batch.formulas import unescape_formula
from qwen_rerank_plugins.batch.options import BatchOptions, Form
from qwen_rerank_plugins.batch.protocols import TextFormat
from qwen_rerank_plugins.batch.rows import (
    BadRowError,
    Chunk,
    Layout,
    Row,
    detect_form,
    parse_json,
)
from qwen_rerank_plugins.batch.streams import TextLines, find_bad_bytes
from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.recipe import repair_json

__all__ = ["CsvSource", "JsonLinesSource", "read_objects"]

CHUNK_CHARS = 8 << 20
FORM_ROWS = 1000


def _group_rows(rows: Iterator[tuple[Row, int]], lines: TextLines, window_rows: int) -> Iterator[Chunk]:
    """Group rows, given with their sizes in characters, into chunks."""
    chunk, num_chars = Chunk(), 0
    for row, size in rows:
        chunk.rows.append(row)
        num_chars += size
        if len(chunk.rows) >= window_rows or num_chars >= CHUNK_CHARS:
            chunk.fraction = lines.fraction
            yield chunk
            chunk, num_chars = Chunk(), 0
    if chunk.rows:
        chunk.fraction = 1.0
        yield chunk


def _encoding(path: Path, options: BatchOptions) -> TextFormat:
    if options.encoding is not None:
        return TextFormat(options.encoding)
    encoding, is_guess = detect_encoding(path)
    return TextFormat(encoding, None, ("encoding",) if is_guess else ())


class JsonLinesSource:
    """One JSON object per line, or an array of objects. In `.json`, an object may also span lines.

    Args:
        path: The file.
        options: The options of the job.

    Raises:
        InputError: The file cannot be read, or has no column of documents.
    """

    columns: Sequence[str] | None = None

    def __init__(self, path: Path, options: BatchOptions) -> None:
        self._path = path
        self._options = options
        self.num_blank_lines = 0
        self.text_format = _encoding(path, options)
        self.layout = Layout(options, self._detect_form())

    def _detect_form(self) -> Form:
        """Return the form of the first object that has a column of documents, within the first lines."""
        if self._options.form != "auto":
            return self._options.form
        first: InputError | None = None
        for number, columns in enumerate(self._columns_of_rows()):
            try:
                return detect_form(columns, self._options, str(self._path))
            except InputError as error:
                first = first or error
            if number >= FORM_ROWS:
                break
        if first is not None:
            raise first
        return "pairs"  # no row can be parsed: the form has no effect

    def _columns_of_rows(self) -> Iterator[list[str]]:
        with self._open() as lines:
            for row, _ in self._rows(lines, Layout(self._options, "pairs")):
                if row.cells is not None:
                    yield list(row.cells)

    def chunks(self, *, for_scoring: bool) -> Iterator[Chunk]:  # noqa: ARG002 (a line is read as a whole)
        """Read the file from its beginning."""
        with self._open() as lines:
            yield from _group_rows(self._rows(lines, self.layout), lines, self._options.window_rows)

    def _open(self) -> TextLines:
        return open_json(
            self._path, encoding=self.text_format.encoding, max_chars=self._options.max_row_chars
        )

    def _rows(self, lines: TextLines, layout: Layout) -> Iterator[tuple[Row, int]]:
        self.num_blank_lines = 0
        for row, size in read_objects(lines):
            if row is None:
                self.num_blank_lines += 1
                continue
            if row.cells is not None:
                layout.read_cells(row, row.cells)
            yield row, size


def read_objects(lines: TextLines) -> Iterator[tuple[Row | None, int]]:
    """Yield a row for each line, with its number of characters; None for a blank line."""
    number = 0
    for line, problem in lines.records():
        if not (line.strip() or problem):
            yield None, 0
            continue
        row = Row(number, lines.number, problem=problem)
        yield row if problem else _read_json_row(row, line, lines.encoding), len(line)
        number += 1


def _read_json_row(row: Row, line: str, encoding: str) -> Row:
    row.source = repair_json(line)
    row.is_repaired = row.source != line
    try:
        row.cells = _parse_object(row.source, encoding)
    except BadRowError as error:
        row.problem = str(error)
    return row


def _parse_object(line: str, encoding: str) -> dict[str, Any]:
    problem = find_bad_bytes(line, encoding)
    if problem is not None:
        raise BadRowError(problem)
    cells = parse_json(line)
    if not isinstance(cells, dict):
        raise BadRowError(f"the row must be a JSON object, not {type(cells).__name__}")
    return cells


class CsvSource:
    """Delimited cells with the column names in the first row (RFC 4180; a line feed alone also ends a line).

    Args:
        path: The file.
        options: The options of the job.
        delimiter: The delimiter unless the options name one or the file has another.

    Raises:
        InputError: The file cannot be read, or a required column is missing.
    """

    def __init__(self, path: Path, options: BatchOptions, *, delimiter: str) -> None:
        self._path = path
        self._options = options
        self.num_blank_lines = 0
        # The default refuses long documents. The limit is per process: a higher one that is already set stays.
        csv.field_size_limit(max(csv.field_size_limit(), options.max_row_chars))
        self.text_format = _encoding(path, options)
        self._detect_delimiter(delimiter)
        self._header = self._read_header()
        self.columns: Sequence[str] = column_names(self._header)
        self.layout = Layout(options, detect_form(self.columns, options, str(path)))
        self.layout.check_columns(self.columns, str(path))

    def _detect_delimiter(self, default: str) -> None:
        found, is_guess = self._options.delimiter, False
        if found is None:
            found, is_guess = detect_delimiter(self._open, default, self._has_columns)
        guessed = (*self.text_format.guessed, *(("delimiter",) if is_guess else ()))
        self.text_format = TextFormat(self.text_format.encoding, found, guessed)

    def _has_columns(self, header: Sequence[str]) -> bool:
        options, names = self._options, self._unescape([*header])
        return options.query_column in names and (
            options.document_column in names or options.documents_column in names
        )

    def _read_header(self) -> list[str]:
        with self._open() as lines:
            for _, cells, problem in self._records(lines):
                if problem is not None:
                    raise InputError(f"{str(self._path)!r}, line 1: {problem}")
                return self._unescape(cells)
        raise InputError(f"file is empty: {str(self._path)!r}; its first line must name the columns")

    def chunks(self, *, for_scoring: bool) -> Iterator[Chunk]:  # noqa: ARG002 (a line is read as a whole)
        """Read the file from its beginning."""
        with self._open() as lines:
            yield from _group_rows(self._rows(lines), lines, self._options.window_rows)

    def _open(self) -> TextLines:
        return TextLines(
            self._path, encoding=self.text_format.encoding, max_chars=self._options.max_row_chars
        )

    def _rows(self, lines: TextLines) -> Iterator[tuple[Row, int]]:
        self.num_blank_lines = 0
        records = self._records(lines)
        next(records, None)  # the header
        for number, (line, cells, problem) in enumerate(records):
            fitted, misfit = fit_cells(cells, self._header)
            row = Row(number, line, problem=problem or misfit)
            if row.problem is None:
                row.cells = dict(zip(self.columns, self._unescape(fitted), strict=True))
                self.layout.read_cells(row, row.cells)
            else:
                row.source = "".join(lines.record)
            yield row, sum(map(len, lines.record))

    def _records(self, lines: TextLines) -> Iterator[Record]:
        """Yield the records that are not blank, and count the others."""
        for record in read_records(lines, self.text_format.delimiter or ","):
            if record[1] or record[2]:
                yield record
            else:
                self.num_blank_lines += 1

    def _unescape(self, cells: list[str]) -> list[str]:
        return [unescape_formula(cell) for cell in cells] if self._options.unescape_formulas else cells
