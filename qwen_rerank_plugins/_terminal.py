"""What the command line does with the terminal: progress, tables, styles. It knows no options."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import typer

from qwen_rerank_plugins.commands import make_console

if TYPE_CHECKING:
    from qwen_rerank_plugins._files import DocumentFile
    from qwen_rerank_plugins.config import RerankConfig
    from qwen_rerank_plugins.types import RerankResult

__all__ = [
    "OutputFormat",
    "print_facts",
    "print_result",
    "rank_with_progress",
    "show_status",
]


class OutputFormat(enum.StrEnum):
    """What `rank` prints."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


def rank_with_progress(config: RerankConfig, query: str, texts: Sequence[str]) -> RerankResult:
    """Rank at once, or in slices under a progress bar where somebody watches and there is enough to watch."""
    from qwen_rerank_plugins._progress import SLICE, ProgressScorer
    from qwen_rerank_plugins.reranker import Reranker

    if not (sys.stderr.isatty() and len(texts) > SLICE and config.enabled):
        with Reranker(config) as reranker:
            return reranker.rank(query, texts)
    from qwen_rerank_plugins._backends import build_scorer

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


@contextmanager
def show_status(text: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done, on a terminal only; the function that is given changes the text."""
    console = make_console(stderr=True)
    with console.status(text) if console.is_terminal else nullcontext() as status:
        yield lambda step: status.update(step) if status else None


def print_result(result: RerankResult, documents: DocumentFile, output: OutputFormat) -> None:
    """Print a ranked list, or say why there is nothing to print."""
    from qwen_rerank_plugins._output import result_object, result_table, row_objects, to_json

    if result.status != "ranked":
        reason = f": {result.error}" if result.error else " (enabled is false)"
        typer.echo(f"not ranked, in the order of the input{reason}", err=True)
    if output is OutputFormat.JSON:
        typer.echo(
            to_json(result_object(result, documents.records, num_blank_lines=documents.num_blank_lines))
        )
    elif output is OutputFormat.JSONL:
        for row in row_objects(result, documents.records):
            typer.echo(to_json(row))
    elif result.results:
        make_console().print(result_table(result, documents.texts))
    else:
        typer.echo("no documents" if not documents.texts else "no document reaches the threshold", err=True)


def print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print what `doctor` found, problems last."""
    from qwen_rerank_plugins._output import facts_table, one_line, settings_table, to_json

    if as_json:
        typer.echo(to_json(facts))
        return
    console = make_console()
    for section, content in facts.items():
        if section == "problems":
            continue
        console.print(section, style="bold underline", highlight=False)
        console.print(settings_table(content) if section == "settings" else facts_table(content))
        console.print()
    for problem in facts["problems"]:
        console.print(f"PROBLEM: {one_line(problem)}", style="bold red", markup=False, highlight=False)
    if not facts["problems"]:
        console.print("no problems found", style="bold green", highlight=False)
