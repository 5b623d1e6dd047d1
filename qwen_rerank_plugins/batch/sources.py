"""Rows out of CSV and JSON lines, in chunks. Knows no scores; what it reads twice is the same twice."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from qwen_rerank_plugins.batch.formulas import unescape_formula
from qwen_rerank_plugins.batch.options import BatchOptions, FileFormat, Form
from qwen_rerank_plugins.batch.rows import BadRowError, Chunk, Layout, Row, choose_form, parse_json
from qwen_rerank_plugins.batch.streams import TextLines, TooLongError, bad_bytes
from qwen_rerank_plugins.errors import InputError

__all__ = ["CsvSource", "JsonLinesSource", "Source", "delimiter_of", "format_of", "open_source"]

SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
CHUNK_CHARS = 8 << 20
FORM_ROWS = 1000


class Source(Protocol):
    """A file of rows."""

    @property
    def layout(self) -> Layout:
        """Where query and documents stand."""

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns in their order; None where each row has its own."""

    @property
    def num_blank_lines(self) -> int:
        """Lines without anything that were met so far."""

    def chunks(self, *, only_needed: bool) -> Iterator[Chunk]:
        """Read the file from its beginning.

        Args:
            only_needed: Columns that scoring does not need may be left out.
        """


def format_of(path: Path, chosen: FileFormat | None, option: str) -> FileFormat:
    """Tell a file's format by its suffix, before `.gz`, unless it was chosen.

    Raises:
        InputError: The suffix says nothing.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    found = chosen or SUFFIXES.get(suffixes[-1] if suffixes else "")
    if found is None:
        allowed = ", ".join(SUFFIXES)
        raise InputError(f"file of unknown format: {str(path)!r}; allowed: {allowed}, or {option}")
    return found


def open_source(path: Path, options: BatchOptions) -> Source:
    """Look at the beginning of a file, and give the source that reads it.

    Raises:
        InputError: It cannot be read, or has not the columns that are needed.
        MissingDependencyError: It is Parquet, and pyarrow is not installed.
    """
    chosen = format_of(path, options.input_format, "--input-format")
    if chosen == "csv":
        return CsvSource(path, options)
    if chosen == "jsonl":
        return JsonLinesSource(path, options)
    from qwen_rerank_plugins.batch.parquet import ParquetSource

    return ParquetSource(path, options)


def delimiter_of(path: Path, options: BatchOptions) -> str:
    """What stands between the cells of a CSV file."""
    return options.delimiter or ("\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ",")


def _chunked(rows: Iterator[tuple[Row, int]], lines: TextLines, options: BatchOptions) -> Iterator[Chunk]:
    """Collect rows with their sizes; the same file always falls into the same chunks."""
    chunk, num_chars = Chunk(), 0
    for row, size in rows:
        chunk.rows.append(row)
        num_chars += size
        if len(chunk.rows) >= options.window_rows or num_chars >= CHUNK_CHARS:
            chunk.fraction = lines.fraction
            yield chunk
            chunk, num_chars = Chunk(), 0
    if chunk.rows:
        chunk.fraction = 1.0
        yield chunk


class JsonLinesSource:
    """One JSON object a line."""

    columns: Sequence[str] | None = None

    def __init__(self, path: Path, options: BatchOptions) -> None:
        self._path = path
        self._options = options
        self.num_blank_lines = 0
        self.layout = Layout(options, self._form())

    def _form(self) -> Form:
        """The form that the first object tells, among as many lines as one can wait for."""
        if self._options.form != "auto":
            return self._options.form
        first: InputError | None = None
        for number, columns in enumerate(self._first_columns()):
            try:
                return choose_form(columns, self._options, str(self._path))
            except InputError as error:
                first = first or error
            if number >= FORM_ROWS:
                break
        if first is not None:
            raise first
        return "pairs"  # nothing is in it that could be a list

    def _first_columns(self) -> Iterator[list[str]]:
        for row, _ in self._rows(Layout(self._options, "pairs")):
            if row.cells is not None:
                yield list(row.cells)

    def chunks(self, *, only_needed: bool) -> Iterator[Chunk]:  # noqa: ARG002 (a line is read as a whole)
        """Read the file from its beginning."""
        lines = TextLines(self._path, max_chars=self._options.max_row_chars)
        try:
            yield from _chunked(self._rows(self.layout, lines), lines, self._options)
        finally:
            lines.close()

    def _rows(self, layout: Layout, lines: TextLines | None = None) -> Iterator[tuple[Row, int]]:
        own = lines is None
        lines = lines or TextLines(self._path, max_chars=self._options.max_row_chars)
        self.num_blank_lines = 0
        number = 0
        try:
            while (line := _next_line(lines)) is not None:
                if not line.strip():
                    self.num_blank_lines += 1
                    continue
                yield _json_row(Row(number, lines.number), line, layout), len(line)
                number += 1
        finally:
            if own:
                lines.close()


class _TooLong(str):
    """Stands for a line that was skipped: the reason, in place of the text."""

    __slots__ = ()


def _next_line(lines: TextLines) -> str | None:
    lines.start_record()
    try:
        return next(lines, None)
    except TooLongError as error:
        return _TooLong(str(error))


def _json_row(row: Row, line: str, layout: Layout) -> Row:
    if isinstance(line, _TooLong):
        row.problem = str(line)
        return row
    row.source = line
    try:
        cells = _json_object(line)
    except BadRowError as error:
        row.problem = str(error)
        return row
    row.cells = cells
    return layout.fill(row, cells)


def _json_object(line: str) -> dict[str, Any]:
    problem = bad_bytes(line)
    if problem is not None:
        raise BadRowError(problem)
    cells = parse_json(line)
    if not isinstance(cells, dict):
        raise BadRowError(f"a {type(cells).__name__}; allowed: an object")
    return cells


class CsvSource:
    """Cells between delimiters, the columns' names in the first row (RFC 4180, and line feeds alone)."""

    def __init__(self, path: Path, options: BatchOptions) -> None:
        self._path = path
        self._options = options
        self._delimiter = delimiter_of(path, options)
        self.num_blank_lines = 0
        # The default refuses long documents. It holds for the process: what another set higher stays.
        csv.field_size_limit(max(csv.field_size_limit(), options.max_row_chars))
        self.columns: Sequence[str] = self._read_columns()
        self.layout = Layout(options, choose_form(self.columns, options, str(path)))
        self.layout.check_columns(self.columns, str(path))

    def _read_columns(self) -> list[str]:
        lines = TextLines(self._path, max_chars=self._options.max_row_chars)
        try:
            for _, cells, problem in self._records(lines):
                if problem is not None:
                    raise InputError(f"{str(self._path)!r}, line 1: {problem}")
                return self._plain(cells)
        finally:
            lines.close()
        raise InputError(f"file is empty: {str(self._path)!r}; allowed: a first line with the columns")

    def chunks(self, *, only_needed: bool) -> Iterator[Chunk]:  # noqa: ARG002 (a line is read as a whole)
        """Read the file from its beginning."""
        lines = TextLines(self._path, max_chars=self._options.max_row_chars)
        try:
            yield from _chunked(self._rows(lines), lines, self._options)
        finally:
            lines.close()

    def _rows(self, lines: TextLines) -> Iterator[tuple[Row, int]]:
        self.num_blank_lines = 0
        records = self._records(lines)
        next(records, None)  # the columns
        for number, (line, cells, problem) in enumerate(records):
            row = Row(number, line, problem=problem)
            if problem is None:
                row.cells = dict(zip(self.columns, self._plain(cells), strict=True))
                self.layout.fill(row, row.cells)
            else:
                row.source = "".join(lines.record)
            yield row, sum(map(len, lines.record))

    def _records(self, lines: TextLines) -> Iterator[tuple[int, list[str], str | None]]:
        """Give each record's first line, its cells, and what is wrong with it."""
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        num_cells = 0
        while True:
            lines.start_record()
            first = lines.number + 1
            try:
                cells = next(reader, None)
            except (csv.Error, TooLongError) as error:
                last = f" (to line {lines.number})" if lines.number > first else ""
                yield first, [], f"not CSV: {error}{last}"
                continue
            if cells is None:
                return
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                self.num_blank_lines += 1
                continue
            num_cells = num_cells or len(cells)
            yield first, cells, _csv_problem(cells, num_cells, lines.record)

    def _plain(self, cells: list[str]) -> list[str]:
        return [unescape_formula(cell) for cell in cells] if self._options.unescape_formulas else cells


def _csv_problem(cells: list[str], num_columns: int, lines: Sequence[str]) -> str | None:
    if len(cells) != num_columns:
        return f"the number of cells is {len(cells)}; allowed: {num_columns}, as in the first line"
    if all(line.isascii() for line in lines):
        return None
    return next(filter(None, map(bad_bytes, cells)), None)
