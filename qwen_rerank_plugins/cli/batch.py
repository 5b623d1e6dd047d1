"""The command `batch`: reads options, shows progress and stops on signals. `qwen_rerank_plugins.batch` does the work."""

# ruff: noqa: D301, FBT002 (a \b in a docstring keeps line breaks; typer declares flags as defaults)

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_rerank_plugins.cli import options as shared
from qwen_rerank_plugins.cli.console import Config, Debug, make_console
from qwen_rerank_plugins.errors import InputError

if TYPE_CHECKING:
    from types import FrameType

    from qwen_rerank_plugins.batch import BatchOptions, BatchProgress, BatchReport
    from qwen_rerank_plugins.config import LoadedConfig, RerankConfig

__all__ = ["EXIT_REJECTED", "MEMORY", "batch"]

EXIT_REJECTED = 3
EXIT_SIGNAL = 128
LINE_EVERY_S = 30.0
MEMORY: dict[str, Any] = {"cache_entries": 10_000, "prefix_cache_mb": 32}
"""Cache limits where none is configured. Pairs rarely repeat in a file, and the rows of a query are scored together, so
larger caches would use memory without saving time."""

In = Annotated[
    str,
    typer.Argument(help="CSV, JSONL, JSON or Parquet, optionally .gz; - for standard input.", metavar="IN"),
]
Out = Annotated[str, typer.Argument(help="Output file.", metavar="OUT")]
InputFormat = Annotated[str | None, typer.Option(help="csv, jsonl or parquet (default: by the suffix).")]
OutputFormat = Annotated[str | None, typer.Option(help="csv, jsonl or parquet (default: by the suffix).")]
FormOf = Annotated[str | None, typer.Option(help="pairs, lists or auto (default: auto, by the columns).")]
QueryColumn = Annotated[str | None, typer.Option(help="Column of the query (default: query).")]
DocumentColumn = Annotated[str | None, typer.Option(help="Column of a pair's document (default: document).")]
DocumentsColumn = Annotated[
    str | None, typer.Option(help="Column of a list of documents (default: documents).")
]
InstructionColumn = Annotated[str | None, typer.Option(help="Column of a row's instruction.")]
ScoreColumn = Annotated[
    str | None, typer.Option(help="Added column of the score (default: relevance_score).")
]
RankColumn = Annotated[str | None, typer.Option(help="Added column of the rank (default: rank).")]
IndexColumn = Annotated[str | None, typer.Option(help="Added column with --explode (default: index).")]
ResultsColumn = Annotated[str | None, typer.Option(help="Added column of a ranked list (default: results).")]
Explode = Annotated[bool | None, typer.Option("--explode", help="Write one row per document of a list.")]
ReplaceColumns = Annotated[
    bool | None, typer.Option("--replace-columns", help="Drop columns of IN that OUT adds.")
]
Details = Annotated[
    bool | None,
    typer.Option("--details", help="Add log_odds, truncated, query_truncated, blank and warnings."),
]
Spans = Annotated[
    int | None,
    typer.Option(help="Add the column spans: up to N relevant sentences of each document.", metavar="N"),
]
Instruction = Annotated[str | None, typer.Option(help="Instruction: what makes a document relevant.")]
TopN = Annotated[int | None, typer.Option("--top-n", "-n", help="Documents to keep per query.")]
MinScore = Annotated[float | None, typer.Option(help="Lowest score to keep, from 0 to 1.")]
OnBadRow = Annotated[
    str | None, typer.Option(help="stop, or reject: write them to OUT.rejected.jsonl (default: stop).")
]
Encoding = Annotated[
    str | None, typer.Option(help="Encoding of IN, such as gb18030 or cp1252 (default: detected).")
]
Delimiter = Annotated[
    str | None,
    typer.Option(help="CSV delimiter (default: detected in IN; in OUT a comma, or a tab in .tsv)."),
]
Escape = Annotated[
    bool | None,
    typer.Option("--escape-formulas/--no-escape-formulas", help="Make CSV formulas inert (default: on)."),
]
Unescape = Annotated[
    bool | None, typer.Option("--unescape-formulas", help="Undo --escape-formulas in the input.")
]
Bom = Annotated[bool | None, typer.Option("--bom", help="Begin CSV with a byte order mark, for Excel.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an unfinished job, if there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT; discard an unfinished job.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
MaxLength = Annotated[int | None, typer.Option(help="Maximum tokens of a pair; longer ones are truncated.")]
LongDocuments = Annotated[str | None, typer.Option(help="truncate or chunk.")]
BaseUrl = Annotated[str | None, typer.Option(help="URL of the service for --backend remote.")]
MaxConcurrency = Annotated[int | None, typer.Option(help="Concurrent calls to that service.")]


def batch(  # noqa: PLR0913, PLR0917 (one parameter per option)
    source: In,
    target: Out,
    input_format: InputFormat = None,
    output_format: OutputFormat = None,
    form: FormOf = None,
    query_column: QueryColumn = None,
    document_column: DocumentColumn = None,
    documents_column: DocumentsColumn = None,
    instruction_column: InstructionColumn = None,
    score_column: ScoreColumn = None,
    rank_column: RankColumn = None,
    index_column: IndexColumn = None,
    results_column: ResultsColumn = None,
    explode: Explode = None,
    replace_columns: ReplaceColumns = None,
    details: Details = None,
    spans: Spans = None,
    instruction: Instruction = None,
    top_n: TopN = None,
    min_score: MinScore = None,
    on_bad_row: OnBadRow = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    escape_formulas: Escape = None,
    unescape_formulas: Unescape = None,
    bom: Bom = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    max_length: MaxLength = None,
    long_documents: LongDocuments = None,
    base_url: BaseUrl = None,
    max_concurrency: MaxConcurrency = None,
    backend: shared.Backend = None,
    model: shared.Model = None,
    revision: shared.Revision = None,
    hub: shared.Hub = None,
    adapters: shared.Adapters = None,
    family: shared.Family = None,
    device: shared.Device = None,
    dtype: shared.Dtype = None,
    quantization: shared.Quantization = None,
    calibration: shared.Calibration = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Score and rank the rows of a file: query-document pairs, or queries with lists of documents.

    OUT has the columns of IN, with relevance_score and rank. OUT.journal holds the scores of an unfinished job.

    \b
    Examples:
      qwen-rerank batch pairs.jsonl best.parquet --top-n 10 --on-bad-row reject
      qwen-rerank batch lists.jsonl ranked.csv --explode --bom --spans 3
      qwen-rerank batch pairs.csv scored.csv --resume
    """
    given = dict(locals())
    with shared.report_errors(debug=debug):
        raise typer.Exit(_run(given))


def _run(given: dict[str, Any]) -> int:
    from qwen_rerank_plugins.batch import BatchOptions
    from qwen_rerank_plugins.config import RerankConfig

    own = {name: given[name] for name in BatchOptions.model_fields if given.get(name) is not None}
    names = [name for name in RerankConfig.model_fields if name not in BatchOptions.model_fields]
    loaded = shared.load(given["config"], {name: given[name] for name in names if name in given})
    options = BatchOptions.from_config(loaded.config, **own)
    config = _with_batch_defaults(loaded)
    shared.announce_demo(config)
    target = Path(given["target"])
    with (
        _input_file(given["source"], target, options, resume=given["resume"]) as source,
        _catch_signals() as caught,
    ):
        report = _rank_file(config, options, source, target, given, stop=lambda: bool(caught))
    return _conclude(report, caught, as_json=given["as_json"], can_resume=given["source"] != "-")


def _with_batch_defaults(loaded: LoadedConfig) -> RerankConfig:
    limits = {name: limit for name, limit in MEMORY.items() if loaded.sources[name] == "default"}
    # A deadline is for interactive calls, and rows without scores cannot be ranked.
    return loaded.config.replace(**limits, deadline_s=None, on_error="raise")


def _rank_file(
    config: RerankConfig,
    options: BatchOptions,
    source: Path,
    target: Path,
    given: dict[str, Any],
    *,
    stop: Callable[[], bool],
) -> BatchReport:
    from qwen_rerank_plugins.batch import run_batch
    from qwen_rerank_plugins.reranker import Reranker

    with _shown_progress() as on_progress, Reranker(config) as reranker:
        return run_batch(
            source,
            target,
            reranker=reranker,
            options=options,
            resume=given["resume"],
            overwrite=given["overwrite"],
            on_progress=on_progress,
            on_guess=lambda guess: typer.echo(str(guess), err=True),
            stop=stop,
        )


@contextmanager
def _input_file(name: str, target: Path, options: BatchOptions, *, resume: bool) -> Iterator[Path]:
    """Provide the input as a file; standard input is copied to a temporary one, because a job reads its input twice."""
    if name != "-":
        yield Path(name)
        return
    if options.input_format is None:
        raise InputError("standard input has no suffix: '-'; name its format with --input-format")
    if resume:
        raise InputError("standard input cannot be resumed: '-'; save the input to a file to use --resume")
    if sys.stdin.isatty():
        raise InputError("standard input is a terminal: '-'; name a file, or pipe one in")
    if not target.parent.is_dir():
        raise InputError(f"no such folder: {str(target.parent)!r}; create it first")
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f"{target.name}.", suffix=".input") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Path(file.name)


@contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM. The second one ends the process at once; the journal stays."""
    caught: list[int] = []

    def catch(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            os._exit(EXIT_SIGNAL + number)
        os.write(2, b"\nstopping once the calls in flight are scored; press Ctrl-C again to stop at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _shown_progress() -> Iterator[Callable[[BatchProgress], None]]:
    """Show progress on standard error: a bar on a terminal, otherwise a line every `LINE_EVERY_S` seconds."""
    console = make_console(stderr=True)
    if not console.is_terminal:
        yield _print_lines(lambda text: console.print(text, soft_wrap=True))
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=1.0, figures="")
        yield lambda progress: bar.update(
            task, description=progress.phase, completed=progress.fraction, figures=_figures(progress)
        )


def _print_lines(write: Callable[[str], None]) -> Callable[[BatchProgress], None]:
    written_s = time.monotonic()

    def on_progress(progress: BatchProgress) -> None:
        nonlocal written_s
        if time.monotonic() - written_s < LINE_EVERY_S:
            return
        written_s = time.monotonic()
        left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
        write(f"{progress.phase}: {progress.fraction:.1%}, {_figures(progress)}{left}")

    return on_progress


def _figures(progress: BatchProgress) -> str:
    speed = "" if progress.pairs_per_s is None else f", {progress.pairs_per_s:,.0f} pairs/s"
    rejected = f", {progress.num_rejected:,} rejected" if progress.num_rejected else ""
    return f"{progress.num_rows:,} rows{speed}{rejected}"


def _conclude(report: BatchReport, caught: list[int], *, as_json: bool, can_resume: bool) -> int:
    from qwen_rerank_plugins.cli.tables import to_json

    if as_json:
        typer.echo(to_json(report.as_dict()))
    if report.status == "stopped":
        hint = "continue with --resume" if can_resume else "standard input cannot be resumed"
        typer.echo(f"stopped: {report.num_rows} rows are done; {hint}", err=True)
        return EXIT_SIGNAL + caught[0]
    resumed = f", {report.num_resumed_pairs} pairs from an earlier run" if report.num_resumed_pairs else ""
    speed = "" if report.pairs_per_s is None else f", {report.pairs_per_s:.0f} pairs/s"
    rows = "1 row" if report.num_rows == 1 else f"{report.num_rows} rows"
    typer.echo(f"{rows} read, {report.num_written} written{resumed}{speed}", err=True)
    if report.num_blank_lines:
        typer.echo(f"blank lines skipped: {report.num_blank_lines}", err=True)
    if report.num_warned:
        typer.echo(
            f"rows with warnings about their texts: {report.num_warned}; see them with --details", err=True
        )
    if report.num_rejected:
        typer.echo(f"rejected rows: {report.num_rejected}, see {report.rejected}", err=True)
        return EXIT_REJECTED
    return 0
