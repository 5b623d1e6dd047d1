"""The tables of the report, as HTML with captions and with row and column headers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from qwen_rerank_plugins.evaluation.evaluator import Evaluation, Outcome

__all__ = ["render_tables"]

_MAX_QUERIES = 5
_MAX_DOCUMENTS = 3
_TEXT_CHARS = 300


def render_tables(evaluation: Evaluation, summary: dict[str, Any]) -> str:
    """Return all tables: means, changes, groups, proposals, systems, data, best and worst queries."""
    after = summary["after"]
    sections = [
        _section("Means", _means(summary["measures"], [summary["before"], *after], "Mean and interval")),
        _section("Changes", _changes(summary["measures"], after)),
        *(
            _section(
                f"Group {group['group'] or 'without a name'}",
                _means(summary["measures"], group["rows"], f"{group['queries']} queries"),
            )
            for group in summary["groups"]
        ),
        *([_section("Proposed settings", _proposals(summary["proposals"]))] if summary["proposals"] else []),
        _section("What was compared", _systems(summary["systems"])),
        _section("Data", _table("Counts", ("what", "number"), _facts(summary["dataset"]))),
        *(_queries(evaluation, outcome) for outcome in evaluation.deepest()),
    ]
    return "\n".join(sections)


def _means(measures: Sequence[str], rows: Iterable[dict[str, Any]], caption: str) -> str:
    cells = [
        (
            row["name"],
            "" if row["depth"] is None else row["depth"],
            *(_spread(row["figures"][m]) for m in measures),
        )
        for row in rows
    ]
    return _table(caption, ("system", "depth", *measures), cells)


def _changes(measures: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    cells = [
        (row["name"], row["depth"], *(_change(row["figures"][measure]["difference"]) for measure in measures))
        for row in rows
    ]
    caption = "Difference from the first stage; * if the interval excludes 0"
    return _table(caption, ("system", "depth", *measures), cells)


def _proposals(proposals: Iterable[dict[str, Any]]) -> str:
    cells = [
        (
            one["system"],
            one["target"],
            setting["name"],
            setting["by"],
            "not reached" if setting["value"] is None else setting["value"],
            f"{setting['mean']:.3f}",
            f"{setting['low']:.3f}",
            f"{setting['documents']:.1f}",
        )
        for one in proposals
        for setting in one["settings"]
    ]
    caption = (
        "The strictest settings that reach a target on these queries. They are fitted to these queries: with a setting by "
        "the mean, other queries miss the target about half of the time. Prefer settings by the lower bound of the "
        "interval, and check them on other queries."
    )
    titles = (
        "system",
        "target",
        "setting",
        "reached by",
        "value",
        "mean",
        "lower bound",
        "documents per query",
    )
    return _table(caption, titles, cells)


def _systems(systems: Iterable[dict[str, Any]]) -> str:
    titles = ("name", "model", "backend", "instruction", "pairs", "tokens", "truncated_pairs")
    cells = [tuple("default" if one[title] is None else one[title] for title in titles) for one in systems]
    return _table("One row per system", [title.replace("_", " ") for title in titles], cells)


def _facts(facts: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(name.replace("_", " "), value) for name, value in facts.items()]


def _queries(evaluation: Evaluation, outcome: Outcome) -> str:
    change = outcome.values[:, 0] - evaluation.first_stage.values[:, 0]
    order = np.argsort(change, kind="stable").tolist()
    worst = [row for row in order[:_MAX_QUERIES] if change[row] < 0]
    best = [row for row in order[::-1][:_MAX_QUERIES] if change[row] > 0]
    measure = evaluation.plan.measures[0]
    parts = [
        _query_table(evaluation, outcome, rows, f"{kind} by {measure}")
        for kind, rows in (("Most gained", best), ("Most lost", worst))
        if rows
    ]
    return _section(f"Queries: {outcome.name}", "".join(parts) or "<p>No query changed.</p>")


def _query_table(evaluation: Evaluation, outcome: Outcome, rows: Sequence[int], caption: str) -> str:
    cells = []
    for row in rows:
        query_id = evaluation.dataset.judged_ids[row]
        query = evaluation.dataset.queries.get(query_id)
        before, after = evaluation.first_stage.values[row, 0], outcome.values[row, 0]
        cells.append(
            (
                query_id,
                _cut(query.text) if query else "",
                f"{before:.3f} → {after:.3f}",
                _top(evaluation, evaluation.first_stage, query_id),
                _top(evaluation, outcome, query_id),
            )
        )
    return _table(caption, ("query", "text", "value", "first documents before", "and after"), cells)


def _top(evaluation: Evaluation, outcome: Outcome, query_id: str) -> list[str]:
    grades = evaluation.dataset.qrels[query_id]
    return [
        f"[{grades.get(doc_id, 'not judged')}] {doc_id}: {_cut(evaluation.dataset.corpus[doc_id])}"
        for doc_id in outcome.run.get(query_id, ())[:_MAX_DOCUMENTS]
    ]


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_CHARS else f"{text[: _TEXT_CHARS - 1]}…"


def _spread(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:.4f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _change(figure: dict[str, Any]) -> str:
    mark = "*" if figure["low"] > 0 or figure["high"] < 0 else ""
    return f"{figure['mean']:+.4f}{mark} ({figure['low']:+.3f} to {figure['high']:+.3f})"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>"


def _table(caption: str, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "\n".join(
        f'<tr><th scope="row">{_cell(first)}</th>{"".join(f"<td>{_cell(one)}</td>" for one in rest)}</tr>'
        for first, *rest in rows
    )
    label = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><caption>{label}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return f"<ol>{''.join(f'<li>{escape(str(one))}</li>' for one in value)}</ol>"
    return escape(str(value))
