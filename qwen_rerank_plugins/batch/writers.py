"""Rows into CSV and JSON lines. Knows no scores: what is added to a row is handed in with it."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from qwen_rerank_plugins.batch.formulas import escape_formula
from qwen_rerank_plugins.batch.options import BatchOptions, FileFormat
from qwen_rerank_plugins.batch.rows import Chunk
from qwen_rerank_plugins.batch.sources import Source, delimiter_of

__all__ = ["OutputRow", "RejectedWriter", "Writer", "needs_scan", "open_writer", "scan_kinds"]

MAX_INT64 = (1 << 63) - 1


class OutputRow(NamedTuple):
    """A row of the output.

    Attributes:
        position: The place of the input's row in its chunk.
        added: Column → value of what is added.
    """

    position: int
    added: dict[str, Any]


class Writer(Protocol):
    """A file of rows that is being written."""

    def write(self, chunk: Chunk, kept: Sequence[OutputRow]) -> None:
        """Add rows, each with what is added to it."""

    def close(self) -> None:
        """Write what is left."""


def needs_scan(source: Source, output: FileFormat) -> bool:
    """Whether a table is to be written of rows that each have columns of their own."""
    return source.columns is None and output != "jsonl"


def scan_kinds(chunks: Iterable[Chunk]) -> dict[str, set[type]]:
    """Collect every column of rows that have their own, in the order they come, and the types of its values."""
    kinds: dict[str, set[type]] = {}
    for chunk in chunks:
        for row in chunk.rows:
            if row.cells is None or row.problem is not None:
                continue
            for name, value in row.cells.items():
                kinds.setdefault(name, set()).add(_kind(value))
    return kinds


def _kind(value: Any) -> type:
    is_large = isinstance(value, int) and abs(value) > MAX_INT64
    return object if is_large else type(value)


def open_writer(
    path: Path,
    target: Path,
    output: FileFormat,
    source: Source,
    options: BatchOptions,
    kinds: dict[str, set[type]] | None,
) -> Writer:
    """Begin a file.

    Args:
        path: What is written, until it is whole.
        target: What it will be called: its suffixes count.
        output: The format.
        source: What the rows are from.
        options: How to write.
        kinds: What `scan_kinds` found, where `needs_scan` says so.

    Raises:
        MissingDependencyError: It is to be Parquet, and pyarrow is not installed.
    """
    columns = list(source.columns if source.columns is not None else kinds or {})
    if output == "parquet":
        from qwen_rerank_plugins.batch.parquet import ParquetWriter

        known: dict[str, set[type]] = kinds if kinds is not None else {column: {str} for column in columns}
        schema = getattr(source, "schema", None)
        return ParquetWriter(path, options, source.layout, schema=schema, kinds=known)
    removed = {source.layout.documents} if source.layout.form == "lists" and options.explode else set()
    stream = _open_text(path, is_gzip=target.suffix.lower() == ".gz", bom=options.bom and output == "csv")
    if output == "jsonl":
        return JsonLinesWriter(stream, removed)
    columns = [column for column in columns if column not in removed]
    return CsvWriter(stream, columns, source.layout.added, delimiter_of(target, options), options)


class _Output:
    """A text stream, the compression under it, and the file under that."""

    def __init__(self, path: Path, *, is_gzip: bool, encoding: str) -> None:
        self._file = path.open("wb")
        # Without name and time in it, so that the same rows give the same bytes.
        self._packed = gzip.GzipFile("", "wb", 6, self._file, mtime=0) if is_gzip else None
        self.text = io.TextIOWrapper(self._packed or self._file, encoding=encoding, newline="")

    def close(self) -> None:
        try:
            self.text.close()
        finally:
            self._file.close()


def _open_text(path: Path, *, is_gzip: bool, bom: bool) -> _Output:
    return _Output(path, is_gzip=is_gzip, encoding="utf-8-sig" if bom else "utf-8")


class CsvWriter:
    """Cells between delimiters, lines ended as RFC 4180 says."""

    def __init__(
        self,
        output: _Output,
        columns: Sequence[str],
        added: Sequence[str],
        delimiter: str,
        options: BatchOptions,
    ) -> None:
        self._output = output
        self._columns = columns
        self._added = added
        self._escapes = options.escape_formulas
        self._writer = csv.writer(output.text, delimiter=delimiter, lineterminator="\r\n")
        self._writer.writerow([self._inert(name) for name in (*columns, *added)])

    def write(self, chunk: Chunk, kept: Sequence[OutputRow]) -> None:
        """Add rows, each with what is added to it."""
        for one in kept:
            cells = chunk.cells_of(one.position)
            line = [self._inert(_cell(cells.get(name))) for name in self._columns]
            line += [self._inert(_cell(one.added[name])) for name in self._added]
            self._writer.writerow(line)

    def _inert(self, cell: str) -> str:
        return escape_formula(cell) if self._escapes else cell

    def close(self) -> None:
        """Write what is left."""
        self._output.close()


class JsonLinesWriter:
    """One JSON object a line; an object that was JSON already keeps every character."""

    def __init__(self, output: _Output, removed: set[str]) -> None:
        self._output = output
        self._removed = removed

    def write(self, chunk: Chunk, kept: Sequence[OutputRow]) -> None:
        """Add rows, each with what is added to it."""
        for one in kept:
            source = chunk.rows[one.position].source
            if source is not None and not self._removed:
                line = f"{source.rstrip()[:-1].rstrip()}, {_json(one.added)[1:]}\n"
            else:
                cells = chunk.cells_of(one.position)
                own = {name: value for name, value in cells.items() if name not in self._removed}
                line = f"{_json({**own, **one.added})}\n"
            self._output.text.write(line)

    def close(self) -> None:
        """Write what is left."""
        self._output.close()


class RejectedWriter:
    """The rows that were set aside, one JSON object a line: where, why, and what was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._output: _Output | None = None

    def write(self, chunk: Chunk, position: int, reason: str) -> None:
        """Add a row; the file is made for the first."""
        if self._output is None:
            self._output = _open_text(self._path, is_gzip=False, bom=False)
        row = chunk.rows[position]
        cells = chunk.cells_of(position)
        told: dict[str, Any] = {"line": row.line, "row": row.number + 1, "reason": reason}
        told |= {"cells": cells} if cells else {"text": row.source or ""}
        # ASCII alone: what was set aside may be no Unicode.
        self._output.text.write(json.dumps(told, ensure_ascii=True, default=_plain) + "\n")

    @property
    def has_rows(self) -> bool:
        """Whether there is a file."""
        return self._output is not None

    def close(self) -> None:
        """Write what is left."""
        if self._output is not None:
            self._output.close()


def _cell(value: Any) -> str:
    """A value as the text of a cell: nothing for null, JSON for what is no text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return repr(value) if type(value) in {int, float} else _unquoted(value)


def _unquoted(value: Any) -> str:
    if isinstance(value, bool | dict | list):
        return _json(value)
    return str(_plain(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON has no word for (times, decimals, bytes), as text."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)
