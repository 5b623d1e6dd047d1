"""The command `rank`: documents from a file to a ranked table or JSON."""

# ruff: noqa: D301, FBT002 (a \b in a docstring keeps lines apart; typer declares flags as defaults)

from __future__ import annotations

import enum
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from qwen_rerank_plugins.cli.console import Config, Debug, make_console, show_status
from qwen_rerank_plugins.cli.options import (
    Adapters,
    Backend,
    Calibration,
    Device,
    Dtype,
    Family,
    Hub,
    Model,
    Quantization,
    Revision,
    announce_demo,
    load,
    model_overrides,
    report_errors,
)
from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.recipe import REPAIRED_TEXT

if TYPE_CHECKING:
    from qwen_rerank_plugins.cli.documents import DocumentFile
    from qwen_rerank_plugins.config import RerankConfig
    from qwen_rerank_plugins.types import RerankResult

__all__ = ["rank"]


class InputKind(enum.StrEnum):
    """Input formats."""

    TEXT = "text"
    JSONL = "jsonl"
    CSV = "csv"


class OutputFormat(enum.StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


def rank(  # noqa: PLR0913, PLR0917 (one parameter an option)
    query: Annotated[str, typer.Argument(help="The search query.", show_default=False)],
    file: Annotated[str, typer.Argument(help="File of documents; - for standard input.")] = "-",
    input_format: Annotated[
        InputKind | None, typer.Option(help="By default the file's suffix decides; standard input is text.")
    ] = None,
    text_field: Annotated[str | None, typer.Option(help="JSON key or CSV column of the text.")] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding, such as gb18030 or cp1252 (default: detected).")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="CSV delimiter (default: detected).")] = None,
    top_n: Annotated[int | None, typer.Option("--top-n", "-n", help="Maximum documents to print.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Drop lower scores, from 0 to 1.")] = None,
    instruction: Annotated[str | None, typer.Option(help="What relevance means.")] = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="Output format.")] = OutputFormat.TABLE,
    max_length: Annotated[int | None, typer.Option(help="Maximum tokens of a pair.")] = None,
    long_documents: Annotated[str | None, typer.Option(help="truncate or chunk.")] = None,
    backend: Backend = None,
    model: Model = None,
    revision: Revision = None,
    hub: Hub = None,
    adapters: Adapters = None,
    family: Family = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    calibration: Calibration = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Rank the documents of a file, or of standard input, by their relevance to QUERY.

    A text file holds one document per line, .jsonl and .json strings or objects with a text, .csv a column of texts.

    \b
    Examples:
      qwen-rerank rank "how to wash a cat" documents.txt
      qwen-rerank rank "how to wash a cat" articles.jsonl --text-field body --top-n 5
      qwen-rerank rank "how to wash a cat" table.csv --format json | jq .results
      grep -h cat notes/*.txt | qwen-rerank rank "how to wash a cat" --model demo
      qwen-rerank rank "quarterly loss" reports.txt --instruction "Find the passage with the figure"
    """
    overrides = {
        "top_n": top_n,
        "min_score": min_score,
        "instruction": instruction,
        "max_length": max_length,
        "long_documents": long_documents,
        **model_overrides(locals()),
    }
    with report_errors(debug=debug):
        loaded = load(config, overrides)
        documents = _read(file, input_format, text_field, encoding=encoding, delimiter=delimiter)
        announce_demo(loaded.config)
        result = _rank_with_progress(loaded.config, query, documents.texts)
        _print_result(_with_repairs(result, documents.repaired), documents, output)


def _read(
    path: str, kind: InputKind | None, text_field: str | None, *, encoding: str | None, delimiter: str | None
) -> DocumentFile:
    from qwen_rerank_plugins.batch import BatchOptions
    from qwen_rerank_plugins.cli.documents import read_documents

    if path == "-" and sys.stdin.isatty():
        raise InputError(
            "no documents: standard input is a terminal; name a file, or pipe one document per line"
        )
    options = BatchOptions(encoding=encoding, delimiter=delimiter)
    documents = read_documents(
        path, input_format=kind.value if kind else None, text_field=text_field, options=options
    )
    if documents.guess:
        typer.echo(str(documents.guess), err=True)
    if documents.num_blank_lines:
        typer.echo(f"blank lines skipped: {documents.num_blank_lines}", err=True)
    return documents


def _rank_with_progress(config: RerankConfig, query: str, texts: Sequence[str]) -> RerankResult:
    """Rank in one call, or in slices with a progress bar if standard error is a terminal and there are enough texts."""
    from qwen_rerank_plugins.cli.progress import SLICE, ProgressScorer
    from qwen_rerank_plugins.reranker import Reranker

    if not (sys.stderr.isatty() and len(texts) > SLICE and config.enabled):
        with Reranker(config) as reranker:
            return reranker.rank(query, texts)
    from qwen_rerank_plugins.scorers import build_scorer

    with show_status("loading the model"):
        scorer = build_scorer(config)
    try:
        with _progress_bar(len(texts)) as advance:
            return Reranker(config, scorer=ProgressScorer(scorer, advance)).rank(query, texts)
    finally:
        scorer.close()


@contextmanager
def _progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=total)
        yield lambda done: progress.advance(task, done)


def _with_repairs(result: RerankResult, repaired: AbstractSet[int]) -> RerankResult:
    """Return the result with a warning for each document that was repaired when the file was read."""
    marked = [
        replace(one, score=replace(one.score, warnings=(*one.warnings, REPAIRED_TEXT)))
        if one.score is not None and one.index in repaired
        else one
        for one in result.results
    ]
    return replace(result, results=tuple(marked))


def _print_result(result: RerankResult, documents: DocumentFile, output: OutputFormat) -> None:
    """Print the result, and on standard error why it is not ranked or empty."""
    from qwen_rerank_plugins.cli.tables import result_object, result_table, row_objects, to_json

    if result.status != "ranked":
        reason = result.error or "`enabled` is false"
        typer.echo(f"not ranked, documents are in input order: {reason}", err=True)
    for warning, count in Counter(text for one in result.results for text in one.warnings).items():
        typer.echo(f"{count} of the documents: {warning}", err=True)
    if output is OutputFormat.JSON:
        typer.echo(
            to_json(result_object(result, documents.records, num_blank_lines=documents.num_blank_lines))
        )
    elif output is OutputFormat.JSONL:
        for row in row_objects(result, documents.records):
            typer.echo(to_json(row))
    elif result.results:
        console = make_console()
        console.print(result_table(result, documents.texts, width=console.width), crop=False)
    else:
        typer.echo("no documents" if not documents.texts else "no document reaches `min_score`", err=True)
