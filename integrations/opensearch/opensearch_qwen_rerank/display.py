"""Prints plans, progress and reports to a console."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from opensearch_qwen_rerank.steps import Change, Plan, Step
from opensearch_qwen_rerank.verification import Stage, VerificationReport

__all__ = ["print_plan", "print_report", "print_stage", "print_step"]

_STYLES: Final = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "deploy": (">", "cyan"),
    "verify": ("?", "cyan"),
    "delete": ("-", "red"),
    "restore": ("<", "magenta"),
    "finish": ("=", "cyan"),
}
_MAX_VALUE = 160


def print_plan(plan: Plan, console: Console) -> None:
    """Print the steps of a plan and what they change."""
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="bold red", soft_wrap=True)
    console.print(f"pipeline {plan.pipeline} on OpenSearch {plan.version}", style="bold")
    if not plan.steps:
        console.print("no changes: the cluster matches the settings", style="green")
        return
    for step in plan.steps:
        sign, style = _STYLES[step.action]
        console.print(f"  {sign} {step}", style=style)
        for line in _change_lines(step.changes):
            console.print(Text("      ") + line, soft_wrap=True)
    console.print(f"{len(plan.steps)} steps", style="bold")


def _change_lines(changes: tuple[Change, ...]) -> Iterator[Text]:
    for change in changes:
        path = Text(f"{change.path}: ")
        if change.before is None:
            yield path + Text(_short(change.after), style="green")
        elif change.after is None:
            yield path + Text(_short(change.before), style="red strike")
        else:
            yield (
                path
                + Text(_short(change.before), style="red")
                + Text(" → ")
                + Text(_short(change.after), style="green")
            )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."


def print_step(step: Step, took_ms: float, console: Console) -> None:
    """Print a finished step."""
    sign, style = _STYLES[step.action]
    console.print(f"  {sign} {step}  {took_ms:.0f} ms", style=style)


def print_stage(stage: Stage, console: Console) -> None:
    """Print a finished stage of a verification."""
    took = "" if stage.took_ms is None else f"  {stage.took_ms:.1f} ms"
    console.print(f"  {stage.name}: {stage.detail}{took}", soft_wrap=True)


def print_report(report: VerificationReport, console: Console) -> None:
    """Print the result of a verification, and both orders of the hits of the user's search."""
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="bold red", soft_wrap=True)
    if report.first_stage:
        table = Table("rank", "first stage", "reranked")
        rows = max(len(report.first_stage), len(report.reranked))
        for position in range(rows):
            sides = (report.first_stage, report.reranked)
            table.add_row(
                str(position + 1), *(side[position] if position < len(side) else "" for side in sides)
            )
        console.print(table)
    console.print(f"the pipeline {report.pipeline} reranks", style="bold green")
