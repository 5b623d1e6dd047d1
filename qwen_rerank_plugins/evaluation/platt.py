"""Platt scaling: fit a slope and an offset to log-odds, and measure probabilities on held-out queries.

Arrays in, numbers out; knows neither rerankers nor files. Sources: J. Platt, "Probabilistic Outputs for Support Vector
Machines", 1999, for the smoothed targets; H.-T. Lin, C.-J. Lin, R. Weng, "A Note on Platt's Probabilistic Outputs for
Support Vector Machines", 2007, for Newton's method with backtracking, which always converges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_rerank_plugins.errors import InputError

__all__ = ["NUM_FOLDS", "Bin", "HeldOut", "Probabilities", "Threshold", "cross_validate", "fit_platt"]

Array = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
Indices = np.ndarray[Any, np.dtype[np.int64]]

NUM_FOLDS = 5
NUM_BINS = 10
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

_MAX_STEPS = 100
_RIDGE = 1e-12
"""Added to the diagonal of the Hessian, so that it is never singular."""
_LEAST_SHARE = 1e-10
"""Smallest part of a step that is tried: below it, the loss is flat to the last digit."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The pairs whose probability lies between two bounds.

    Attributes:
        low: Lower bound.
        num_pairs: Number of pairs.
        mean: Their mean probability; None without pairs.
        relevant: Fraction of relevant pairs; None without pairs.
    """

    low: float
    num_pairs: int
    mean: float | None
    relevant: float | None


@dataclass(frozen=True, slots=True)
class Probabilities:
    """How far probabilities can be taken literally.

    Attributes:
        brier: Mean squared difference between probability and relevance, which is 0 or 1.
        ece: Expected calibration error: mean over the bins, weighted by pairs, of |mean probability - fraction relevant|.
        bins: The reliability diagram: bins of equal width from 0 to 1.
    """

    brier: float
    ece: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Threshold:
    """The pairs whose calibrated probability reaches a threshold.

    Attributes:
        threshold: The lowest probability.
        num_pairs: Number of pairs.
        precision: Fraction of them that is relevant; None without pairs.
        recall: Fraction of the relevant pairs that they contain.
    """

    threshold: float
    num_pairs: int
    precision: float | None
    recall: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Probabilities of pairs whose queries were not fitted on, before and after calibration.

    Attributes:
        num_folds: Parts into which the queries were cut; each was held out once.
        seed: Seed of the cut.
        before: The uncalibrated probabilities.
        after: The calibrated ones.
        thresholds: Precision and recall of the calibrated ones.
    """

    num_folds: int
    seed: int
    before: Probabilities
    after: Probabilities
    thresholds: tuple[Threshold, ...]


def fit_platt(log_odds: Array, is_relevant: Flags) -> tuple[float, float]:
    """Return the slope and offset of the logistic function that fits best, with smoothed targets.

    Args:
        log_odds: [pairs].
        is_relevant: [pairs].

    Raises:
        InputError: The pairs are all relevant, all irrelevant, or all of the same log-odds.
    """
    num_relevant, center, scale = int(is_relevant.sum()), log_odds.mean(), log_odds.std()
    num_irrelevant = len(is_relevant) - num_relevant
    if not (num_relevant and num_irrelevant and scale > 0):
        raise InputError("the pairs to fit on are all relevant, all irrelevant, or all of the same score")
    smoothed = (num_relevant + 1) / (num_relevant + 2), 1 / (num_irrelevant + 2)
    targets = np.where(is_relevant, *smoothed)
    inputs = np.stack([(log_odds - center) / scale, np.ones_like(log_odds)])
    fit = np.array([0.0, np.log((num_relevant + 1) / (num_irrelevant + 1))])
    for _ in range(_MAX_STEPS):
        probabilities = _logistic(fit @ inputs)
        gradient = inputs @ (probabilities - targets)
        hessian = (inputs * (probabilities * (1 - probabilities))) @ inputs.T + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        loss, share = _loss(fit, inputs, targets), 1.0
        while (
            share >= _LEAST_SHARE
            and _loss(fit - share * step, inputs, targets) > loss - 1e-4 * share * gradient @ step
        ):
            share /= 2
        if share < _LEAST_SHARE:
            break
        fit = fit - share * step
    return float(fit[0] / scale), float(fit[1] - fit[0] * center / scale)


def cross_validate(log_odds: Array, is_relevant: Flags, queries: Indices, *, seed: int) -> HeldOut:
    """Fit on all folds but one, and measure on that one; the queries of a fold are its own.

    Args:
        log_odds: [pairs].
        is_relevant: [pairs].
        queries: [pairs], the index of each pair's query.
        seed: Seed of the cut into folds.

    Raises:
        InputError: The pairs outside a fold cannot be fitted.
    """
    shuffled = np.random.default_rng(seed).permutation(int(queries.max()) + 1)
    folds = shuffled[queries] % NUM_FOLDS
    calibrated = np.zeros_like(log_odds)
    for fold in range(NUM_FOLDS):
        own = folds == fold
        slope, offset = fit_platt(log_odds[~own], is_relevant[~own])
        calibrated[own] = _logistic(slope * log_odds[own] + offset)
    return HeldOut(
        num_folds=NUM_FOLDS,
        seed=seed,
        before=_measure(_logistic(log_odds), is_relevant),
        after=_measure(calibrated, is_relevant),
        thresholds=tuple(_at_threshold(calibrated, is_relevant, one) for one in THRESHOLDS),
    )


def _logistic(log_odds: Array) -> Array:
    power = np.exp(-np.abs(log_odds))
    result: Array = np.where(log_odds >= 0, 1.0, power) / (1.0 + power)
    return result


def _loss(fit: Array, inputs: Array, targets: Array) -> float:
    log_odds = fit @ inputs
    return float((np.logaddexp(0.0, log_odds) - targets * log_odds).sum())


def _measure(probabilities: Array, is_relevant: Flags) -> Probabilities:
    numbers = np.minimum((probabilities * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins, error = [], 0.0
    for number in range(NUM_BINS):
        own = numbers == number
        count = int(own.sum())
        mean, relevant = (
            float(values[own].mean()) if count else None for values in (probabilities, is_relevant)
        )
        if mean is not None and relevant is not None:
            error += count * abs(mean - relevant)
        bins.append(Bin(number / NUM_BINS, count, mean, relevant))
    brier = float(((probabilities - is_relevant) ** 2).mean())
    return Probabilities(brier, error / len(probabilities), tuple(bins))


def _at_threshold(probabilities: Array, is_relevant: Flags, threshold: float) -> Threshold:
    kept = is_relevant[probabilities >= threshold]
    precision = float(kept.mean()) if len(kept) else None
    return Threshold(threshold, len(kept), precision, float(kept.sum() / is_relevant.sum()))
