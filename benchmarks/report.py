"""Runners' results to figures, tables and verdicts. Starts and measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.workloads import Workload

__all__ = ["TOLERANCE", "assemble", "tables", "verdicts"]

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Contender → the result of each of its processes."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}
"""Largest difference of P(yes) from the official recipe in float32 that rounding excuses, by number format."""

INT8_TOLERANCE = 0.5
"""For int8 on random weights, whose scores hang on small differences; the difference itself is printed."""

GOALS = (
    # workload, peer, how many times as fast
    ("mixed", "openvino", 1.6),
    ("mixed", "sentence-transformers", 2.0),
    ("short", "openvino", 3.0),
)
MAX_TIMES_MULTIPLICATIONS = 1.3
MAX_MB_OVER_WEIGHTS = 1000.0


def assemble(
    workloads: Sequence[Workload],
    tokens: Mapping[str, int],
    references: Mapping[str, Sequence[float]],
    results: Results,
) -> dict[str, Any]:
    """Return all figures as plain JSON types.

    Args:
        workloads: The workloads.
        tokens: Workload → tokens of its prompts as in the recipe, nothing shared.
        references: Workload → P(yes) by the official recipe in float32.
        results: Results of the runners, without contenders that failed.
    """
    ran = [contender for contender in CONTENDERS if results.get(contender.name)]
    figures: dict[str, Any] = {
        "contenders": {one.name: _process(results[one.name]) for one in ran},
        "workloads": {
            workload.name: _workload(workload, tokens[workload.name], references[workload.name], ran, results)
            for workload in workloads
        },
    }
    return {**figures, **verdicts(figures)}


def _process(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of a contender as a whole."""
    last = processes[-1]
    peaks = [one["peak_mb"] for one in processes if one["peak_mb"] is not None]
    figures = {
        "dtype": last["dtype"],
        "quantization": last["quantization"],
        "rounds": len(processes),
        "load_s": round(min(one["load_s"] for one in processes), 3),
        "peak_mb": round(max(peaks), 1) if peaks else None,
        "versions": last["versions"],
    }
    if "weight_mb" in last:
        figures["weight_mb"] = round(last["weight_mb"], 1)
    return figures


def _workload(
    workload: Workload,
    num_tokens: int,
    reference: Sequence[float],
    ran: Sequence[Contender],
    results: Results,
) -> dict[str, Any]:
    times = {one.name: _seconds(results[one.name], workload.name) for one in ran}
    alone = {one.name: _multiplications(results[one.name], workload.name) for one in ran if one.is_ours}
    rows = []
    for contender in ran:
        runs = _runs(results[contender.name], workload.name)
        rows.append(
            {
                "name": contender.name,
                "dtype": _format(results[contender.name][-1]),
                "batch_size": None if contender.is_ours else runs[-1]["batch_size"],
                **_speed(times[contender.name], len(workload.pairs), alone.get(contender.rival)),
                "times_ours": _ratio(times, contender),
                **_agreement(runs, reference, results[contender.name][-1]),
            }
        )
    return {
        "documents": len(workload.pairs),
        "queries": len({query for query, _ in workload.pairs}),
        "tokens": num_tokens,
        "reference_spread": round(max(reference) - min(reference), 6),
        "multiplications": alone,
        "rows": rows,
    }


def _runs(processes: Iterable[Mapping[str, Any]], workload: str) -> list[Mapping[str, Any]]:
    return [run for one in processes for run in one["runs"] if run["workload"] == workload]


def _seconds(processes: Iterable[Mapping[str, Any]], workload: str) -> list[float]:
    return [round(run["seconds"], 4) for run in _runs(processes, workload)]


def _multiplications(processes: Iterable[Mapping[str, Any]], workload: str) -> dict[str, Any]:
    """Return those of the fastest round, and the machine's multiplication speed in it."""
    every = [one["multiplications"][workload] for one in processes]
    best = min(every, key=lambda one: one["seconds"])
    return {name: round(value, 4) for name, value in best.items()}


def _speed(times: Sequence[float], num_pairs: int, alone: Mapping[str, float] | None) -> dict[str, Any]:
    """Return the best round, for all contenders: other load on the machine only adds time."""
    best = min(times)
    return {
        "seconds": best,
        "all_seconds": list(times),
        "pairs_per_s": round(num_pairs / best, 3),
        # What has to be multiplied at least, by the time it took, by the speed at which this machine multiplies.
        "multiply_share": None if alone is None else round(alone["gflop"] / best / alone["gflops"], 4),
        "times_multiplications": None if alone is None else round(best / alone["seconds"], 4),
    }


def _ratio(times: Mapping[str, Sequence[float]], contender: Contender) -> float | None:
    """Return the time relative to ours."""
    ours = times.get(contender.rival)
    return round(min(times[contender.name]) / min(ours), 3) if ours else None


