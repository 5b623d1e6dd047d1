"""Choose the format of a file and open its source or writer. Parses and writes no rows itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.batch.options import BatchOptions, FileFormat
from qwen_rerank_plugins.batch.protocols import Source, Writer
from qwen_rerank_plugins.batch.rows import Chunk
from qwen_rerank_plugins.batch.sources import CsvSource, JsonLinesSource
from qwen_rerank_plugins.batch.writers import CsvWriter, JsonLinesWriter, TextOutput
from qwen_rerank_plugins.errors import InputError

__all__ = ["SUFFIXES", "detect_format", "open_source", "open_writer", "require_format"]

SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
SPREADSHEETS = {".xlsx", ".xlsm", ".xls", ".ods"}
MAX_INT64 = (1 << 63) - 1


def detect_format(path: Path, chosen: FileFormat | None, option: str) -> FileFormat:
    """Return the chosen format, or the format of the file's suffix before `.gz`.

    Args:
        path: The file.
        chosen: The format from the options; None to use the suffix.
        option: The command-line option that chooses it, for the error message.

    Raises:
        InputError: The suffix is unknown.
    """
    suffixes = _suffixes(path)
    suffix = suffixes[-1] if suffixes else ""
    found = chosen or SUFFIXES.get(suffix)
    if found is None:
        if suffix in SPREADSHEETS:
            raise InputError(
                f"spreadsheet files are not supported: {str(path)!r}; use CSV, which spreadsheet programs read and save"
            )
        known = ", ".join(SUFFIXES)
        raise InputError(
            f"unknown file format: {str(path)!r}; use one of the suffixes {known}, or pass {option}"
        )
    return found


def require_format(file_format: FileFormat) -> None:
    """Check that the packages for a format are installed.

    Raises:
        MissingDependencyError: The format is Parquet, and pyarrow is not installed.
    """
    if file_format == "parquet":
        import qwen_rerank_plugins.batch.parquet  # noqa: F401 (raises if pyarrow is missing)


def open_source(path: Path, options: BatchOptions) -> Source:
    """Open the input file and check its columns.

    Raises:
        InputError: The file cannot be read, or a required column is missing.
        MissingDependencyError: The format is Parquet, and pyarrow is not installed.
    """
    file_format = detect_format(path, options.input_format, "--input-format")
    if file_format == "csv":
        return CsvSource(path, options, delimiter=_default_delimiter(path))
    if file_format == "jsonl":
        return JsonLinesSource(path, options)
    from qwen_rerank_plugins.batch.parquet import ParquetSource

    return ParquetSource(path, options)


def open_writer(
    path: Path, target: Path, output_format: FileFormat, source: Source, options: BatchOptions
) -> Writer:
    """Create the output file.

    A table needs its columns in advance. If the rows of the source have columns of their own (JSON Lines), the source
    is read once to collect them.

    Args:
        path: The file to write until the output is complete.
        target: The final name; its suffixes decide on compression and delimiter.
        output_format: The format.
        source: The input, for its columns and types.
        options: The options of the job.

    Raises:
        InputError: The source cannot be read.
        MissingDependencyError: The format is Parquet, and pyarrow is not installed.
    """
    layout = source.layout
    if output_format == "jsonl":
        return JsonLinesWriter(_open_text(path, target), layout.removed)
    if source.columns is None:
        kinds = _collect_kinds(source.chunks(for_scoring=False))
    else:
        kinds = {column: {str} for column in source.columns}
    if output_format == "parquet":
        from qwen_rerank_plugins.batch.parquet import ParquetWriter

        return ParquetWriter(path, options, layout, schema=getattr(source, "schema", None), kinds=kinds)
    return CsvWriter(
        _open_text(path, target, bom=options.bom),
        [name for name in kinds if name not in layout.removed],
        layout.added,
        delimiter=options.delimiter or _default_delimiter(target),
        escape_formulas=options.escape_formulas,
    )


def _suffixes(path: Path) -> list[str]:
    return [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]


def _default_delimiter(path: Path) -> str:
    return "\t" if ".tsv" in _suffixes(path) else ","


def _open_text(path: Path, target: Path, *, bom: bool = False) -> TextOutput:
    return TextOutput(path, is_gzip=target.suffix.lower() == ".gz", bom=bom)


def _collect_kinds(chunks: Iterable[Chunk]) -> dict[str, set[type]]:
    """Collect column → Python types of its values, in order of first appearance."""
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
