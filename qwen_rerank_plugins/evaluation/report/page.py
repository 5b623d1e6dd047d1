"""The HTML report: one file with tables and plots, which works offline.

Text of the data is escaped everywhere, including the labels of plots, and a content security policy in the file blocks
every request.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.evaluation.evaluator import Evaluation
from qwen_rerank_plugins.evaluation.report.plots import Plot, draw_plots, library_source
from qwen_rerank_plugins.evaluation.report.summary import summarize
from qwen_rerank_plugins.evaluation.report.tables import render_tables
from qwen_rerank_plugins.recipe import replace_surrogates

__all__ = ["render_report", "write_report"]

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_report(path: Path, evaluation: Evaluation) -> None:
    """Write the report of an evaluation.

    Raises:
        InputError: The file cannot be written.
    """
    text = render_report(evaluation)
    try:
        path.write_text(replace_surrogates(text), encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"file cannot be written: {str(path)!r}: {error.strerror}") from error


def render_report(evaluation: Evaluation) -> str:
    """Return the report as HTML."""
    summary = summarize(evaluation)
    title = f"Reranking on {summary['dataset']['name']}"
    style = resources.files("qwen_rerank_plugins.evaluation.report").joinpath("report.css").read_text("utf-8")
    plots = "\n".join(map(_figure, draw_plots(evaluation, summary)))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
<script>{library_source()}</script>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p>{escape(_lead(summary))}</p>
{render_tables(evaluation, summary)}
<section aria-labelledby="plots"><h2 id="plots">Plots</h2>
{plots}
</section>
<footer><p>Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by qwen-rerank.</p></footer>
</main>
</body>
</html>
"""


def _lead(summary: dict[str, Any]) -> str:
    facts, resampling = summary["dataset"], summary["resampling"]
    return (
        f"{facts['judged_queries']:,} judged queries, {facts['documents']:,} documents; first stage: "
        f"{summary['first_stage']}. Intervals contain {resampling['level']:.0%} of {resampling['resamples']:,} "
        "resamplings of the queries, the same for every row. A judged query without a list counts as 0."
    )


def _figure(plot: Plot) -> str:
    # The tables contain the same figures, so a screen reader gets one sentence per plot.
    label = escape(plot.description)
    return f'<figure><figcaption>{escape(plot.title)}</figcaption><div role="group" aria-label="{label}">{plot.html}</div></figure>'