def _format(result: Mapping[str, Any]) -> str:
    return str(result["dtype"] if result["quantization"] == "none" else result["quantization"])


def _agreement(
    runs: Sequence[Mapping[str, Any]], reference: Sequence[float], result: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the largest difference to the official recipe, and whether rounding explains it."""
    pairs = [(a, b) for run in runs for a, b in zip(run["probabilities"], reference, strict=True)]
    largest = max(abs(a - b) for a, b in pairs)
    limit = INT8_TOLERANCE if result["quantization"] == "int8" else TOLERANCE[result["dtype"]]
    return {"max_abs_diff": float(f"{largest:.3g}"), "agrees": all(abs(a - b) <= limit for a, b in pairs)}


def verdicts(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return lost workloads, wrong scores, and goals."""
    rows = [(workload, row) for workload, found in figures["workloads"].items() for row in found["rows"]]
    return {
        "lost": [
            {"workload": workload, "to": row["name"], "times_ours": row["times_ours"]}
            for workload, row in rows
            if row["times_ours"] is not None and row["times_ours"] < 1
        ],
        "wrong": [
            {"workload": workload, "name": row["name"], "max_abs_diff": row["max_abs_diff"]}
            for workload, row in rows
            if not row["agrees"]
        ],
        "goals": _goals(figures, rows),
    }


def _goals(figures: Mapping[str, Any], rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    by_name = {(workload, row["name"]): row for workload, row in rows}
    goals = []
    for workload, peer, times in GOALS:
        row = by_name.get((workload, peer))
        if row is not None and row["times_ours"] is not None:
            value = row["times_ours"]
            goals.append(_goal(f"{workload}: {times} × as fast as {peer}", value, value >= times))
    ours = by_name.get(("mixed", "ours"))
    if ours is not None:
        value = ours["times_multiplications"]
        text = f"mixed: at most {MAX_TIMES_MULTIPLICATIONS} × the multiplications alone"
        goals.append(_goal(text, value, value <= MAX_TIMES_MULTIPLICATIONS))
    whole = figures["contenders"].get("ours")
    if whole is not None and whole["peak_mb"] is not None:
        value = round(whole["peak_mb"] - whole["weight_mb"], 1)
        text = f"memory: at most the weights and {MAX_MB_OVER_WEIGHTS:.0f} MB"
        goals.append(_goal(text, value, value <= MAX_MB_OVER_WEIGHTS))
    return goals


def _goal(text: str, value: float, reached: bool) -> dict[str, Any]:  # noqa: FBT001 - an internal record
    return {"goal": text, "value": value, "reached": reached}


def tables(figures: Mapping[str, Any]) -> list[Table]:
    """Return one table per workload, and one of the goals."""
    made = [_workload_table(name, found, figures) for name, found in figures["workloads"].items()]
    if figures["goals"]:
        goals = Table("goal", "measured", "", title="Goals", title_justify="left")
        for goal in figures["goals"]:
            goals.add_row(goal["goal"], f"{goal['value']:g}", "reached" if goal["reached"] else "missed")
        made.append(goals)
    return made


def _workload_table(name: str, found: Mapping[str, Any], figures: Mapping[str, Any]) -> Table:
    title = (
        f"{name}: {found['documents']} documents, {found['queries']} queries, {found['tokens']} tokens; "
        f"scores of the recipe spread over {found['reference_spread']:g}"
    )
    table = Table(title=title, title_justify="left")
    for column in (
        "",
        "format",
        "batch",
        "seconds",
        "pairs/s",
        "of multiply speed",
        "peak MB",
        "× ours",
        "|Δp|",
    ):
        table.add_column(column, justify="left" if column in {"", "format"} else "right", no_wrap=True)
    for row in found["rows"]:
        table.add_row(*_cells(row, figures["contenders"][row["name"]]))
    for owner, alone in found["multiplications"].items():
        label = "multiplications alone" if owner == "ours" else "int8 products alone"
        speed = f"{alone['gflops']:.0f} GFLOPS" if owner == "ours" else f"{alone['gflops']:.0f} GOPS"
        table.add_row(label, "", "", f"{alone['seconds']:.2f}", "", speed, "", "", "", style="dim")
    return table


def _cells(row: Mapping[str, Any], whole: Mapping[str, Any]) -> list[str]:
    def shown(value: float | None, pattern: str) -> str:
        return "" if value is None else format(value, pattern)

    return [
        row["name"],
        row["dtype"],
        shown(row["batch_size"], "d"),
        shown(row["seconds"], ".2f"),
        shown(row["pairs_per_s"], ".2f"),
        shown(row["multiply_share"], ".0%"),
        shown(whole["peak_mb"], ".0f"),
        shown(row["times_ours"], ".2f"),
        f"{row['max_abs_diff']:.1e}" + ("" if row["agrees"] else " WRONG"),
    ]
