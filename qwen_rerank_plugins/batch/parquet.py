"""Parquet in and out, types kept. The only module of the room that knows pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.rows import Chunk, Layout, Row, choose_form
from qwen_rerank_plugins.batch.streams import reading
from qwen_rerank_plugins.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from qwen_rerank_plugins.batch.writers import OutputRow

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    message = "Parquet needs 'pyarrow': pip install 'qwen-rerank-plugins[batch]'"
    raise MissingDependencyError(message) from error

__all__ = ["ParquetSource", "ParquetWriter"]

ROW_GROUP_ROWS = 16_384
READ_BUFFER_BYTES = 1 << 20

_ADDED_TYPES = {
    "log_odds": pa.float64(),
    "truncated": pa.bool_(),
    "query_truncated": pa.bool_(),
}


class ParquetSource:
    """The rows of a Parquet file, a part of a row group at a time."""

    num_blank_lines = 0

    def __init__(self, path: Path, options: BatchOptions) -> None:
        self._path = path
        self._options = options
        with self._open() as file:
            self.schema = file.schema_arrow
        self.columns: Sequence[str] = self.schema.names
        self.layout = Layout(options, choose_form(self.columns, options, str(path)))
        self.layout.check_columns(self.columns, str(path))
        self._check_types()

    def _open(self) -> Any:
        with reading(str(self._path)):
            # Buffered, or a column of a whole row group is held in memory at once.
            return pq.ParquetFile(self._path, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)

    def _check_types(self) -> None:
        for name in (self.layout.query, *self.layout.needed[2:]):
            self._check_type(name, is_list=False)
        self._check_type(self.layout.documents, is_list=self.layout.form == "lists")

    def _check_type(self, name: str, *, is_list: bool) -> None:
        found = self.schema.field(name).type
        kind = found.value_type if pa.types.is_dictionary(found) else found
        if _is_text(kind) or pa.types.is_null(kind) or (is_list and _is_list(kind)):
            return
        allowed = "a list of texts, or of structs with 'text'" if is_list else "a text"
        raise InputError(f"{self._path}: column {name!r} has type {str(found)!r}; allowed: {allowed}")

    def chunks(self, *, only_needed: bool) -> Iterator[Chunk]:
        """Read the file from its beginning."""
        needed = list(dict.fromkeys(self.layout.needed))
        number = 0
        with self._open() as file, reading(str(self._path)):
            total = max(1, file.metadata.num_rows)
            for batch in file.iter_batches(
                self._options.window_rows, columns=needed if only_needed else None, use_threads=False
            ):
                rows = self._rows(batch.select(needed), number)
                number += len(rows)
                yield Chunk(rows, number / total, batch)

    def _rows(self, batch: Any, number: int) -> list[Row]:
        return [
            self.layout.fill(Row(number + offset, number + offset + 1), cells)
            for offset, cells in enumerate(batch.to_pylist())
        ]


class ParquetWriter:
    """Writes rows as they come, in groups of a fair size.

    Args:
        path: Where to.
        options: The names of what is added.
        layout: The form of the rows.
        schema: The input's own, where it is Parquet.
        kinds: Column → the Python types of its values, where it is not.
    """

    def __init__(
        self,
        path: Path,
        options: BatchOptions,
        layout: Layout,
        *,
        schema: Any = None,
        kinds: dict[str, set[type]] | None = None,
    ) -> None:
        self._layout = layout
        self._removed = [layout.documents] if layout.form == "lists" and options.explode else []
        fields = list(schema) if schema is not None else [_field(*item) for item in (kinds or {}).items()]
        self._types = {field.name: field.type for field in fields}
        own = [field for field in fields if field.name not in self._removed]
        added = [pa.field(name, self._added_type(name, options)) for name in layout.added]
        self._schema = pa.schema([*own, *added], metadata=None if schema is None else schema.metadata)
        self._num_own = len(own)
        self._pending: list[Any] = []
        self._num_pending = 0
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def _added_type(self, name: str, options: BatchOptions) -> Any:
        if name == options.results_column and self._layout.form == "lists" and not options.explode:
            own = [
                options.index_column,
                options.score_column,
                options.rank_column,
                *options.details_columns(),
            ]
            return pa.list_(pa.struct([pa.field(one, self._added_type(one, options)) for one in own]))
        if name == options.score_column:
            return pa.float64()
        if name == options.document_column and self._layout.form == "lists":
            listed = self._types[self._layout.documents]
            return listed.value_type if _is_list(listed) else pa.string()
        return _ADDED_TYPES.get(name, pa.int64())

    def write(self, chunk: Chunk, kept: Sequence[OutputRow]) -> None:
        """Add rows, each with what is added to it."""
        if not kept:
            return
        arrays = self._own_arrays(chunk, kept)
        for field in list(self._schema)[self._num_own :]:
            values = [_fit(one.added[field.name], field.type) for one in kept]
            arrays.append(pa.array(values, field.type))
        self._pending.append(pa.record_batch(arrays, schema=self._schema))
        self._num_pending += len(kept)
        if self._num_pending >= ROW_GROUP_ROWS:
            self._flush()

    def _own_arrays(self, chunk: Chunk, kept: Sequence[OutputRow]) -> list[Any]:
        fields = list(self._schema)[: self._num_own]
        if chunk.batch is not None:
            taken = chunk.batch.take(pa.array([one.position for one in kept], pa.int64()))
            return [taken.column(field.name) for field in fields]
        cells = [chunk.cells_of(one.position) for one in kept]
        return [
            pa.array([_fit(one.get(field.name), field.type) for one in cells], field.type) for field in fields
        ]

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending))
        self._pending, self._num_pending = [], 0

    def close(self) -> None:
        """Write what is left, and the footer."""
        self._flush()
        self._writer.close()


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _field(name: str, kinds: set[type]) -> Any:
    """A column for Python values: of the one type that holds all of them, else of JSON."""
    found = kinds - {type(None)}
    if found and found <= {int, float}:
        return pa.field(name, pa.float64() if float in found else pa.int64())
    return pa.field(name, pa.bool_() if found == {bool} else pa.string())


def _fit(value: Any, kind: Any) -> Any:
    if pa.types.is_string(kind) and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return float(value) if pa.types.is_floating(kind) and isinstance(value, int) else value
