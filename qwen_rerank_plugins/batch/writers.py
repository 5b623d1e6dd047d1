"""Write rows as CSV and JSON Lines. The added columns come with each row; no scores are computed here."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.batch.formulas import escape_formula
from qwen_rerank_plugins.batch.protocols import OutputRow
from qwen_rerank_plugins.batch.rows import Chunk

__all__ = ["CsvWriter", "JsonLinesWriter", "RejectedWriter", "TextOutput"]


class TextOutput:
    """A UTF-8 text file that is being written, optionally compressed.

    Args:
        path: The file.
        is_gzip: Compress the file with gzip.
        bom: Begin with a byte order mark.

    Attributes:
        text: The stream to write to.
    """

    def __init__(self, path: Path, *, is_gzip: bool = False, bom: bool = False) -> None:
        self._file = path.open("wb")
        # Without name and time in it, so that the same rows produce the same bytes.
        self._packed = gzip.GzipFile("", "wb", 6, self._file, mtime=0) if is_gzip else None
        encoding = "utf-8-sig" if bom else "utf-8"
        self.text = io.TextIOWrapper(self._packed or self._file, encoding=encoding, newline="")

    def close(self) -> None:
        """Flush and close the file."""
        try:
            self.text.close()
        finally:
            self._file.close()


class CsvWriter:
    """Delimited cells, with lines that end in CRLF (RFC 4180).

    Args:
        output: The file.
        columns: Columns of the input that the output keeps.
        added: Columns that the output adds.
        delimiter: The character between cells.
        escape_formulas: Make cells that a spreadsheet would compute inert.
    """

    def __init__(
        self,
        output: TextOutput,
        columns: Sequence[str],
        added: Sequence[str],
        *,
        delimiter: str,
        escape_formulas: bool,
    ) -> None:
        self._output = output
        self._columns = columns
        self._added = added
        self._escapes = escape_formulas
        self._writer = csv.writer(output.text, delimiter=delimiter, lineterminator="\r\n")
        self._writer.writerow([self._escape(name) for name in (*columns, *added)])

    def write(self, chunk: Chunk, rows: Sequence[OutputRow]) -> None:
        """Append rows of a chunk, each with its added columns."""
        for row in rows:
            cells = chunk.cells_of(row.position)
            line = [self._escape(_to_cell(cells.get(name))) for name in self._columns]
            line += [self._escape(_to_cell(row.added[name])) for name in self._added]
            self._writer.writerow(line)

    def _escape(self, cell: str) -> str:
        return escape_formula(cell) if self._escapes else cell

    def close(self) -> None:
        """Write buffered rows and close the file."""
        self._output.close()


class JsonLinesWriter:
    """One JSON object per line. An object that was read as JSON keeps every character.

    Args:
        output: The file.
        removed: Columns of the input that the output drops.
    """

    def __init__(self, output: TextOutput, removed: AbstractSet[str]) -> None:
        self._output = output
        self._removed = removed

    def write(self, chunk: Chunk, rows: Sequence[OutputRow]) -> None:
        """Append rows of a chunk, each with its added columns."""
        for row in rows:
            source = chunk.rows[row.position].source
            cells = chunk.cells_of(row.position)
            if source is not None and self._removed.isdisjoint(cells):
                line = f"{source.rstrip()[:-1].rstrip()}, {_to_json(row.added)[1:]}\n"
            else:
                kept = {name: value for name, value in cells.items() if name not in self._removed}
                line = f"{_to_json({**kept, **row.added})}\n"
            self._output.text.write(line)

    def close(self) -> None:
        """Write buffered rows and close the file."""
        self._output.close()


class RejectedWriter:
    """The rejected rows, one JSON object per line, each with its place, the reason and its content.

    Args:
        path: The file, created for the first row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._output: TextOutput | None = None

    def write(self, chunk: Chunk, position: int, reason: str) -> None:
        """Append a row, by its index in the chunk."""
        if self._output is None:
            self._output = TextOutput(self._path)
        row = chunk.rows[position]
        cells = chunk.cells_of(position)
        record: dict[str, Any] = {"line": row.line, "row": row.number + 1, "reason": reason}
        record |= {"cells": cells} if cells else {"text": row.source or ""}
        # ASCII alone: a rejected row may contain invalid Unicode.
        self._output.text.write(json.dumps(record, ensure_ascii=True, default=_to_text) + "\n")

    def close(self) -> None:
        """Write buffered rows and close the file, if there is one."""
        if self._output is not None:
            self._output.close()


def _to_cell(value: Any) -> str:
    """Format a value as a CSV cell: null is empty; lists, objects and booleans are JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if type(value) in {int, float}:
        return repr(value)
    return _to_json(value) if isinstance(value, bool | dict | list) else _to_text(value)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_to_text)


def _to_text(value: Any) -> str:
    """Convert a value that JSON cannot represent (time, decimal, bytes) to text."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)
