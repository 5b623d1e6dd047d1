"""Read and write Parquet with its types. The only module of this package that imports pyarrow."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any, BinaryIO

from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.parquet_pages import DELTA_ENCODINGS, read_pages
from qwen_rerank_plugins.batch.protocols import OutputRow
from qwen_rerank_plugins.batch.rows import Chunk, Layout, Row, detect_form
from qwen_rerank_plugins.batch.streams import GZIP_MAGIC, read_errors_as_input_errors
from qwen_rerank_plugins.errors import InputError, MissingDependencyError

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    message = "Parquet needs 'pyarrow': pip install 'qwen-rerank-plugins[batch]'"
    raise MissingDependencyError(message) from error

__all__ = ["ParquetSource", "ParquetTable", "ParquetWriter"]

ROW_GROUP_ROWS = 16_384
READ_BUFFER_BYTES = 1 << 20
CHUNK_CHARS = 8 << 20
MAX_FOOTER_BYTES = 16 << 20
MAX_FOOTER_ITEMS = 100_000
"""Maximum length of a list in a footer, such as that of the row groups."""
MAX_COLUMNS = 10_000
MAX_VALUES = 1 << 26
"""Maximum values of a column in a row group, which a few bytes of the file can repeat."""
MAX_LIST_VALUES = 1 << 24
"""The same for a column of lists: one row may have them all, and a row is decoded as a whole."""
MAX_PAGE_BYTES = 128 << 20
"""Maximum bytes of a row group's largest pages, decompressed, one per column: so much is in memory at the same time."""

_MAGIC = b"PAR1"
_ELEMENT_CHARS = 4  # quotes and a comma: an element takes memory, even if it is empty
_SPAN = {"start": pa.int64(), "end": pa.int64(), "text": pa.string()}
_ADDED_TYPES = {
    "log_odds": pa.float64(),
    "truncated": pa.bool_(),
    "query_truncated": pa.bool_(),
    "blank": pa.bool_(),
    "warnings": pa.list_(pa.string()),
    "spans": pa.list_(pa.struct(_SPAN | dict.fromkeys(("relevance_score", "log_odds"), pa.float64()))),
}


