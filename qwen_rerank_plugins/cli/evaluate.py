"""The command `evaluate`: reads options and prints results. `qwen_rerank_plugins.evaluation` does the work."""

# ruff: noqa: D301, FBT002 (a \b in a docstring keeps line breaks; typer declares flags as defaults)

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_rerank_plugins.cli.console import Config, Debug, make_console, show_status
from qwen_rerank_plugins.cli.evaluation_tables import figures_table, print_calibration, proposals_table
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

if TYPE_CHECKING:
    from qwen_rerank_plugins.config import RerankConfig
    from qwen_rerank_plugins.evaluation import Dataset, Evaluation, Plan, System
    from qwen_rerank_plugins.evaluation.datasets.dataset import Run

__all__ = ["evaluate"]

_FILE = "FILE"
_INSTRUCTION_CHARS = 40
_DATA_PROBLEMS = {
    "queries_without_judgements": "queries without judgements, not evaluated",
    "judged_queries_without_text": "judged queries without a text, counted as 0",
    "judged_queries_without_a_relevant_document": "judged queries without a relevant document, counted as 0",
    "judgements_of_unknown_documents": "judgements of documents that are not in the corpus",
    "texts_with_lone_surrogates": "texts with lone surrogates, which were replaced by U+FFFD",
}


