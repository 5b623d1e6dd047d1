"""Read and write Parquet with its types. The only module of this package that imports pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.protocols import OutputRow
from qwen_rerank_plugins.batch.rows import Chunk, Layout, Row, detect_form
from qwen_rerank_plugins.batch.streams import read_errors_as_input_errors
from qwen_rerank_plugins.errors import InputError, MissingDependencyError

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
    """The rows of a Parquet file, read in parts of a row group.

    Args:
        path: The file.
        options: The options of the job.

    Attributes:
        schema: The Arrow schema of the file.

    Raises:
        InputError: The file cannot be read, or a required column is missing or of another type.
    """

    num_blank_lines = 0

    def __init__(self, path: Path, options: BatchOptions) -> None:
        self._path = path
        self._options = options
        with self._open() as file:
            self.schema = file.schema_arrow
        self.columns: Sequence[str] = self.schema.names
        self.layout = Layout(options, detect_form(self.columns, options, str(path)))
        self.layout.check_columns(self.columns, str(path))
        self._check_types()

    def _open(self) -> Any:
        with read_errors_as_input_errors(self._path):
            # Without a buffer, a column of a whole row group is held in memory.
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
        expected = "a list of strings, or of structs with 'text'" if is_list else "a string"
        raise InputError(f"{self._path}: column {name!r} has type {str(found)!r}; convert it to {expected}")

    def chunks(self, *, for_scoring: bool) -> Iterator[Chunk]:
        """Read the file from its beginning."""
        needed = list(dict.fromkeys(self.layout.needed))
        number = 0
        with self._open() as file, read_errors_as_input_errors(self._path):
            total = max(1, file.metadata.num_rows)
            for batch in file.iter_batches(
                self._options.window_rows, columns=needed if for_scoring else None, use_threads=False
            ):
                rows = self._rows(batch.select(needed), number)
                number += len(rows)
                yield Chunk(rows, number / total, batch)

    def _rows(self, batch: Any, number: int) -> list[Row]:
        return [
            self.layout.read_cells(Row(number + offset, number + offset + 1), cells)
            for offset, cells in enumerate(batch.to_pylist())
        ]


class ParquetWriter:
    """Write rows in row groups of at least `ROW_GROUP_ROWS`.

    Args:
        path: The file.
        options: The options of the job, for the names of the added columns.
        layout: The columns of the input.
        schema: The Arrow schema of the input, if it is Parquet.
        kinds: Column → Python types of its values; used without `schema`.
    """

    def __init__(
        self,
        path: Path,
        options: BatchOptions,
        layout: Layout,
        *,
        schema: Any,
        kinds: Mapping[str, set[type]],
    ) -> None:
        self._layout = layout
        fields = list(schema) if schema is not None else [_field(*item) for item in kinds.items()]
        self._types = {field.name: field.type for field in fields}
        own = [field for field in fields if field.name not in layout.removed]
        added = [pa.field(name, self._added_type(name, options)) for name in layout.added]
        self._schema = pa.schema([*own, *added], metadata=None if schema is None else schema.metadata)
        self._num_input = len(own)
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

    def write(self, chunk: Chunk, rows: Sequence[OutputRow]) -> None:
        """Append rows of a chunk, each with its added columns."""
        if not rows:
            return
        arrays = self._input_arrays(chunk, rows)
        for field in list(self._schema)[self._num_input :]:
            values = [_convert(row.added[field.name], field.type) for row in rows]
            arrays.append(pa.array(values, field.type))
        self._pending.append(pa.record_batch(arrays, schema=self._schema))
        self._num_pending += len(rows)
        if self._num_pending >= ROW_GROUP_ROWS:
            self._flush()

    def _input_arrays(self, chunk: Chunk, rows: Sequence[OutputRow]) -> list[Any]:
        fields = list(self._schema)[: self._num_input]
        if chunk.batch is not None:
            taken = chunk.batch.take(pa.array([row.position for row in rows], pa.int64()))
            return [taken.column(field.name) for field in fields]
        cells = [chunk.cells_of(row.position) for row in rows]
        return [
            pa.array([_convert(one.get(field.name), field.type) for one in cells], field.type)
            for field in fields
        ]

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending))
        self._pending, self._num_pending = [], 0

    def close(self) -> None:
        """Write buffered rows and the footer."""
        self._flush()
        self._writer.close()


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _field(name: str, kinds: set[type]) -> Any:
    """Return a field of the type that holds all values; a string of JSON if there is none."""
    found = kinds - {type(None)}
    if found and found <= {int, float}:
        return pa.field(name, pa.float64() if float in found else pa.int64())
    return pa.field(name, pa.bool_() if found == {bool} else pa.string())


def _convert(value: Any, kind: Any) -> Any:
    if pa.types.is_string(kind) and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return float(value) if pa.types.is_floating(kind) and isinstance(value, int) else value
