"""The command line `opensearch-qwen-rerank`. Commands import heavy modules themselves, so that `--help` is fast."""

# ruff: noqa: FBT002 (typer declares flags as defaults)

from __future__ import annotations

import enum
import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from opensearch_qwen_rerank._version import __version__
from opensearch_qwen_rerank.options import CONNECTION_SETTINGS, add_setting_options
from qwen_rerank_plugins import ConfigurationError, InputError
from qwen_rerank_plugins.cli.console import (
    Config,
    Debug,
    make_app,
    make_console,
    report_errors,
    version_option,
)

if TYPE_CHECKING:
    from opensearch_qwen_rerank.cluster import OpenSearchCluster
    from opensearch_qwen_rerank.settings import OpenSearchSettings
    from opensearch_qwen_rerank.steps import Plan

PROGRAM = "opensearch-qwen-rerank"

EXIT_CHANGES = 3
"""Exit code of `plan` if `apply` would change the cluster."""


class OutputFormat(enum.StrEnum):
    """Format of standard output."""

    TEXT = "text"
    JSON = "json"


app = make_app(PROGRAM)

Format = Annotated[OutputFormat, typer.Option("--format", help="Format of standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the steps without executing them.")]


def main() -> None:
    """Run the command line."""
    app()


@app.callback()
def _root(
    version: Annotated[bool, version_option(PROGRAM, __version__)] = False,
) -> None:
    """Configure an OpenSearch cluster to rerank its hits with Qwen3; no plugin is installed.

    `plan` shows the changes, `apply` makes them, `verify` tests the result, `destroy` reverts them. Every option can also
    be set in the section `opensearch` of a file (--config) or by a variable QWEN_RERANK_OPENSEARCH_*.
    """


@app.command()
@add_setting_options()
def plan(
    given: dict[str, Any],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Plan to replace default pipelines that exist already.")
    ] = False,
    output: Format = OutputFormat.TEXT,
    config: Config = None,
    debug: Debug = False,
) -> None:
    r"""Show what `apply` would change; changes nothing.

    Exits with 0 if `apply` would change nothing, and with 3 if it would.

    \b
    Examples:
      opensearch-qwen-rerank plan --cluster http://localhost:9200 --fields title,body
      opensearch-qwen-rerank plan --fields body --recipe simple --format json | jq .steps
      opensearch-qwen-rerank plan --config qwen-rerank.yaml
    """
    with report_errors(PROGRAM, debug=debug):
        settings, cluster, key = _connect(given, config)
        planned = _plan_apply(settings, cluster, key, force=force)
        _print_plan(planned, output)
        if planned.steps:
            raise typer.Exit(EXIT_CHANGES)


@app.command()
@add_setting_options()
def apply(
    given: dict[str, Any],
    *,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace default pipelines that exist already; destroy restores them."),
    ] = False,
    dry_run: DryRun = False,
    output: Format = OutputFormat.TEXT,
    config: Config = None,
    debug: Debug = False,
) -> None:
    r"""Configure the cluster to rerank as the settings say.

    A second run changes only what differs. After an interruption, run it again to continue.

    \b
    Examples:
      opensearch-qwen-rerank apply --service http://gpu-machine:8501 --fields title,body
      opensearch-qwen-rerank apply --fields body --query-path query.match.body.query --default-for books
      opensearch-qwen-rerank apply --cluster https://search:9200 --username admin --password-env SEARCH_PASSWORD \
        --ca-certs ca.pem --fields title,body --score log_odds
    """
    with report_errors(PROGRAM, debug=debug):
        settings, cluster, key = _connect(given, config)
        with _lock(cluster, dry_run=dry_run):
            planned = _plan_apply(settings, cluster, key, force=force)
            _run_plan(planned, cluster, output, dry_run=dry_run)


