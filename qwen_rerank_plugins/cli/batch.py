"""The command `batch`: options to settings, progress to the terminal, signals to a stop. Scores nothing itself."""

# ruff: noqa: D301, FBT002 (a \b in a docstring keeps lines apart; typer declares flags as defaults)

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

__all__ = ["EXIT_SET_ASIDE", "MEMORY", "batch"]

EXIT_SET_ASIDE = 3
EXIT_SIGNAL = 128
LINE_EVERY_S = 30.0
MEMORY: dict[str, Any] = {"cache_entries": 10_000, "prefix_cache_mb": 32}
"""Scores and computed queries in memory, where nothing is configured: a file hardly repeats itself, and rows of a query
are scored together. So memory is soon what it will be, however large the file."""

In = Annotated[
    str, typer.Argument(help="CSV, JSONL or Parquet, .gz too; - for standard input.", metavar="IN")
]
Out = Annotated[str, typer.Argument(help="What is written.", metavar="OUT")]
InputFormat = Annotated[str | None, typer.Option(help="csv, jsonl or parquet; left out, the suffix decides.")]
OutputFormat = Annotated[
    str | None, typer.Option(help="csv, jsonl or parquet; left out, the suffix decides.")
]
FormOf = Annotated[str | None, typer.Option(help="pairs, lists, or auto: by the columns.")]
QueryColumn = Annotated[str | None, typer.Option(help="Column of the query; query left out.")]
DocumentColumn = Annotated[str | None, typer.Option(help="Column of a pair's document; document left out.")]
DocumentsColumn = Annotated[str | None, typer.Option(help="Column of a list; documents left out.")]
InstructionColumn = Annotated[str | None, typer.Option(help="Column of what relevance means in a row.")]
ScoreColumn = Annotated[str | None, typer.Option(help="Column to add; relevance_score left out.")]
RankColumn = Annotated[str | None, typer.Option(help="Column to add; rank left out.")]
IndexColumn = Annotated[str | None, typer.Option(help="Column to add with --explode; index left out.")]
ResultsColumn = Annotated[str | None, typer.Option(help="Column to add for a list; results left out.")]
Explode = Annotated[bool | None, typer.Option("--explode", help="Lists: write a row for each document.")]
Details = Annotated[bool | None, typer.Option("--details", help="Add log_odds and what was cut.")]
Instruction = Annotated[str | None, typer.Option(help="What relevance means.")]
TopN = Annotated[int | None, typer.Option("--top-n", "-n", help="Keep so many documents of each query.")]
MinScore = Annotated[float | None, typer.Option(help="Leave out scores below, from 0 to 1.")]
OnBadRow = Annotated[
    str | None, typer.Option(help="stop, or set_aside: to OUT.rejected.jsonl; stop left out.")
]
Delimiter = Annotated[str | None, typer.Option(help="Between CSV cells; a comma left out, in .tsv a tab.")]
Escape = Annotated[
    bool | None, typer.Option("--escape-formulas/--no-escape-formulas", help="Make CSV formulas inert: on.")
]
Unescape = Annotated[bool | None, typer.Option("--unescape-formulas", help="Undo that in the input.")]
Bom = Annotated[bool | None, typer.Option("--bom", help="Begin CSV with a byte order mark, for Excel.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished job, if there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT; drop an unfinished job.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of a pair before it is cut.")]
LongDocuments = Annotated[str | None, typer.Option(help="truncate or chunk.")]
BaseUrl = Annotated[str | None, typer.Option(help="Address of the service of --backend remote.")]
MaxConcurrency = Annotated[int | None, typer.Option(help="Calls to that service at the same time.")]


