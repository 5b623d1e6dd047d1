"""The command line: parses, calls, prints. What is heavy is imported inside the commands, so that help is immediate."""

# ruff: noqa: FBT002 (typer declares flags as defaults)

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opensearch_qwen_rerank._version import __version__
from opensearch_qwen_rerank.options import CONNECTION, with_settings
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
"""`plan` found something to do."""


class OutputFormat(enum.StrEnum):
    """What is printed."""

    TEXT = "text"
    JSON = "json"


app = make_app(PROGRAM)

Format = Annotated[OutputFormat, typer.Option("--format", help="What to print on standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the steps and do none.")]


def main() -> None:
    """Run the command line."""
    app()


@app.callback()
def _root(
    version: Annotated[bool, version_option(PROGRAM, __version__)] = False,
) -> None:
    """Make an OpenSearch cluster rerank its hits with Qwen3, by configuration alone.

    `plan` shows what would be changed, `apply` does it, `verify` shows that it works, `destroy` takes it back. Every
    option can also come from the section `opensearch` of a file (--config) or from QWEN_RERANK_OPENSEARCH_* variables.
    """


@app.command()
@with_settings()
def plan(
    given: dict[str, Any],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Plan to replace default pipelines of others.")
    ] = False,
    output: Format = OutputFormat.TEXT,
    config: Config = None,
    debug: Debug = False,
) -> None:
    r"""Show what `apply` would change; nothing is changed.

    Exits with 0 where there is nothing to do, and with 3 where there is.

    \b
    Examples:
      opensearch-qwen-rerank plan --cluster http://localhost:9200 --fields title,body
      opensearch-qwen-rerank plan --fields body --recipe simple --format json | jq .steps
      opensearch-qwen-rerank plan --config qwen-rerank.yaml
    """
    with report_errors(PROGRAM, debug=debug):
        settings, cluster, key = _connected(given, config)
        told = _plan_apply(settings, cluster, key, force=force)
        _print_plan(told, output)
        if told.steps:
            raise typer.Exit(EXIT_CHANGES)


@app.command()
@with_settings()
def apply(
    given: dict[str, Any],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Replace default pipelines of others, until destroy.")
    ] = False,
    dry_run: DryRun = False,
    output: Format = OutputFormat.TEXT,
    config: Config = None,
    debug: Debug = False,
) -> None:
    r"""Make the cluster rerank as the settings say.

    Applied again, it changes what differs and nothing else. Interrupted, it goes on when it is applied again.

    \b
    Examples:
      opensearch-qwen-rerank apply --service http://gpu-machine:8501 --fields title,body
      opensearch-qwen-rerank apply --fields body --query-path query.match.body.query --default-for books
      opensearch-qwen-rerank apply --cluster https://search:9200 --username admin --password-env SEARCH_PASSWORD \
        --ca-certs ca.pem --fields title,body --score log_odds
    """
    with report_errors(PROGRAM, debug=debug):
        settings, cluster, key = _connected(given, config)
        told = _plan_apply(settings, cluster, key, force=force)
        _carry_out(told, cluster, output, dry_run=dry_run)


@app.command()
@with_settings(CONNECTION)
def verify(
    given: dict[str, Any],
    *,
    index: Annotated[
        str | None, typer.Option(help="Also run --search on this index, without and with the pipeline.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(help="JSON file with that search's body; - for standard input.", metavar="FILE"),
    ] = None,
    output: Format = OutputFormat.TEXT,
    config: Config = None,
    debug: Debug = False,
) -> None:
    r"""Rank two texts through the model and through the pipeline, and show what each stage took.

    An index is made for the two and removed. Exits with 1, and the cause, where something does not rerank.

    \b
    Examples:
      opensearch-qwen-rerank verify --cluster http://localhost:9200
      opensearch-qwen-rerank verify --index books --search search.json
    """
    with report_errors(PROGRAM, debug=debug):
        from opensearch_qwen_rerank import show
        from opensearch_qwen_rerank.verification import verify as verified

        if (index is None) != (search is None):
            raise ConfigurationError("--index and --search go together; only one was given")
        settings, cluster, _ = _connected(given, config)
        console = make_console(stderr=True)
        body = None if search is None else _read_search(search)
        report = verified(
            cluster,
            settings,
            index=index,
            search=body,
            tell=lambda stage: show.print_stage(stage, console),
        )
        if output is OutputFormat.JSON:
            typer.echo(json.dumps(report.to_json()))
        else:
            show.print_report(report, make_console())


@app.command()
@with_settings(CONNECTION)
def destroy(
    given: dict[str, Any],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also take the pipeline from indices that others gave it to.")
    ] = False,
    dry_run: DryRun = False,
    output: Format = OutputFormat.TEXT,
    config: Config = None,
    debug: Debug = False,
) -> None:
    r"""Remove a pipeline and all that was made for it, and put back what was there before.

    \b
    Examples:
      opensearch-qwen-rerank destroy --pipeline qwen-rerank --dry-run
      opensearch-qwen-rerank destroy --cluster http://localhost:9200
    """
    with report_errors(PROGRAM, debug=debug):
        from opensearch_qwen_rerank.destroy import plan_destroy

        settings, cluster, _ = _connected(given, config)
        told = plan_destroy(cluster, settings, force=force)
        _carry_out(told, cluster, output, dry_run=dry_run)


def _connected(
    given: dict[str, Any], config: str | None
) -> tuple[OpenSearchSettings, OpenSearchCluster, str | None]:
    from opensearch_qwen_rerank.cluster import connect
    from opensearch_qwen_rerank.settings import OpenSearchSettings, read_secret
    from qwen_rerank_plugins import load_config

    settings = OpenSearchSettings.from_config(load_config(config, overrides={"opensearch": given}))
    key = read_secret(settings, "service_key")
    return settings, connect(settings, secrets=[key]), key


def _plan_apply(
    settings: OpenSearchSettings, cluster: OpenSearchCluster, key: str | None, *, force: bool
) -> Plan:
    from opensearch_qwen_rerank.plan import plan_apply

    return plan_apply(cluster, settings, service_key=key, force=force)


def _print_plan(told: Plan, output: OutputFormat) -> None:
    from opensearch_qwen_rerank import show

    if output is OutputFormat.JSON:
        typer.echo(json.dumps(told.to_json()))
    else:
        show.print_plan(told, make_console())


def _carry_out(told: Plan, cluster: OpenSearchCluster, output: OutputFormat, *, dry_run: bool) -> None:
    from opensearch_qwen_rerank import show

    if dry_run or not told.steps:
        _print_plan(told, output)
        return
    console = make_console(stderr=True)
    for warning in told.warnings:
        console.print(f"warning: {warning}", style="bold yellow", soft_wrap=True)
    for step, took_ms in told.run(cluster):
        show.print_step(step, took_ms, console)
    if output is OutputFormat.JSON:
        typer.echo(json.dumps(told.to_json()))
    else:
        make_console().print(f"done: {len(told.steps)} steps", style="bold green")


def _read_search(path: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        body = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"the search cannot be read: {path!r}: {error}") from None
    if not isinstance(body, dict):
        raise InputError(f"the search is no JSON object: {path!r}; allowed: the body of a search")
    return body


if __name__ == "__main__":
    main()