class ParquetTable:
    """A Parquet file, read in parts of a row group whose size is bounded.

    Args:
        path: The file.
        options: The options of the job.

    Attributes:
        schema: The Arrow schema of the file.
        num_rows: The number of rows.

    Raises:
        InputError: The file cannot be read.
    """

    def __init__(self, path: Path, options: BatchOptions) -> None:
        self._path = path
        self._options = options
        self._check_footer()
        self._batch_rows = options.window_rows
        self._delta_paths: set[str] = set()
        with self._open(()) as file:
            self.schema = file.schema_arrow
            self.num_rows: int = file.metadata.num_rows
            self._text_paths = self._check_metadata(file)

    def _open(self, text_paths: Sequence[str]) -> Any:
        with read_errors_as_input_errors(self._path):
            # Without a buffer, a column of a whole row group is held in memory. A string that the file contains once
            # is held once: the size of the rows is known before they are decoded.
            return pq.ParquetFile(
                self._path,
                read_dictionary=list(text_paths),
                pre_buffer=False,
                buffer_size=READ_BUFFER_BYTES,
                thrift_container_size_limit=MAX_FOOTER_ITEMS,
            )

    def _check_footer(self) -> None:
        with read_errors_as_input_errors(self._path), self._path.open("rb") as file:
            if file.read(2) == GZIP_MAGIC:
                raise InputError(
                    f"{self._path} is compressed with gzip; unpack it: Parquet compresses its pages"
                )
            file.seek(-min(8, self._path.stat().st_size), io.SEEK_END)
            tail = file.read()
        num_bytes = int.from_bytes(tail[:4], "little")
        if tail[4:] == _MAGIC and num_bytes > MAX_FOOTER_BYTES:
            raise InputError(
                f"{self._path} has a footer of {num_bytes} bytes; at most {MAX_FOOTER_BYTES} are read: "
                "write fewer columns or row groups"
            )

    def _check_metadata(self, file: Any) -> list[str]:
        """Check columns, values and pages, and return the paths of the columns that are read as dictionaries."""
        if file.metadata.num_columns > MAX_COLUMNS:
            raise InputError(
                f"{self._path} has {file.metadata.num_columns} columns; at most {MAX_COLUMNS} are read"
            )
        columns = [file.schema.column(number) for number in range(file.metadata.num_columns)]
        with read_errors_as_input_errors(self._path), self._path.open("rb") as raw:
            for index in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(index)
                chunks = [group.column(number) for number in range(len(columns))]
                num_bytes = sum(map(partial(self._check_chunk, raw), columns, chunks))
                if num_bytes > MAX_PAGE_BYTES:
                    raise InputError(
                        f"{self._path} has pages of {num_bytes} bytes, decompressed, in one row group; at most "
                        f"{MAX_PAGE_BYTES} are read: write smaller pages, or fewer columns"
                    )
        return [
            column.path
            for column in columns
            if column.physical_type == "BYTE_ARRAY"
            and column.logical_type.type != "DECIMAL"
            and column.path not in self._delta_paths
        ]

    def _check_chunk(self, raw: BinaryIO, column: Any, chunk: Any) -> int:
        """Check a column of a row group, and return the bytes of its largest page."""
        in_list = column.max_repetition_level > 0
        limit = MAX_LIST_VALUES if in_list else MAX_VALUES
        if chunk.num_values > limit:
            raise InputError(
                f"{self._path} has {chunk.num_values} values of {column.path!r} in a row group; "
                f"at most {limit} are read: write smaller row groups"
            )
        start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
        pages = list(read_pages(raw, start, chunk.total_compressed_size, chunk.num_values))
        largest = max((page.num_bytes for page in pages), default=0)
        if column.physical_type == "BYTE_ARRAY" and any(page.encoding in DELTA_ENCODINGS for page in pages):
            if in_list:
                raise InputError(
                    f"{self._path} has delta encoding in lists: {column.path!r}; write another one"
                )
            # pyarrow cannot read such pages as dictionaries, and a string may repeat all of its page.
            self._delta_paths.add(column.path)
            self._batch_rows = max(1, min(self._batch_rows, MAX_PAGE_BYTES // max(1, largest)))
        return largest

    def parts(self, columns: list[str] | None) -> Iterator[tuple[Any, bool]]:
        """Yield record batches, each with whether it is a single row above `max_row_chars`.

        Args:
            columns: The columns to read; None for all.

        Raises:
            InputError: The file cannot be read.
        """
        with self._open(self._text_paths) as file, read_errors_as_input_errors(self._path):
            # Each row group by itself: nested columns of two dictionaries cannot be read as one batch.
            for index in range(file.metadata.num_row_groups):
                groups: Any = {"row_groups": [index], "columns": columns, "use_threads": False}
                for batch in file.iter_batches(self._batch_rows, **groups):
                    yield from self._parts(batch)

    def _parts(self, batch: Any) -> Iterator[tuple[Any, bool]]:
        """Split a batch into parts of bounded size, with the types of the schema; a row that is too long is one."""
        start = num_chars = 0
        sizes = _row_chars(batch)
        for end, size in enumerate(sizes):
            is_too_long = size > self._options.max_row_chars
            if end > start and (is_too_long or num_chars + size > CHUNK_CHARS):
                yield self._decoded(batch, start, end), False
                start, num_chars = end, 0
            if is_too_long:
                yield batch.slice(end, 1), True
                start = end + 1
            else:
                num_chars += size
        if start < len(sizes):
            yield self._decoded(batch, start, len(sizes)), False

    def _decoded(self, batch: Any, start: int, end: int) -> Any:
        # A cast of a slice of lists casts all their values.
        batch = batch.take(pa.array(range(start, end), pa.int64()))
        fields = [self.schema.field(name) for name in batch.schema.names]
        columns = [
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(batch.columns, fields, strict=True)
        ]
        return pa.record_batch(columns, schema=pa.schema(fields, batch.schema.metadata))


class ParquetSource(ParquetTable):
    """The rows of a Parquet file, with their query and documents.

    Args:
        path: The file.
        options: The options of the job.

    Raises:
        InputError: The file cannot be read, or a required column is missing or of another type.
    """

    num_blank_lines = 0
    text_format = None

    def __init__(self, path: Path, options: BatchOptions) -> None:
        super().__init__(path, options)
        self.columns: Sequence[str] = self.schema.names
        self.layout = Layout(options, detect_form(self.columns, options, str(path)))
        self.layout.check_columns(self.columns, str(path))
        self._check_types()

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
        """Read the file from its beginning.

        Raises:
            InputError: The file cannot be read, or a row is too long in a column that scoring does not need.
        """
        needed = list(dict.fromkeys(self.layout.needed))
        number = 0
        for part, is_too_long in self.parts(needed if for_scoring else None):
            if is_too_long and not for_scoring:
                self._check_length(part, needed, number)
            rows = self._bad_row(number) if is_too_long else self._rows(part, needed, number)
            number += len(rows)
            yield Chunk(rows, number / max(1, self.num_rows), part)

    def _check_length(self, part: Any, needed: list[str], number: int) -> None:
        limit = self._options.max_row_chars
        if _row_chars(part.select(needed))[0] <= limit:
            raise InputError(
                f"row {number + 1} is longer than {limit} characters in columns that scoring does not need; "
                "drop them or raise max_row_chars"
            )

    def _bad_row(self, number: int) -> list[Row]:
        problem = f"longer than {self._options.max_row_chars} characters"
        return [Row(number, number + 1, cells={}, problem=problem)]

    def _rows(self, part: Any, needed: list[str], number: int) -> list[Row]:
        return [
            self.layout.read_cells(Row(number + offset, number + offset + 1), cells)
            for offset, cells in enumerate(part.select(needed).to_pylist())
        ]


def _row_chars(batch: Any) -> list[int]:
    """Return the characters of each row, without decoding a row."""
    return reduce(pc.add, map(_num_chars, batch.columns)).to_pylist()  # type: ignore[no-any-return]


def _num_chars(array: Any) -> Any:
    """Return the characters of each value as int64; bytes count as characters, and other values as one."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return pc.fill_null(_num_chars(array.dictionary).take(array.indices), 0)
    if _is_text(kind):
        return pc.fill_null(pc.utf8_length(array).cast(pa.int64()), 0)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pc.fill_null(pc.binary_length(array).cast(pa.int64()), 0)
    if pa.types.is_struct(kind) and kind.num_fields:
        return reduce(pc.add, map(_num_chars, array.flatten()))
    if _is_list(kind) or pa.types.is_map(kind):
        sizes = pc.cumulative_sum(pc.add(_num_chars(array.values), _ELEMENT_CHARS))
        totals = pa.concat_arrays([pa.array([0], pa.int64()), sizes])
        offsets = _offsets(array)
        return pc.subtract(totals.take(offsets[1:]), totals.take(offsets[:-1]))
    return pa.repeat(pa.scalar(1, pa.int64()), len(array))


def _offsets(array: Any) -> Any:
    if not pa.types.is_fixed_size_list(array.type):
        return array.offsets
    size = array.type.list_size
    return pa.array([size * (array.offset + index) for index in range(len(array) + 1)], pa.int64())


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
