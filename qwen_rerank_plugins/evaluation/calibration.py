"""Fit a calibration on the judged pairs of a collection, one fit per instruction, and write it.

The arithmetic is in `platt`, the form of the file in `qwen_rerank_plugins.calibration`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen_rerank_plugins.calibration import MAX_BYTES, MAX_NUMBER, Calibration, InstructionFit
from qwen_rerank_plugins.errors import ConfigurationError, InputError
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Run
from qwen_rerank_plugins.evaluation.platt import NUM_FOLDS, HeldOut, cross_validate, fit_platt
from qwen_rerank_plugins.evaluation.scoring import ScoredRun, System
from qwen_rerank_plugins.fsync import write_atomically

__all__ = [
    "CalibrationPlan",
    "FittedCalibration",
    "documents_to_fit",
    "fit_calibration",
    "group_queries",
    "write_calibration",
]

Groups = Mapping[str | None, Sequence[tuple[str, str]]]
"""Instruction → the names of systems with the ids of the queries that they rank by it."""

MIN_PAIRS = 10
"""Least number of relevant pairs, and of irrelevant ones, of an instruction."""

MIN_QUERIES = 2 * NUM_FOLDS


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """What a calibration is fitted on.

    Attributes:
        relevant_grade: Lowest grade that counts as relevant, at least 1.
        with_unjudged: Add the unjudged documents of the first stage, as irrelevant ones, as measures count them.

    Raises:
        ConfigurationError: The grade is less than 1.
    """

    relevant_grade: int = 1
    with_unjudged: bool = False

    def __post_init__(self) -> None:
        if self.relevant_grade < 1:
            raise ConfigurationError(f"relevant_grade is not valid: {self.relevant_grade!r}; use at least 1")


@dataclass(frozen=True, slots=True)
class FittedCalibration:
    """A calibration and its figures.

    Attributes:
        calibration: What is applied.
        held_out: The figures of each fit on held-out queries.
    """

    calibration: Calibration
    held_out: tuple[HeldOut, ...]

    def summary(self) -> dict[str, Any]:
        """Return the contents of the file as plain JSON types."""
        pairs = zip(self.calibration.fits, self.held_out, strict=True)
        fits = [{**fit.model_dump(), "held_out": asdict(held_out)} for fit, held_out in pairs]
        return {**self.calibration.model_dump(), "fits": fits}


def documents_to_fit(dataset: Dataset, first: Run, depth: int, plan: CalibrationPlan) -> Run:
    """Return each query's documents to fit on: the judged ones, and the first stage's if the plan says so."""
    lists: dict[str, list[str]] = {}
    for query_id in dataset.ids_with_text:
        judged = [doc_id for doc_id in dataset.qrels[query_id] if doc_id in dataset.corpus]
        others = first.get(query_id, ())[:depth] if plan.with_unjudged else ()
        lists[query_id] = list(dict.fromkeys((*judged, *others)))
    return lists


def group_queries(dataset: Dataset, systems: Sequence[System], to_fit: Run, plan: CalibrationPlan) -> Groups:
    """Return the queries of each instruction, to be called before the pairs are scored.

    Raises:
        InputError: An instruction has too few pairs or queries.
    """
    groups: dict[str | None, list[tuple[str, str]]] = {}
    for system in systems:
        for query_id in to_fit:
            instruction = system.instruction_of(dataset.queries[query_id])
            groups.setdefault(instruction, []).append((system.name, query_id))
    for instruction, members in groups.items():
        flags = [flag for _, query_id in members for flag in _relevance(dataset, to_fit, query_id, plan)]
        if min(sum(flags), len(flags) - sum(flags)) < MIN_PAIRS or len(members) < MIN_QUERIES:
            counts = f"{sum(flags)} relevant and {len(flags) - sum(flags)} irrelevant pairs of {len(members)} queries"
            hint = (
                "" if plan.with_unjudged else ", or count unjudged documents of the first stage as irrelevant"
            )
            raise InputError(
                f"too few judged pairs to fit {_name(instruction)}: {counts}, where grade {plan.relevant_grade} or higher is "
                f"relevant; use at least {MIN_PAIRS} of each and {MIN_QUERIES} queries{hint}"
            )
    return groups


def fit_calibration(
    dataset: Dataset,
    groups: Groups,
    scored: Mapping[str, ScoredRun],
    plan: CalibrationPlan,
    *,
    fingerprint: str,
    seed: int,
) -> FittedCalibration:
    """Fit one slope and offset per instruction, and measure them on held-out queries.

    Args:
        dataset: The judgements.
        groups: What `group_queries` returned.
        scored: System → its scores of what `documents_to_fit` returned; one model's.
        plan: What to fit on.
        fingerprint: Digest of the model's files.
        seed: Seed of the cut into folds.

    Raises:
        InputError: The scorer returns no log-odds, or its scores do not order the data.
    """
    fits = [
        _fit(dataset, instruction, members, scored, plan, seed) for instruction, members in groups.items()
    ]
    run = next(iter(scored.values()))
    if run.default_instruction is not None and {None, run.default_instruction} <= groups.keys():
        raise InputError(
            "the model's default instruction is given for some queries only; give it for all or none"
        )
    calibration = Calibration(
        format="qwen-rerank-calibration",
        version=1,
        model=run.model,
        fingerprint=fingerprint,
        default_instruction=run.default_instruction,
        relevant_grade=plan.relevant_grade,
        fits=[fit for fit, _ in fits],
    )
    return FittedCalibration(calibration, tuple(held_out for _, held_out in fits))


def write_calibration(path: Path, fitted: FittedCalibration) -> None:
    """Write a calibration file; a file of this name is replaced as a whole.

    Raises:
        InputError: The file cannot be written, or would be too large to be read.
    """
    text = json.dumps(fitted.summary(), indent=2, allow_nan=False) + "\n"
    if len(text) > MAX_BYTES:
        raise InputError(f"the calibration is too large: {len(text)} bytes; fit fewer instructions")
    try:
        write_atomically(path, text)
    except OSError as error:
        raise InputError(f"file cannot be written: {str(path)!r}: {error.strerror}") from error


def _fit(
    dataset: Dataset,
    instruction: str | None,
    members: Sequence[tuple[str, str]],
    scored: Mapping[str, ScoredRun],
    plan: CalibrationPlan,
    seed: int,
) -> tuple[InstructionFit, HeldOut]:
    scores, flags, queries = [], [], []
    for number, (name, query_id) in enumerate(members):
        own = scored[name].scores.get(query_id, ())
        scores += [score.log_odds for score in own]
        flags += _relevance(dataset, scored[name].first, query_id, plan)
        queries += [number] * len(own)
    if None in scores:
        raise InputError("the scorer returns no log-odds, which a calibration is fitted on")
    log_odds, is_relevant = np.array(scores, dtype=np.float64), np.array(flags)
    slope, offset = fit_platt(log_odds, is_relevant)
    if not 0 < slope <= MAX_NUMBER or abs(offset) > MAX_NUMBER:
        raise InputError(
            f"the scores do not order the judged pairs of {_name(instruction)}: the slope is {slope:.4g}, but must be above 0 "
            f"and at most {MAX_NUMBER:.0f}; check the judgements and the model"
        )
    fit = InstructionFit(
        instruction=instruction,
        slope=slope,
        offset=offset,
        num_pairs=len(flags),
        num_relevant=sum(flags),
        num_queries=len(members),
    )
    return fit, cross_validate(log_odds, is_relevant, np.array(queries), seed=seed)


def _relevance(dataset: Dataset, run: Run, query_id: str, plan: CalibrationPlan) -> list[bool]:
    grades = dataset.qrels[query_id]
    return [grades.get(doc_id, 0) >= plan.relevant_grade for doc_id in run[query_id]]


def _name(instruction: str | None) -> str:
    return "the default instruction" if instruction is None else f"instruction {instruction[:60]!r}"