class FigureFormat(enum.StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"


DatasetPath = Annotated[
    Path | None,
    typer.Option(help="BEIR folder or file of MTEB rows (default: the bundled set).", metavar="PATH"),
]
Split = Annotated[str, typer.Option(help="Split of the folder's judgements: qrels/SPLIT.tsv.")]
CorpusFile = Annotated[Path | None, typer.Option(help="Documents, JSONL or TSV.", metavar=_FILE)]
QueriesFile = Annotated[Path | None, typer.Option(help="Queries, JSONL or TSV.", metavar=_FILE)]
QrelsFile = Annotated[Path | None, typer.Option(help="Judgements, TREC or BEIR.", metavar=_FILE)]
Encoding = Annotated[
    str | None, typer.Option(help="Encoding of the files, such as gb18030 (default: detected).")
]
RunFile = Annotated[
    Path | None, typer.Option(help="First stage as a TREC run (default: BM25).", metavar=_FILE)
]
GroupBy = Annotated[str, typer.Option(help="Key of a query's record with its group.")]
Depths = Annotated[
    list[int] | None, typer.Option(help="Documents per query to rerank; may be repeated (default: 100).")
]
Measures = Annotated[
    list[str] | None,
    typer.Option(help="Measure; may be repeated (default: nDCG@10, RR@10, AP@100, R@10, P@5)."),
]
Instructions = Annotated[list[str] | None, typer.Option(help="Instruction; repeat it to compare several.")]
Compared = Annotated[
    list[Path] | None,
    typer.Option(
        help="Settings file to compare with; may be repeated. Options and environment do not change it.",
        metavar=_FILE,
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(help="Propose top_n and min_score for a target such as R@5=0.9; may be repeated."),
]
Resamples = Annotated[int, typer.Option(help="Number of bootstrap resamples for the intervals.")]
Seed = Annotated[int, typer.Option(help="Seed of the resamples.")]
SaveRun = Annotated[
    Path | None,
    typer.Option(help="Write the reranked lists as TREC runs, one file per system.", metavar=_FILE),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(help="Fit a calibration on the judged pairs and write it.", metavar=_FILE),
]
RelevantGrade = Annotated[int, typer.Option(help="Lowest grade that is relevant for --calibrate.")]
WithUnjudged = Annotated[
    bool,
    typer.Option("--with-unjudged", help="Fit --calibrate on the first stage's unjudged documents, too."),
]
ReportFile = Annotated[Path | None, typer.Option(help="Write an HTML report.", metavar=_FILE)]
Output = Annotated[FigureFormat, typer.Option("--format", help="Output format.")]


def evaluate(  # noqa: PLR0913, PLR0917 (one parameter per option)
    dataset: DatasetPath = None,
    split: Split = "test",
    corpus: CorpusFile = None,
    queries: QueriesFile = None,
    qrels: QrelsFile = None,
    run: RunFile = None,
    encoding: Encoding = None,
    group_by: GroupBy = "group",
    depth: Depths = None,
    measure: Measures = None,
    instruction: Instructions = None,
    compare: Compared = None,
    target: Targets = None,
    resamples: Resamples = 10_000,
    seed: Seed = 0,
    save_run: SaveRun = None,
    calibrate: Calibrate = None,
    relevant_grade: RelevantGrade = 1,
    with_unjudged: WithUnjudged = False,
    report: ReportFile = None,
    output: Output = FigureFormat.TABLE,
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
    """Evaluate rankings on judged queries, before and after reranking, with confidence intervals.

    The first stage is BM25 or a TREC run. Without data, a small bundled set in English and Chinese is used.
    Files may be compressed with gzip. A judged query without a list counts as 0.

    \b
    Examples:
      qwen-rerank evaluate --model demo
      qwen-rerank evaluate --dataset scifact --depth 20 --depth 100 --report report.html
      qwen-rerank evaluate --corpus c.jsonl --queries q.jsonl --qrels qrels.tsv --run first.trec
      qwen-rerank evaluate --instruction "Find the recipe" --instruction "Find the reason"
      qwen-rerank evaluate --dataset mine --calibrate calibration.json
      qwen-rerank evaluate --compare small.yaml --compare large.yaml --target R@5=0.9 --format json
    """
    overrides = model_overrides(locals())
    with report_errors(debug=debug):
        base = _load_base(config, overrides, calibrate)
        to_fit = None if calibrate is None else (relevant_grade, with_unjudged)
        plan = _plan(measure, depth, target, to_fit, resamples=resamples, seed=seed)
        systems = _systems(base, compare or [], instruction or [])
        with show_status("reading"):
            data, first = _read(dataset, (corpus, queries, qrels), run, split, group_by, encoding)
        evaluation = _run_evaluation(data, first, systems, plan, run.name if run else "BM25")
        _write(evaluation, save_run, calibrate, report)
        _print(evaluation, output)


def _load_base(config: str | None, overrides: dict[str, Any], calibrate: Path | None) -> RerankConfig:
    """Load the configuration of the options; a calibration that is to be fitted is not applied."""
    base = load(config, overrides).config
    if calibrate is None:
        return base
    if calibrate.is_dir() or not calibrate.absolute().parent.is_dir():
        raise InputError(f"file cannot be written: {str(calibrate)!r}; name a file in an existing folder")
    return base.replace(calibration=None)


def _plan(
    measures: list[str] | None,
    depths: list[int] | None,
    targets: list[str] | None,
    to_fit: tuple[int, bool] | None,
    *,
    resamples: int,
    seed: int,
) -> Plan:
    from qwen_rerank_plugins.evaluation.extra import require_extra

    require_extra()
    from qwen_rerank_plugins.evaluation import (
        CalibrationPlan,
        Plan,
        Resampling,
        parse_measure,
        parse_target,
    )

    given: dict[str, Any] = {}
    if measures:
        given["measures"] = tuple(dict.fromkeys(map(parse_measure, measures)))
    if depths:
        given["depths"] = tuple(sorted(set(depths)))
    if to_fit is not None:
        given["calibration"] = CalibrationPlan(*to_fit)
    chosen = tuple(map(parse_target, targets or ()))
    return Plan(targets=chosen, resampling=Resampling(resamples=resamples, seed=seed), **given)


def _systems(base: RerankConfig, compared: Sequence[Path], instructions: Sequence[str]) -> list[System]:
    """Combine every configuration with every instruction; the options are the first configuration."""
    from qwen_rerank_plugins.config import load_config
    from qwen_rerank_plugins.evaluation import System

    configs = {_name_of(base): base}
    for path in compared:
        name = path.stem if path.stem not in configs else str(path)
        configs[name] = load_config(path, env=None)
    systems: list[System] = []
    for name, config in configs.items():
        for instruction in instructions or (None,):
            label = name if len(instructions) < 2 else f"{name}: {_short(instruction or '')}"  # noqa: PLR2004
            if any(system.name == label for system in systems):
                label = f"{name}: {instruction}"
            systems.append(System(label, config, instruction))
    return systems


def _name_of(config: RerankConfig) -> str:
    if config.backend == "lexical":
        return "lexical"
    return Path(config.model).name if config.backend == "local" else f"{config.model} ({config.backend})"


def _short(text: str) -> str:
    return text if len(text) <= _INSTRUCTION_CHARS else f"{text[: _INSTRUCTION_CHARS - 1]}…"


def _dataset(
    path: Path | None,
    files: tuple[Path | None, Path | None, Path | None],
    *,
    split: str,
    group_key: str,
    encoding: str | None,
) -> Dataset:
    from qwen_rerank_plugins.evaluation import load_bundled, load_dataset, load_files

    corpus, queries, qrels = files
    given = [file for file in files if file is not None]
    if path is not None and given:
        raise InputError(
            f"two collections: --dataset {str(path)!r} and {str(given[0])!r}; name only one of them"
        )
    if path is not None:
        return load_dataset(path, split=split, group_key=group_key, encoding=encoding)
    if corpus and queries and qrels:
        return load_files(corpus=corpus, queries=queries, qrels=qrels, group_key=group_key, encoding=encoding)
    if given:
        raise InputError(
            f"incomplete collection: {str(given[0])!r}; pass --corpus, --queries and --qrels together"
        )
    typer.echo("no data given: using the bundled set (small, everyday questions)", err=True)
    return load_bundled()


def _read(
    path: Path | None,
    files: tuple[Path | None, Path | None, Path | None],
    run: Path | None,
    split: str,
    group_key: str,
    encoding: str | None,
) -> tuple[Dataset, Run]:
    from qwen_rerank_plugins.batch import BatchOptions
    from qwen_rerank_plugins.evaluation import bm25_run, read_run, run_from_scores

    chosen = BatchOptions(encoding=encoding).encoding
    data = _dataset(path, files, split=split, group_key=group_key, encoding=chosen)
    return data, bm25_run(data) if run is None else run_from_scores(data, read_run(run, encoding=chosen))


def _run_evaluation(
    data: Dataset, first: Run, systems: Sequence[System], plan: Plan, first_name: str
) -> Evaluation:
    from qwen_rerank_plugins.evaluation import documents_to_fit
    from qwen_rerank_plugins.evaluation import evaluate as run_evaluation

    for system in {id(system.config): system for system in systems}.values():
        announce_demo(system.config)
    deepest = max(plan.depths)
    pairs = sum(min(deepest, len(doc_ids)) for doc_ids in first.values())
    if plan.calibration is not None:
        pairs += sum(map(len, documents_to_fit(data, first, deepest, plan.calibration).values()))
    pairs *= len(systems)
    with _progress(pairs) as advance:
        return run_evaluation(data, first, systems, plan, first_name=first_name, on_progress=advance)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """Show the number of scored pairs, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=total)
        yield lambda done: progress.advance(task, done)


def _write(
    evaluation: Evaluation, save_run: Path | None, calibrate: Path | None, report: Path | None
) -> None:
    from qwen_rerank_plugins.evaluation import write_calibration, write_report, write_run

    if save_run is not None:
        for number, (name, scored) in enumerate(evaluation.scored.items(), start=1):
            path = save_run if len(evaluation.scored) == 1 else _numbered(save_run, number, name)
            write_run(path, scored.complete(max(evaluation.plan.depths)), tag=_slug(name))
            typer.echo(f"written: {path}", err=True)
    if calibrate is not None and evaluation.calibration is not None:
        write_calibration(calibrate, evaluation.calibration)
        typer.echo(f"written: {calibrate}", err=True)
    if report is not None:
        write_report(report, evaluation)
        typer.echo(f"written: {report}", err=True)


def _numbered(path: Path, number: int, name: str) -> Path:
    return path.with_name(f"{path.stem}-{number}-{_slug(name)}{path.suffix}")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")[:40] or "system"


def _print(evaluation: Evaluation, output: FigureFormat) -> None:
    from qwen_rerank_plugins.cli.tables import to_json
    from qwen_rerank_plugins.evaluation import summarize

    summary = summarize(evaluation)
    for fact, meaning in _DATA_PROBLEMS.items():
        if summary["dataset"][fact]:
            typer.echo(f"{meaning}: {summary['dataset'][fact]}", err=True)
    for system in summary["systems"]:
        if system["truncated_pairs"]:
            typer.echo(f"{system['name']}: truncated pairs: {system['truncated_pairs']}", err=True)
    if output is FigureFormat.JSON:
        typer.echo(to_json(summary))
        return
    console = make_console()
    facts = summary["dataset"]
    console.print(f"{facts['name']}: {facts['judged_queries']} queries, {facts['documents']} documents\n")
    console.print(figures_table(summary["measures"], [summary["before"], *summary["after"]]))
    for group in summary["groups"]:
        console.print(f"\n{group['group'] or 'no group'}: {group['queries']} queries")
        console.print(figures_table(summary["measures"][:1], group["rows"]))
    if summary["proposals"]:
        console.print()
        console.print(proposals_table(summary["proposals"]))
        console.print(
            "fitted to these queries: check them on other queries; prefer those reached by 'interval'"
        )
    if summary["calibration"] is not None:
        print_calibration(console, summary["calibration"])
