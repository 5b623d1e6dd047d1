"""The tables of `evaluate`: measures, proposed settings, and a fitted calibration. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["figures_table", "print_calibration", "proposals_table"]


def figures_table(measures: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    """List the rows of each measure below one another, so that before and after can be compared."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure", no_wrap=True)
    table.add_column("ranking", overflow="fold")
    for title in ("depth", "mean", "interval", "change", "interval"):
        table.add_column(title, justify="right", no_wrap=True)
    for measure in measures:
        for row in rows:
            shown = measure if row is rows[0] else ""
            depth = "" if row["depth"] is None else str(row["depth"])
            table.add_row(shown, Text(row["name"]), depth, *_cells(row["figures"][measure]))
    return table


def _cells(figure: dict[str, Any]) -> tuple[str, str, str, str]:
    """Format the mean and the difference from the first stage, with their intervals."""
    own = (f"{figure['mean']:.4f}", f"{figure['low']:.3f}..{figure['high']:.3f}")
    change = figure.get("difference")
    if change is None:
        return *own, "", ""
    return *own, f"{change['mean']:+.4f}", f"{change['low']:+.3f}..{change['high']:+.3f}"


def proposals_table(proposals: Sequence[dict[str, Any]]) -> Table:
    """List the settings that each ranking needs for each target."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("ranking", "target", "setting", "reached by", "value", "mean", "lower bound", "documents"):
        table.add_column(title)
    for proposal in proposals:
        for one in proposal["settings"]:
            value = "not reached" if one["value"] is None else f"{one['value']:g}"
            figures = (f"{one['mean']:.3f}", f"{one['low']:.3f}", f"{one['documents']:.1f}")
            texts = (proposal["system"], proposal["target"], one["name"], one["by"], value, *figures)
            table.add_row(*map(Text, texts))
    return table


def print_calibration(console: Console, summary: dict[str, Any]) -> None:
    """Print what `FittedCalibration.summary` returned."""
    for fit in summary["fits"]:
        held_out = fit["held_out"]
        before, after = held_out["before"], held_out["after"]
        sign = "-" if fit["offset"] < 0 else "+"
        name = "default instruction" if fit["instruction"] is None else repr(fit["instruction"][:60])
        console.print(
            f"\ncalibration, {name}: {fit['num_pairs']} pairs, {fit['num_relevant']} of them relevant (grade "
            f"{summary['relevant_grade']} or higher), {fit['num_queries']} queries\n"
            f"probability = 1 / (1 + exp(-({fit['slope']:.4f} * log_odds {sign} {abs(fit['offset']):.4f})))\n",
            markup=False,
        )
        rows: list[Sequence[str]] = [
            (title, f"{before[key]:.4f}", f"{after[key]:.4f}") for title, key in _ERRORS
        ]
        console.print(_table((f"held out, {held_out['num_folds']} folds", "before", "after"), rows))
        console.print()
        bins = zip(before["bins"], after["bins"], strict=True)
        titles = ("probability", "before: pairs", "mean", "relevant", "after: pairs", "mean", "relevant")
        console.print(_table(titles, [_bin_row(*pair) for pair in bins]))
        console.print()
        rows = [_threshold_row(one) for one in held_out["thresholds"]]
        console.print(_table(("threshold, after", "pairs", "precision", "recall"), rows))


_ERRORS = (("Brier score", "brier"), ("expected calibration error", "ece"))


def _bin_row(before: dict[str, Any], after: dict[str, Any]) -> Sequence[str]:
    cells = [f"{before['low']:.1f}..{before['low'] + 0.1:.1f}"]
    for one in (before, after):
        cells += [str(one["num_pairs"]), _number(one["mean"]), _number(one["relevant"])]
    return cells


def _threshold_row(one: dict[str, Any]) -> Sequence[str]:
    numbers = (_number(one["precision"]), _number(one["recall"]))
    return (f"{one['threshold']:.2f}", str(one["num_pairs"]), *numbers)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
