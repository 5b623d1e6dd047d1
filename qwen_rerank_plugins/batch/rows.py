"""Rows of the input: their query and documents, or the reason why they cannot be ranked. Opens no file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen_rerank_plugins.batch.options import BatchOptions, Form
from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.recipe import repair_json

__all__ = ["BadRowError", "Chunk", "Layout", "Row", "detect_form", "parse_json"]

MAX_NAMED_COLUMNS = 12


class BadRowError(Exception):
    """A row cannot be ranked. The message is the reason without the line; never raised outside this package."""


@dataclass(slots=True)
class Row:
    """A row of the input.

    Attributes:
        number: Index of the row, from 0; rejected rows are counted.
        line: First line of the row in the file, from 1; in Parquet the number of the row, from 1.
        cells: Column → value. None if the chunk's record batch holds the values, or if the row cannot be parsed.
        source: The text of the row, if it is kept.
        query: The query.
        documents: The documents as they appear in the row; one in a pair.
        texts: The text of each document.
        instruction: The instruction of this row; None for the job's instruction.
        is_repaired: Whether U+FFFD replaced a lone surrogate in the JSON of this row.
        problem: Why the row cannot be ranked, or None. If it is set, query and documents have no meaning.
    """

    number: int
    line: int
    cells: dict[str, Any] | None = None
    source: str | None = None
    query: str = ""
    documents: Sequence[Any] = ()
    texts: Sequence[str] = ()
    instruction: str | None = None
    is_repaired: bool = False
    problem: str | None = None


@dataclass(slots=True)
class Chunk:
    """Consecutive rows that are processed together.

    Attributes:
        rows: The rows in file order.
        fraction: Fraction of the file up to the end of the last row, from 0 to 1.
        batch: The rows as a pyarrow record batch, if the input is Parquet.
    """

    rows: list[Row] = field(default_factory=list)
    fraction: float = 0.0
    batch: Any = None

    def cells_of(self, position: int) -> dict[str, Any]:
        """Return column → value of a row, by its index in this chunk."""
        cells = self.rows[position].cells
        if cells is None and self.batch is not None:
            cells = self.batch.slice(position, 1).to_pylist()[0]
        return cells or {}


def detect_form(columns: Sequence[str], options: BatchOptions, name: str) -> Form:
    """Return the form from the options, or detect it from the columns.

    Args:
        columns: The columns of the file.
        options: The options of the job.
        name: The file's name, for the error message.

    Raises:
        InputError: The columns fit both forms, or neither.
    """
    if options.form != "auto":
        return options.form
    has_pair, has_list = options.document_column in columns, options.documents_column in columns
    if has_pair and has_list:
        both = f"{options.document_column!r} and {options.documents_column!r}"
        raise InputError(f"{name} has columns {both}; choose one with --form pairs or --form lists")
    if not has_pair and not has_list:
        wanted = f"{options.document_column!r} or {options.documents_column!r}"
        hint = "name the column with --document-column or --documents-column"
        raise InputError(f"{name} has no column {wanted}, only {_quote_names(columns)}; {hint}")
    return "pairs" if has_pair else "lists"


class Layout:
    """Which columns hold the query and the documents, and which columns the output adds and removes.

    Attributes:
        form: Pairs or lists.
        query: Column of the query.
        documents: Column of the document or the documents.
        added: Columns that the output adds.
        removed: Columns that the output drops: the documents of an exploded list, and those that are replaced.
    """

    def __init__(self, options: BatchOptions, form: Form) -> None:
        self.form = form
        self.query = options.query_column
        self.documents = options.document_column if form == "pairs" else options.documents_column
        self.added = options.added_columns(form)
        added = frozenset(self.added)
        exploded = {self.documents} if form == "lists" and options.explode else set()
        self.removed = frozenset(exploded | added if options.replace_columns else exploded)
        self._instruction = options.instruction_column
        # A column that scoring needs cannot be replaced.
        self._reserved = added.intersection(self.needed) if options.replace_columns else added
        self._max_document_chars = options.max_document_chars

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that scoring needs."""
        return (self.query, self.documents, *([self._instruction] if self._instruction else []))

    def check_columns(self, columns: Sequence[str], name: str) -> None:
        """Check that a table has the needed columns and none of the added ones.

        Args:
            columns: The columns of the table.
            name: The table's name, for the error message.

        Raises:
            InputError: A column is missing, occurs twice, or would be added.
        """
        repeated = sorted({column for column in columns if columns.count(column) > 1})
        if repeated:
            raise InputError(f"{name} has repeated columns: {_quote_names(repeated)}; rename them")
        for column in self.needed:
            if column not in columns:
                hint = "name the column with --query-column, --document-column or --documents-column"
                raise InputError(f"{name} has no column {column!r}, only {_quote_names(columns)}; {hint}")
        if not self._reserved.isdisjoint(columns):
            raise InputError(f"{name} {self._describe_taken(columns)}")

    def read_cells(self, row: Row, cells: Mapping[str, Any]) -> Row:
        """Set query and documents of a row from its cells, or `problem` if they are not valid."""
        try:
            self._read(row, cells)
        except BadRowError as error:
            row.problem = str(error)
        return row

    def _read(self, row: Row, cells: Mapping[str, Any]) -> None:
        if row.cells is not None and not self._reserved.isdisjoint(cells):
            raise BadRowError(f"the row {self._describe_taken(cells)}")
        query = _check_text(_cell(cells, self.query), self.query)
        if not query.strip():
            raise BadRowError(f"{self.query!r} is blank: {query[:20]!r}; a query needs a visible character")
        row.query = query
        value = _cell(cells, self.documents)
        if self.form == "pairs":
            row.documents = row.texts = (_check_text(value, self.documents),)
        else:
            if isinstance(value, str):  # a cell of CSV, or a text column of Parquet
                text = repair_json(value)
                row.is_repaired |= text != value
                value = _parse_list(text, self.documents)
            if not isinstance(value, list):
                raise BadRowError(f"{self.documents!r} must be a list, not {_type_name(value)}")
            row.documents = value
            row.texts = [
                _text_of(document, f"{self.documents}[{index}]")
                for index, document in enumerate(row.documents)
            ]
        self._check_lengths(row.texts)
        if self._instruction:
            row.instruction = _read_instruction(cells, self._instruction)

    def _check_lengths(self, texts: Sequence[str]) -> None:
        limit = self._max_document_chars
        if limit is None or all(len(text) <= limit for text in texts):
            return
        index, text = next((index, text) for index, text in enumerate(texts) if len(text) > limit)
        place = self.documents if self.form == "pairs" else f"{self.documents}[{index}]"
        raise BadRowError(f"{place!r} has {len(text)} characters; at most {limit} are allowed")

    def _describe_taken(self, columns: Iterable[str]) -> str:
        taken = _quote_names(sorted(self._reserved.intersection(columns)))
        hint = "choose other names with --score-column, --rank-column and so on, or drop them with --replace-columns"
        return f"already has {taken}; {hint}"


