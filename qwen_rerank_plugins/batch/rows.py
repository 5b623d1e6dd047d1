"""What a row says: its query, its documents, or why it cannot be ranked. Knows no file and no format."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen_rerank_plugins.batch.options import BatchOptions, Form
from qwen_rerank_plugins.errors import InputError

__all__ = ["BadRowError", "Chunk", "Layout", "Row", "choose_form", "parse_json"]

SHOWN_COLUMNS = 12


class BadRowError(Exception):
    """A row cannot be ranked; the message is the reason, without its place. Never leaves the room."""


@dataclass(slots=True)
class Row:
    """A row of the input.

    Attributes:
        number: Its place among the rows, from 0, those that cannot be ranked included.
        line: Its first line in the file, from 1; in Parquet the row, from 1.
        cells: Column → value, or None where the file keeps them (`Chunk.batch`) or nothing could be read.
        source: The text that it was read from, where that is kept.
        query: What is searched for.
        documents: The documents as they stand in the row: one in a pair.
        texts: What is scored of them.
        instruction: What relevance means in this row; None for the job's.
        problem: Why it cannot be ranked; then query and documents mean nothing.
    """

    number: int
    line: int
    cells: dict[str, Any] | None = None
    source: str | None = None
    query: str = ""
    documents: Sequence[Any] = ()
    texts: Sequence[str] = ()
    instruction: str | None = None
    problem: str | None = None


@dataclass(slots=True)
class Chunk:
    """Rows that are handled together.

    Attributes:
        rows: In the order of the file, without a gap.
        fraction: Of the file that was read when the last of them had been, from 0 to 1.
        batch: The same rows as a pyarrow record batch, where the input is Parquet.
    """

    rows: list[Row] = field(default_factory=list)
    fraction: float = 0.0
    batch: Any = None

    def cells_of(self, position: int) -> dict[str, Any]:
        """Column → value of the row at a place in this chunk."""
        cells = self.rows[position].cells
        if cells is None and self.batch is not None:
            cells = self.batch.slice(position, 1).to_pylist()[0]
        return cells or {}


def choose_form(columns: Sequence[str], options: BatchOptions, name: str) -> Form:
    """Tell pairs from lists by the columns, unless the options do.

    Raises:
        InputError: Both could be meant, or neither.
    """
    if options.form != "auto":
        return options.form
    has_pair, has_list = options.document_column in columns, options.documents_column in columns
    if has_pair and has_list:
        both = f"{options.document_column!r} and {options.documents_column!r}"
        raise InputError(f"{name} has columns {both}; choose one with --form pairs or --form lists")
    if not has_pair and not has_list:
        wanted = f"{options.document_column!r} or {options.documents_column!r}"
        hint = "choose one with --document-column or --documents-column"
        raise InputError(f"{name} has no column {wanted}, but {_shown(columns)}; {hint}")
    return "pairs" if has_pair else "lists"


class Layout:
    """Where query and documents stand in a row, and which columns must not be there yet."""

    def __init__(self, options: BatchOptions, form: Form) -> None:
        self.form = form
        self._options = options
        self.query = options.query_column
        self.documents = options.document_column if form == "pairs" else options.documents_column
        self.added = options.added_columns(form)
        self._added = frozenset(self.added)

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that scoring needs."""
        instruction = self._options.instruction_column
        return (self.query, self.documents, *([instruction] if instruction else []))

    def check_columns(self, columns: Sequence[str], name: str) -> None:
        """Refuse a table without the columns that are needed, or with those that are added.

        Raises:
            InputError: A column is missing, stands twice, or is to be added.
        """
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise InputError(f"{name} has columns of the same name: {_shown(twice)}; allowed: each name once")
        for column in self.needed:
            if column not in columns:
                hint = "choose another with --query-column, --document-column, --documents-column"
                raise InputError(f"{name} has no column {column!r}, but {_shown(columns)}; {hint}")
        taken = self._added.intersection(columns)
        if taken:
            raise InputError(f"{name} {self._taken(sorted(taken))}")

    def fill(self, row: Row, cells: Mapping[str, Any]) -> Row:
        """Read query and documents out of a row's cells; what is wrong becomes the row's problem."""
        try:
            self._fill(row, cells)
        except BadRowError as error:
            row.problem = str(error)
        return row

    def _fill(self, row: Row, cells: Mapping[str, Any]) -> None:
        if row.cells is not None and not self._added.isdisjoint(cells):
            raise BadRowError(self._taken(sorted(self._added.intersection(cells))))
        query = _text(_cell(cells, self.query), self.query)
        if not query.strip():
            raise BadRowError(f"{self.query!r} is blank; allowed: at least one visible character")
        row.query = query
        value = _cell(cells, self.documents)
        if self.form == "pairs":
            row.documents = row.texts = (_text(value, self.documents),)
        else:
            row.documents = _list(value, self.documents)
            row.texts = [
                _text_of(one, f"{self.documents}[{index}]") for index, one in enumerate(row.documents)
            ]
        if self._options.instruction_column:
            row.instruction = _instruction(cells, self._options.instruction_column)

    def _taken(self, names: Sequence[str]) -> str:
        hint = "choose other names for what is added, with --score-column, --rank-column and the like"
        return f"has {_shown(names)} already; {hint}"


def parse_json(text: str) -> Any:
    """Read JSON, without the numbers that JSON does not know.

    Raises:
        BadRowError: It is none.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise BadRowError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        raise BadRowError(f"JSON that cannot be read: {error}") from None


def _no_constant(name: str) -> Any:
    raise BadRowError(f"not JSON: {name}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadRowError(f"a number is too large: {text[:40]}")
    return number


def _cell(cells: Mapping[str, Any], column: str) -> Any:
    if column not in cells:
        raise BadRowError(f"no {column!r}, but {_shown(list(cells))}")
    return cells[column]


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise BadRowError(f"{place!r} is {kind}; allowed: a string")
    if not value.isascii() and not _is_unicode(value):
        raise BadRowError(f"{place!r} is no Unicode text: it holds half of a surrogate pair")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_of(document: Any, place: str) -> str:
    if isinstance(document, Mapping):
        if "text" not in document:
            raise BadRowError(f"{place!r} has no 'text'; allowed: a string, or an object with 'text'")
        return _text(document["text"], f"{place}.text")
    return _text(document, place)


def _list(value: Any, place: str) -> list[Any]:
    if isinstance(value, str):  # a cell of CSV, or a text column of Parquet
        try:
            value = parse_json(value)
        except BadRowError as error:
            raise BadRowError(f"{place!r} is no list: {error}; allowed: a JSON array") from None
    if not isinstance(value, list):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise BadRowError(f"{place!r} is {kind}; allowed: a list")
    return value


def _instruction(cells: Mapping[str, Any], column: str) -> str | None:
    value = cells.get(column)
    if value is None:
        return None
    text = _text(value, column)
    return text if text.strip() else None


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN_COLUMNS]) or "nothing"
    return f"{shown}, ..." if len(names) > SHOWN_COLUMNS else shown
