"""Read rows from CSV and JSON Lines, in chunks. Reading the same file again yields the same rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.batch.formulas import unescape_formula
from qwen_rerank_plugins.batch.options import BatchOptions, Form
from qwen_rerank_plugins.batch.rows import BadRowError, Chunk, Layout, Row, detect_form, parse_json
from qwen_rerank_plugins.batch.streams import LineTooLongError, TextLines, find_bad_bytes
from qwen_rerank_plugins.errors import InputError

__all__ = ["CsvSource", "JsonLinesSource"]

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


class JsonLinesSource:
    """One JSON object per line.

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
        return TextLines(self._path, max_chars=self._options.max_row_chars)

    def _rows(self, lines: TextLines, layout: Layout) -> Iterator[tuple[Row, int]]:
        self.num_blank_lines = 0
        number = 0
        while True:
            lines.start_record()
            row = Row(number, lines.number + 1)
            try:
                line = next(lines, None)
            except LineTooLongError as error:
                row.problem = str(error)
                yield row, 0
                number += 1
                continue
            if line is None:
                return
            if not line.strip():
                self.num_blank_lines += 1
                continue
            yield _read_json_row(row, line, layout), len(line)
            number += 1


def _read_json_row(row: Row, line: str, layout: Layout) -> Row:
    row.source = line
    try:
        row.cells = _parse_object(line)
    except BadRowError as error:
        row.problem = str(error)
        return row
    return layout.read_cells(row, row.cells)


def _parse_object(line: str) -> dict[str, Any]:
    problem = find_bad_bytes(line)
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
        delimiter: The character between cells.

    Raises:
        InputError: The file cannot be read, or a required column is missing.
    """

    def __init__(self, path: Path, options: BatchOptions, *, delimiter: str) -> None:
        self._path = path
        self._options = options
        self._delimiter = delimiter
        self.num_blank_lines = 0
        # The default refuses long documents. The limit is per process: a higher one that is already set stays.
        csv.field_size_limit(max(csv.field_size_limit(), options.max_row_chars))
        self.columns: Sequence[str] = self._read_header()
        self.layout = Layout(options, detect_form(self.columns, options, str(path)))
        self.layout.check_columns(self.columns, str(path))

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
        return TextLines(self._path, max_chars=self._options.max_row_chars)

    def _rows(self, lines: TextLines) -> Iterator[tuple[Row, int]]:
        self.num_blank_lines = 0
        records = self._records(lines)
        next(records, None)  # the header
        for number, (line, cells, problem) in enumerate(records):
            row = Row(number, line, problem=problem)
            if problem is None:
                row.cells = dict(zip(self.columns, self._unescape(cells), strict=True))
                self.layout.read_cells(row, row.cells)
            else:
                row.source = "".join(lines.record)
            yield row, sum(map(len, lines.record))

    def _records(self, lines: TextLines) -> Iterator[tuple[int, list[str], str | None]]:
        """Yield each record's first line, its cells, and its problem or None."""
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        num_cells = 0
        while True:
            lines.start_record()
            first = lines.number + 1
            try:
                cells = next(reader, None)
            except (csv.Error, LineTooLongError) as error:
                last = f" (to line {lines.number})" if lines.number > first else ""
                yield first, [], f"not valid CSV: {error}{last}"
                continue
            if cells is None:
                return
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                self.num_blank_lines += 1
                continue
            num_cells = num_cells or len(cells)
            yield first, cells, _find_problem(cells, num_cells, lines.record)

    def _unescape(self, cells: list[str]) -> list[str]:
        return [unescape_formula(cell) for cell in cells] if self._options.unescape_formulas else cells


def _find_problem(cells: list[str], num_columns: int, lines: Sequence[str]) -> str | None:
    if len(cells) != num_columns:
        return f"the row has {len(cells)} cells; the first line has {num_columns}"
    if all(line.isascii() for line in lines):
        return None
    return next(filter(None, map(find_bad_bytes, cells)), None)