def batch(  # noqa: PLR0913, PLR0917 (one parameter an option)
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
    details: Details = None,
    instruction: Instruction = None,
    top_n: TopN = None,
    min_score: MinScore = None,
    on_bad_row: OnBadRow = None,
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
    family: shared.Family = None,
    device: shared.Device = None,
    dtype: shared.Dtype = None,
    quantization: shared.Quantization = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Score and rank the rows of a file: query-document pairs, or queries with their lists.

    OUT has IN's columns and relevance_score and rank. What is done is kept in OUT.journal until the job is done.

    \b
    Examples:
      qwen-rerank batch pairs.csv scored.csv
      qwen-rerank batch pairs.jsonl best.parquet --top-n 10 --on-bad-row set_aside
      qwen-rerank batch lists.jsonl ranked.csv --explode --bom
      qwen-rerank batch pairs.csv scored.csv --resume
    """
    given = dict(locals())
    with shared.report_errors(debug=debug):
        status = _run(given)
    raise typer.Exit(status)


def _run(given: dict[str, Any]) -> int:
    from qwen_rerank_plugins.batch import BatchOptions
    from qwen_rerank_plugins.config import RerankConfig

    own = {name: given[name] for name in BatchOptions.model_fields if given.get(name) is not None}
    names = [name for name in RerankConfig.model_fields if name not in BatchOptions.model_fields]
    loaded = shared.load(given["config"], {name: given[name] for name in names if name in given})
    options = BatchOptions.from_config(loaded.config, **own)
    config = _bounded(loaded)
    shared.announce_demo(config)
    target = Path(given["target"])
    with (
        _input_file(given["source"], target, options, resume=given["resume"]) as source,
        _stopped_by() as caught,
    ):
        report = _rank_file(config, options, source, target, given, stop=lambda: bool(caught))
    return _conclude(report, caught, as_json=given["as_json"], can_resume=given["source"] != "-")


def _bounded(loaded: LoadedConfig) -> RerankConfig:
    bounds = {name: bound for name, bound in MEMORY.items() if loaded.sources[name] == "default"}
    # Nobody waits for one call, and a score that is missing must not be taken for a rank.
    return loaded.config.replace(**bounds, deadline_s=None, on_error="raise")


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
            stop=stop,
        )


@contextmanager
def _input_file(name: str, target: Path, options: BatchOptions, *, resume: bool) -> Iterator[Path]:
    """Give the input; standard input is copied to a file, for it is read twice."""
    if name != "-":
        yield Path(name)
        return
    if options.input_format is None:
        raise InputError("standard input has no suffix: '-'; name what it is with --input-format")
    if resume:
        raise InputError("standard input cannot be resumed: '-'; allowed with --resume: a file")
    if sys.stdin.isatty():
        raise InputError("nothing is piped in: '-'; allowed: a file, or a pipe")
    if not target.parent.is_dir():
        raise InputError(f"no such folder: {str(target.parent)!r}; allowed: one that exists")
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f"{target.name}.", suffix=".input") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Path(file.name)


@contextmanager
def _stopped_by() -> Iterator[list[int]]:
    """Collect the signals that ask for the end; the second ends the process at once, which loses nothing."""
    caught: list[int] = []

    def catch(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            os._exit(EXIT_SIGNAL + number)
        os.write(2, b"\nstopping when the pairs under way are scored; once more stops at once\n")

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
    """Give what shows progress on standard error: a bar on a terminal, else a line now and then."""
    console = make_console(stderr=True)
    if not console.is_terminal:
        yield _lines(lambda text: console.print(text, soft_wrap=True))
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
        yield lambda one: bar.update(
            task, description=one.phase, completed=one.fraction, figures=_figures(one)
        )


def _lines(write: Callable[[str], None]) -> Callable[[BatchProgress], None]:
    told_s = time.monotonic()

    def tell(one: BatchProgress) -> None:
        nonlocal told_s
        if time.monotonic() - told_s < LINE_EVERY_S:
            return
        told_s = time.monotonic()
        left = "" if one.seconds_left is None else f", {one.seconds_left:.0f} s left"
        write(f"{one.phase}: {one.fraction:.1%}, {_figures(one)}{left}")

    return tell


def _figures(one: BatchProgress) -> str:
    speed = "" if one.pairs_per_s is None else f", {one.pairs_per_s:,.0f} pairs/s"
    aside = f", {one.num_set_aside:,} set aside" if one.num_set_aside else ""
    return f"{one.num_rows:,} rows{speed}{aside}"


def _conclude(report: BatchReport, caught: list[int], *, as_json: bool, can_resume: bool) -> int:
    from qwen_rerank_plugins.cli.tables import to_json

    if as_json:
        typer.echo(to_json(report.as_dict()))
    if report.status == "stopped":
        hint = "the same command with --resume goes on" if can_resume else "standard input cannot be resumed"
        typer.echo(f"stopped: {report.num_rows} rows are done; {hint}", err=True)
        return EXIT_SIGNAL + caught[0]
    resumed = f", {report.num_resumed_pairs} pairs from before" if report.num_resumed_pairs else ""
    speed = "" if report.pairs_per_s is None else f", {report.pairs_per_s:.0f} pairs/s"
    typer.echo(f"{report.num_rows} rows read, {report.num_written} written{resumed}{speed}", err=True)
    if report.num_blank_lines:
        typer.echo(f"blank lines skipped: {report.num_blank_lines}", err=True)
    if report.num_set_aside:
        typer.echo(f"rows set aside: {report.num_set_aside}, see {report.rejected}", err=True)
        return EXIT_SET_ASIDE
    return 0
