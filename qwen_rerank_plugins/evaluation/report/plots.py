"""The plots of the report, drawn by plotly."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from qwen_rerank_plugins.evaluation.evaluator import Evaluation
from qwen_rerank_plugins.recipe import replace_surrogates

__all__ = ["Plot", "draw_plots", "library_source"]

# Distinguishable with colour blindness (Okabe and Ito's palette).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
_FIRST_STAGE_COLOUR = "#999999"
_LABEL_CHARS = 90


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot as an HTML fragment, which needs `library_source` in its page."""

    title: str
    description: str
    html: str


def library_source() -> str:
    """Return the source of plotly.js, to embed in the page."""
    return str(get_plotlyjs())


def draw_plots(evaluation: Evaluation, summary: dict[str, Any]) -> list[Plot]:
    """Draw the means, the changes by query, and what there is of depths, groups and calibrations."""
    plots = [_means(summary)]
    if len(summary["depths"]) > 1:
        plots.append(_depths(summary))
    if summary["groups"]:
        plots.append(_groups(summary))
    if summary["calibration"]:
        plots += [_reliability(fit, at) for at, fit in enumerate(summary["calibration"]["fits"])]
    return [*plots, *_queries(evaluation)]


def _means(summary: dict[str, Any]) -> Plot:
    rows = [summary["before"], *(row for row in summary["after"] if row["depth"] == summary["depths"][-1])]
    bars = [_bar(row, list(row["figures"]), list(row["figures"].values()), at) for at, row in enumerate(rows)]
    figure = go.Figure(bars)
    figure.update_layout(barmode="group", yaxis={"range": [0, 1.02], "title": "mean"})
    return _plot(
        "means",
        "Means before and after, with intervals",
        "Every mean as a bar; the first table contains them.",
        figure,
    )


def _depths(summary: dict[str, Any]) -> Plot:
    measure = summary["measures"][0]
    before = summary["before"]["figures"][measure]["mean"]
    figure = go.Figure()
    for at, name in enumerate(dict.fromkeys(row["name"] for row in summary["after"])):
        rows = [row for row in summary["after"] if row["name"] == name]
        points = [row["figures"][measure] for row in rows]
        figure.add_trace(
            go.Scatter(
                x=[row["depth"] for row in rows],
                y=[point["mean"] for point in points],
                error_y=_error(points),
                mode="lines+markers",
                name=_label(name),
                line={"color": _COLOURS[at % len(_COLOURS)]},
            )
        )
    figure.add_hline(y=before, line={"dash": "dot", "color": "#666666"}, annotation_text="first stage")
    figure.update_layout(xaxis={"title": "documents reranked", "type": "log"}, yaxis={"title": measure})
    return _plot("depths", f"{measure} by depth", "How the mean grows with the documents reranked.", figure)


def _groups(summary: dict[str, Any]) -> Plot:
    measure = summary["measures"][0]
    labels = [_label(f"{group['group'] or 'none'} ({group['queries']})") for group in summary["groups"]]
    figure = go.Figure()
    for at in range(len(summary["groups"][0]["rows"])):
        rows = [group["rows"][at] for group in summary["groups"]]
        figure.add_trace(_bar(rows[0], labels, [row["figures"][measure] for row in rows], at))
    figure.update_layout(barmode="group", yaxis={"range": [0, 1.02], "title": measure})
    return _plot(
        "groups", f"{measure} by group", "The mean of every group of queries, before and after.", figure
    )


def _reliability(fit: dict[str, Any], at: int) -> Plot:
    figure = go.Figure(
        go.Scatter(x=[0, 1], y=[0, 1], name="calibrated", line={"dash": "dot", "color": "#666666"})
    )
    for colour, moment in zip(_COLOURS[1::-1], ("before", "after"), strict=True):
        bins = [one for one in fit["held_out"][moment]["bins"] if one["num_pairs"]]
        figure.add_trace(
            go.Scatter(
                x=[one["mean"] for one in bins],
                y=[one["relevant"] for one in bins],
                text=[f"{one['num_pairs']} pairs" for one in bins],
                mode="lines+markers",
                name=moment,
                line={"color": colour},
            )
        )
    figure.update_layout(xaxis={"title": "mean probability"}, yaxis={"title": "fraction relevant"})
    name = "the default instruction" if fit["instruction"] is None else _short(fit["instruction"])
    described = "Each bin's fraction of relevant pairs by its mean probability, on held-out queries."
    return _plot(f"reliability-{at}", f"Reliability, {name}", described, figure)


def _queries(evaluation: Evaluation) -> list[Plot]:
    measure = str(evaluation.plan.measures[0])
    plots = []
    for at, outcome in enumerate(evaluation.deepest()):
        change = outcome.values[:, 0] - evaluation.first_stage.values[:, 0]
        order = np.argsort(-change, kind="stable")
        labels = [_label(_query_text(evaluation, evaluation.dataset.judged_ids[row])) for row in order]
        colours = ["#009e73" if change[row] >= 0 else "#d55e00" for row in order]
        bars = go.Bar(
            x=list(range(1, len(order) + 1)), y=change[order].tolist(), text=labels, textposition="none",
            hovertemplate="%{text}<br>%{y:+.3f}<extra></extra>", marker={"color": colours},
        )  # fmt: skip
        figure = go.Figure(bars)
        figure.update_layout(
            yaxis={"title": f"change of {measure}"}, xaxis={"title": "queries, best change first"}
        )
        title = f"Change of {measure} by query: {outcome.name}"
        better, worse = int((change > 0).sum()), int((change < 0).sum())
        described = f"{better} queries are better, {worse} worse, {len(change) - better - worse} the same."
        plots.append(_plot(f"queries-{at}", title, described, figure))
    return plots


def _bar(row: dict[str, Any], labels: list[str], points: list[dict[str, Any]], at: int) -> Any:
    name = row["name"] if row["depth"] is None else f"{row['name']}, depth {row['depth']}"
    return go.Bar(
        x=[_label(label) for label in labels],
        y=[point["mean"] for point in points],
        error_y=_error(points),
        name=_label(name),
        marker={"color": _COLOURS[(at - 1) % len(_COLOURS)] if at else _FIRST_STAGE_COLOUR},
    )


def _error(points: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [point["high"] - point["mean"] for point in points],
        "arrayminus": [point["mean"] - point["low"] for point in points],
    }


def _query_text(evaluation: Evaluation, query_id: str) -> str:
    query = evaluation.dataset.queries.get(query_id)
    return f"{query_id}: {query.text}" if query else query_id


def _label(text: str) -> str:
    """Escape a label: plotly interprets labels as HTML, and %{...} as a template."""
    return escape(replace_surrogates(" ".join(_short(text).split()))).replace("%{", "% {")


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_CHARS else f"{text[: _LABEL_CHARS - 1]}…"


def _plot(name: str, title: str, description: str, figure: Any) -> Plot:
    figure.update_layout(
        template="plotly_white", height=420, margin={"t": 24, "r": 24}, legend={"orientation": "h", "y": -0.2}
    )
    config = {"displaylogo": False, "responsive": True}
    html = to_html(figure, include_plotlyjs=False, full_html=False, div_id=f"plot-{name}", config=config)
    return Plot(title, description, str(html))
