"""An evaluation as plain JSON types, for programs and as the data of tables and report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen_rerank_plugins.evaluation.evaluator import Evaluation, Outcome
from qwen_rerank_plugins.evaluation.proposals import Proposal

__all__ = ["compute_figures", "summarize"]


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything except the lists and the values of single queries.

    The keys are stable: dataset, first_stage, measures, depths, resampling, before, after, groups, systems,
    proposals, calibration.
    """
    plan = evaluation.plan
    return {
        "dataset": {"name": evaluation.dataset.name, **evaluation.dataset.facts()},
        "first_stage": evaluation.first_stage.name,
        "measures": [str(measure) for measure in plan.measures],
        "depths": sorted(plan.depths),
        "resampling": {
            "resamples": plan.resampling.resamples,
            "seed": plan.resampling.seed,
            "level": plan.resampling.level,
        },
        "before": _row(evaluation, evaluation.first_stage),
        "after": [_row(evaluation, outcome) for outcome in evaluation.outcomes],
        "groups": _groups(evaluation),
        "systems": [_system(evaluation, name) for name in evaluation.systems],
        "proposals": [_proposal(proposal) for proposal in evaluation.proposals],
        "calibration": None if evaluation.calibration is None else evaluation.calibration.summary(),
    }


def compute_figures(
    evaluation: Evaluation, outcome: Outcome, rows: Sequence[int] | None = None
) -> dict[str, dict[str, Any]]:
    """Return each measure's mean and difference from the first stage, with their intervals.

    Args:
        evaluation: The evaluation of the outcome.
        outcome: The measures of one ranking.
        rows: Indices of the queries that count; None for all.
    """
    chosen = slice(None) if rows is None else list(rows)
    resampling = evaluation.plan.resampling
    values, before = outcome.values[chosen], evaluation.first_stage.values[chosen]
    interval = outcome.intervals if rows is None else resampling.intervals(values)
    change = outcome.differences
    if change is not None and rows is not None:
        change = resampling.intervals(values - before)
    figures: dict[str, dict[str, Any]] = {}
    for column, measure in enumerate(evaluation.plan.measures):
        mean = float(values[:, column].mean())
        figures[str(measure)] = {
            "mean": mean,
            "low": float(interval.low[column]),
            "high": float(interval.high[column]),
        }
        if change is not None:
            figures[str(measure)]["difference"] = {
                "mean": mean - float(before[:, column].mean()),
                "low": float(change.low[column]),
                "high": float(change.high[column]),
            }
    return figures


def _row(evaluation: Evaluation, outcome: Outcome) -> dict[str, Any]:
    return {"name": outcome.name, "depth": outcome.depth, "figures": compute_figures(evaluation, outcome)}


def _groups(evaluation: Evaluation) -> list[dict[str, Any]]:
    names = [evaluation.dataset.group_of(query_id) for query_id in evaluation.dataset.judged_ids]
    groups = []
    for group, queries in evaluation.dataset.groups().items():
        rows = np.flatnonzero([name == group for name in names]).tolist()
        outcomes = (evaluation.first_stage, *evaluation.deepest())
        groups.append(
            {
                "group": group,
                "queries": queries,
                "rows": [
                    {"name": one.name, "depth": one.depth, "figures": compute_figures(evaluation, one, rows)}
                    for one in outcomes
                ],
            }
        )
    return groups


def _system(evaluation: Evaluation, name: str) -> dict[str, Any]:
    system, scored = evaluation.systems[name], evaluation.scored[name]
    instruction = system.config.instruction if system.instruction is None else system.instruction
    return {
        "name": name,
        "model": scored.model,
        "backend": system.config.backend,
        "instruction": instruction,
        "pairs": scored.num_pairs(),
        "tokens": scored.num_tokens(),
        "truncated_pairs": scored.num_truncated(),
    }


def _proposal(proposal: Proposal) -> dict[str, Any]:
    return {
        "system": proposal.system,
        "target": str(proposal.target),
        "settings": [
            {
                "name": one.name,
                "by": "interval" if one.cautious else "mean",
                "value": int(one.value) if one.name == "top_n" and one.value is not None else one.value,
                "mean": one.mean,
                "low": one.low,
                "documents": one.documents,
            }
            for one in proposal.settings
        ],
    }