@app.command()
@add_setting_options(CONNECTION_SETTINGS)
def verify(
    given: dict[str, Any],
    *,
    index: Annotated[
        str | None, typer.Option(help="Also run --search on this index, without and with the pipeline.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(help="JSON file with the body of that search; - for standard input.", metavar="FILE"),
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(
            min=1.0, help="Repeat at this interval, one line each, until Ctrl-C.", metavar="SECONDS"
        ),
    ] = None,
    output: Format = OutputFormat.TEXT,
    config: Config = None,
    debug: Debug = False,
) -> None:
    r"""Rank two texts with the model and with the pipeline, and show the duration of each stage.

    Creates an index for the two texts and removes it. Exits with 1 and the cause if the pipeline does not rerank.
    With --watch it continues after a failure, and exits with 1 if there was any.

    \b
    Examples:
      opensearch-qwen-rerank verify --cluster http://localhost:9200
      opensearch-qwen-rerank verify --index books --search search.json
      opensearch-qwen-rerank verify --watch 60
    """
    with report_errors(PROGRAM, debug=debug):
        from opensearch_qwen_rerank import display
        from opensearch_qwen_rerank.verification import verify as run_verification

        if (index is None) != (search is None):
            raise ConfigurationError("--index and --search must be given together. Add the missing one.")
        settings, cluster, _ = _connect(given, config)
        console = make_console(stderr=True)
        if watch is not None:
            if index is not None:
                raise ConfigurationError("--watch and --index exclude each other. Remove one.")
            _watch(cluster, settings, watch, output)
        body = None if search is None else _read_search(search)
        report = run_verification(
            cluster,
            settings,
            index=index,
            search=body,
            on_stage=lambda stage: display.print_stage(stage, console),
        )
        if output is OutputFormat.JSON:
            typer.echo(json.dumps(report.to_json()))
        else:
            display.print_report(report, make_console())


@app.command()
@add_setting_options(CONNECTION_SETTINGS)
def destroy(
    given: dict[str, Any],
    *,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also unset the pipeline in indices where this command did not set it."),
    ] = False,
    dry_run: DryRun = False,
    output: Format = OutputFormat.TEXT,
    config: Config = None,
    debug: Debug = False,
) -> None:
    r"""Remove a pipeline and everything that was created for it, and restore the previous settings.

    \b
    Examples:
      opensearch-qwen-rerank destroy --pipeline qwen-rerank --dry-run
      opensearch-qwen-rerank destroy --cluster http://localhost:9200
    """
    with report_errors(PROGRAM, debug=debug):
        from opensearch_qwen_rerank.destroy import plan_destroy

        settings, cluster, _ = _connect(given, config)
        with _lock(cluster, dry_run=dry_run):
            planned = plan_destroy(cluster, settings, force=force)
            _run_plan(planned, cluster, output, dry_run=dry_run)


def _connect(
    given: dict[str, Any], config: str | None
) -> tuple[OpenSearchSettings, OpenSearchCluster, str | None]:
    from opensearch_qwen_rerank.cluster import connect
    from opensearch_qwen_rerank.settings import OpenSearchSettings, read_secret
    from qwen_rerank_plugins import load_config

    settings = OpenSearchSettings.from_config(load_config(config, overrides={"opensearch": given}))
    if settings.cluster.startswith("https:") and not settings.verify_certs:
        _warn(
            "certificates are not verified (--no-verify-certs): anybody on the way can read and change everything."
        )
    key = read_secret(settings, "service_key")
    return settings, connect(settings, secrets=[key]), key


def _watch(
    cluster: OpenSearchCluster, settings: OpenSearchSettings, interval_s: float, output: OutputFormat
) -> NoReturn:
    """Verify again and again, and print one line each."""
    from opensearch_qwen_rerank.errors import OpenSearchError
    from opensearch_qwen_rerank.verification import verify as run_verification

    console, has_failed = make_console(), False
    with suppress(KeyboardInterrupt):
        while True:
            moment, problem, took_ms = datetime.now(UTC).isoformat(timespec="seconds"), "", 0.0
            try:
                report = run_verification(cluster, settings)
                took_ms = sum(stage.took_ms or 0.0 for stage in report.stages if stage.name == "model")
            except OpenSearchError as error:
                problem, has_failed = str(error), True
            if output is OutputFormat.JSON:
                typer.echo(
                    json.dumps({"time": moment, "model_ms": round(took_ms, 1), "problem": problem or None})
                )
            elif problem:
                console.print(f"{moment}  failed: {problem}", style="bold red", soft_wrap=True, markup=False)
            else:
                console.print(f"{moment}  reranks; model {took_ms:.0f} ms", style="green")
            time.sleep(interval_s)
    raise typer.Exit(1 if has_failed else 0)


def _lock(cluster: OpenSearchCluster, *, dry_run: bool) -> AbstractContextManager[None]:
    from opensearch_qwen_rerank.lock import locked

    return nullcontext() if dry_run else locked(cluster)


def _plan_apply(
    settings: OpenSearchSettings, cluster: OpenSearchCluster, key: str | None, *, force: bool
) -> Plan:
    from opensearch_qwen_rerank.plan import plan_apply

    return plan_apply(cluster, settings, service_key=key, force=force)


def _print_plan(planned: Plan, output: OutputFormat) -> None:
    from opensearch_qwen_rerank import display

    if output is OutputFormat.JSON:
        typer.echo(json.dumps(planned.to_json()))
    else:
        display.print_plan(planned, make_console())


def _run_plan(planned: Plan, cluster: OpenSearchCluster, output: OutputFormat, *, dry_run: bool) -> None:
    from opensearch_qwen_rerank import display

    if dry_run or not planned.steps:
        _print_plan(planned, output)
        return
    console = make_console(stderr=True)
    for warning in planned.warnings:
        _warn(warning)
    for step, took_ms in planned.run(cluster):
        display.print_step(step, took_ms, console)
    if output is OutputFormat.JSON:
        typer.echo(json.dumps(planned.to_json()))
    else:
        make_console().print(f"done: {len(planned.steps)} steps", style="bold green")


def _warn(warning: str) -> None:
    make_console(stderr=True).print(f"warning: {warning}", style="bold red", soft_wrap=True)


def _read_search(path: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        body = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"the file of --search cannot be read: {path!r}: {error}") from None
    if not isinstance(body, dict):
        raise InputError(f"the file of --search is not a JSON object: {path!r}. Use the body of a search.")
    return body


if __name__ == "__main__":
    main()
