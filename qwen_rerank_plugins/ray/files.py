"""From a file to a file through the pipeline of `data`: CSV, JSONL and Parquet, row for row in the order of the input.

The columns are those of `qwen-rerank batch`. Texts stay texts: nothing in a CSV cell or a JSON line is taken for a number or
a date. The output appears when it is whole.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.csv as pa_csv  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import ray.data
from ray.data import DataContext, Dataset
from ray.exceptions import RayError, RayTaskError

from qwen_rerank_plugins.batch.formulas import escape_formula
from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import (
    ConfigurationError,
    EngineError,
    InputError,
    RerankError,
    WorkerDiedError,
)
from qwen_rerank_plugins.ray.data import ROW_COLUMN, Pool, input_columns, number_rows, rank_rows

__all__ = ["rerank_file"]

LINE_COLUMN = "__line"
SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
READ_BATCH_ROWS = 4096

_Read = tuple[Dataset, list[str]]  # rows, and the names of their columns


def rerank_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    config: RerankConfig,
    options: BatchOptions | None = None,
    pool: Pool | None = None,
    overwrite: bool = False,
) -> int:
    """Score the pairs of a file on a cluster, and write them with their scores and ranks.

    Args:
        source: A file with a row a pair, at a path that all nodes see; the suffix tells its format unless the options do.
        target: Where the rows go, in the order of the input.
        config: The reranker's settings.
        options: As of `qwen-rerank batch`; None for the section `batch` of `config`.
        pool: The workers; None for one.
        overwrite: Replace a target that is there.

    Returns:
        The number of rows that were written.

    Raises:
        InputError: A row cannot be scored, the source cannot be read, or the target is there.
        ConfigurationError: An option is wrong, or needs the pipeline of one machine.
        RerankError: Scoring failed, at every attempt.
    """
    options = BatchOptions.from_config(config) if options is None else options
    source, target = Path(source), Path(target)
    _check(options, source, target, overwrite=overwrite)
    kind = options.input_format or _format_of(source)
    write = _WRITERS[options.output_format or _format_of(target)]
    with _ordered(), _own_errors():
        dataset, columns = _READERS[kind](source, options)
        numbered = number_rows(dataset)
        ranked = rank_rows(numbered, config=config, options=options, pool=pool, columns=columns)
        with _whole(target) as part:
            return write(_rows_in_order(ranked), part, options)


def _check(options: BatchOptions, source: Path, target: Path, *, overwrite: bool) -> None:
    if options.on_bad_row != "stop":
        raise ConfigurationError(
            f"on_bad_row is not valid: {options.on_bad_row!r}; allowed on a cluster: 'stop'"
        )
    if not source.is_file():
        raise InputError(f"source cannot be read: {str(source)!r}; allowed: a file")
    if target.exists() and not overwrite:
        raise InputError(f"target is there: {str(target)!r}; allowed: a new file, or overwrite=True")


def _format_of(path: Path) -> str:
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise InputError(f"file of unknown kind: {str(path)!r}; allowed: {', '.join(SUFFIXES)}")
    return found


@contextmanager
def _ordered() -> Iterator[None]:
    """Let blocks keep their order, so that rows are numbered as in the file, and errors be those that workers raised."""
    context = DataContext.get_current()
    before = context.execution_options.preserve_order, context.raise_original_map_exception
    context.execution_options.preserve_order = context.raise_original_map_exception = True
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.raise_original_map_exception = before


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what a worker raised, without Ray's wrapping."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, RerankError):
            raise error.cause from None
        raise EngineError(f"a worker failed: {type(error.cause).__name__}") from error
    except RayError as error:
        raise WorkerDiedError(f"workers died at every attempt: {type(error).__name__}") from error


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A file beside the target that takes its place when the block ends well."""
    number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(number)
    part = Path(name)
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _rows_in_order(ranked: Dataset) -> Iterator[pa.Table]:
    """The rows as they stood in the input, a batch at a time."""
    ordered = ranked.sort(ROW_COLUMN)
    tables: Iterable[pa.Table] = ordered.iter_batches(batch_size=READ_BATCH_ROWS, batch_format="pyarrow")
    for table in tables:
        yield table.drop_columns([ROW_COLUMN])


# Reading.