def parse_json(text: str) -> Any:
    """Parse JSON; NaN, infinities, numbers beyond a float and repeated keys are not accepted.

    Raises:
        BadRowError: The text is not valid JSON.
    """
    try:
        return json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            object_pairs_hook=_refuse_repeated_keys,
        )
    except json.JSONDecodeError as error:
        raise BadRowError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        raise BadRowError(f"JSON cannot be parsed: {error}") from None


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for number, (key, _) in enumerate(pairs, start=1):
            if key in seen:
                raise BadRowError(
                    f"key {number} of an object repeats an earlier key; each key may occur once"
                )
            seen.add(key)
    return found


def _refuse_constant(name: str) -> Any:
    raise BadRowError(f"not valid JSON: {name}")


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadRowError(f"number too large: {text[:40]}")
    return number


def _cell(cells: Mapping[str, Any], column: str) -> Any:
    if column not in cells:
        raise BadRowError(f"the row has no {column!r}, only {_quote_names(list(cells))}")
    return cells[column]


def _check_text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise BadRowError(f"{place!r} must be a string, not {_type_name(value)}")
    return value


def _text_of(document: Any, place: str) -> str:
    if isinstance(document, Mapping):
        if "text" not in document:
            raise BadRowError(f"{place!r} has no 'text'; a document is a string or an object with 'text'")
        return _check_text(document["text"], f"{place}.text")
    return _check_text(document, place)


def _parse_list(text: str, place: str) -> Any:
    try:
        return parse_json(text)
    except BadRowError as error:
        raise BadRowError(f"{place!r} must be a JSON array: {error}") from None


def _read_instruction(cells: Mapping[str, Any], column: str) -> str | None:
    value = cells.get(column)
    if value is None:
        return None
    text = _check_text(value, column)
    return text if text.strip() else None


def _type_name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _quote_names(names: Sequence[str]) -> str:
    quoted = ", ".join(repr(name) for name in names[:MAX_NAMED_COLUMNS]) or "none"
    return f"{quoted}, ..." if len(names) > MAX_NAMED_COLUMNS else quoted