def _read_csv(source: Path, options: BatchOptions) -> _Read:
    delimiter = _delimiter(source, options)
    with source.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file, delimiter=delimiter), [])
    if not names:
        raise InputError(f"source is empty: {str(source)!r}; allowed: a line of names, and rows")
    texts = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=False,
        quoted_strings_can_be_null=False,
    )
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    return ray.data.read_csv(str(source), convert_options=texts, parse_options=parse), names


def _delimiter(path: Path, options: BatchOptions) -> str:
    return options.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")


def _read_jsonl(source: Path, options: BatchOptions) -> _Read:
    lines = ray.data.read_text(str(source))
    read: Any = _read_lines
    rows = lines.map_batches(
        read, batch_format="pyarrow", fn_kwargs={"options": options}, batch_size=READ_BATCH_ROWS
    )
    return rows, [LINE_COLUMN, *input_columns(options)]


def _read_lines(lines: pa.Table, options: BatchOptions) -> pa.Table:
    """What is scored of each line, and the line itself."""
    texts = [text for text in lines["text"].to_pylist() if text.strip()]
    rows = [_object(text) for text in texts]
    columns = {
        name: pa.array([_text_in(row.get(name)) for row in rows], pa.string())
        for name in input_columns(options)
    }
    return pa.table({LINE_COLUMN: pa.array(texts, pa.string()), **columns})


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"a line is no JSON: {error.msg}; allowed: an object a line") from None
    if not isinstance(value, dict):
        raise InputError(f"a line holds a {type(value).__name__}; allowed: an object a line")
    return value


def _text_in(value: object) -> str | None:
    """A text, or the text of a document that is a mapping; None for what will be refused."""
    if isinstance(value, dict):
        value = value.get("text")
    return value if isinstance(value, str) else None


def _read_parquet(source: Path, options: BatchOptions) -> _Read:
    del options
    return ray.data.read_parquet(str(source)), pq.read_schema(source).names


# Writing.


def _write_csv(tables: Iterator[pa.Table], part: Path, options: BatchOptions) -> int:
    clean: Callable[[str], str] = escape_formula if options.escape_formulas else str
    with part.open("w", encoding="utf-8-sig" if options.bom else "utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=options.delimiter or ",", lineterminator="\n")
        count = 0
        for table in tables:
            rows = _cells(table, options)
            if not count and rows:
                writer.writerow([clean(name) for name in rows[0]])
            for row in rows:
                writer.writerow(
                    [clean(cell) if isinstance(cell, str) else _plain(cell) for cell in row.values()]
                )
            count += len(rows)
    return count


def _plain(cell: object) -> object:
    """JSON for what CSV has no form for; nothing for what is not there."""
    if isinstance(cell, bool | list | dict):
        return json.dumps(cell, ensure_ascii=False)
    return "" if cell is None else cell


def _write_jsonl(tables: Iterator[pa.Table], part: Path, options: BatchOptions) -> int:
    with part.open("w", encoding="utf-8") as file:
        return sum(_write_lines(file, _cells(table, options)) for table in tables)


def _write_lines(file: TextIO, rows: list[dict[str, Any]]) -> int:
    file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    return len(rows)


def _write_parquet(tables: Iterator[pa.Table], part: Path, options: BatchOptions) -> int:
    count, writer = 0, None
    try:
        for table in tables:
            flat = (
                pa.Table.from_pylist(_cells(table, options)) if LINE_COLUMN in table.column_names else table
            )
            writer = pq.ParquetWriter(part, flat.schema) if writer is None else writer
            writer.write_table(flat.cast(writer.schema))
            count += len(flat)
    finally:
        if writer is not None:
            writer.close()
    return count


def _cells(table: pa.Table, options: BatchOptions) -> list[dict[str, Any]]:
    """Rows as they are written: of a JSON line its own values, and what was added."""
    rows: list[dict[str, Any]] = table.to_pylist()
    if LINE_COLUMN not in table.column_names:
        return rows
    read = {LINE_COLUMN, *input_columns(options)}
    added = [name for name in table.column_names if name not in read]
    return [{**_object(row[LINE_COLUMN]), **{name: row[name] for name in added}} for row in rows]


_Reader = Callable[[Path, BatchOptions], _Read]
_Writer = Callable[[Iterator[pa.Table], Path, BatchOptions], int]
_READERS: dict[str, _Reader] = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
_WRITERS: dict[str, _Writer] = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}
