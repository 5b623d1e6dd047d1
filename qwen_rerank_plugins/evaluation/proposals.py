"""Propose `top_n` and `min_score` for a target: the shortest list and the highest threshold that reach it.

A setting that just reaches the target on these queries misses it on other queries about half of the time. A cautious
setting is therefore proposed as well: one with which the lower bound of the mean's interval reaches the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.evaluation.bootstrap import Resampling
from qwen_rerank_plugins.evaluation.datasets.dataset import Qrels
from qwen_rerank_plugins.evaluation.measures import Measure, MeasureCalculator, parse_measure

__all__ = ["Proposal", "Setting", "Target", "parse_target", "propose"]

Pairs = Mapping[str, Sequence[tuple[str, float]]]
"""Query id → documents with relevance scores, best first."""

_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Target:
    """A measure and the value that its mean must reach."""

    measure: Measure
    value: float

    def __str__(self) -> str:
        return f"{self.measure}={self.value:g}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A proposed value.

    Attributes:
        name: "top_n" or "min_score".
        cautious: Whether the interval's lower bound reaches the target, not only the mean.
        value: The proposed value; None if no value reaches the target.
        mean: Mean of the measure with this setting; if `value` is None, of the complete lists.
        low: Lower bound of the mean's interval.
        documents: Mean number of documents that a query keeps.
    """

    name: Literal["top_n", "min_score"]
    cautious: bool
    value: float | None
    mean: float
    low: float
    documents: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """The settings with which one system reaches a target."""

    system: str
    target: Target
    settings: tuple[Setting, ...]


def parse_target(text: str) -> Target:
    """Parse a target such as `recall@5=0.9`.

    Raises:
        InputError: The measure is not valid, or the value is not above 0 and at most 1.
    """
    name, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not equals or not 0.0 < value <= 1.0:
        raise InputError(
            f"target is not valid: {text!r}; write MEASURE=VALUE with a value above 0 and at most 1, as in R@5=0.9"
        )
    return Target(parse_measure(name), value)


def propose(system: str, target: Target, qrels: Qrels, pairs: Pairs, resampling: Resampling) -> Proposal:
    """Find the strictest settings that reach a target on these lists.

    No measure here increases when a list is cut, nor does its mean over any resample, so that a binary search applies.

    Args:
        system: The system's name.
        target: The target.
        qrels: The judgements.
        pairs: The reranked lists.
        resampling: The settings of the intervals.
    """
    search = _Search(target, qrels, pairs, resampling)
    longest = max((len(scored) for scored in pairs.values()), default=0)
    thresholds = sorted({_floor(score) for scored in pairs.values() for _, score in scored}, reverse=True)
    settings = [
        setting
        for cautious in (False, True)
        for setting in (
            search.best("top_n", list(range(1, longest + 1)), cautious=cautious),
            search.best("min_score", thresholds, cautious=cautious),
        )
    ]
    return Proposal(system, target, tuple(settings))


class _Search:
    """Binary search for the strictest value that reaches the target."""

    def __init__(self, target: Target, qrels: Qrels, pairs: Pairs, resampling: Resampling) -> None:
        self._target = target
        self._pairs = pairs
        self._num_queries = len(qrels)
        self._calculator = MeasureCalculator(qrels, [target.measure])
        self._resampling = resampling

    def best(
        self, name: Literal["top_n", "min_score"], values: Sequence[float], *, cautious: bool
    ) -> Setting:
        """Return the setting of the first value that reaches the target; the strictest value comes first."""
        low, high = 0, len(values)
        while low < high:
            middle = (low + high) // 2
            if self._reaches(self._setting(name, values[middle], cautious=cautious)):
                high = middle
            else:
                low = middle + 1
        value = values[low] if low < len(values) else None
        return self._setting(name, value, cautious=cautious)

    def _reaches(self, setting: Setting) -> bool:
        return (setting.low if setting.cautious else setting.mean) >= self._target.value

    def _setting(
        self, name: Literal["top_n", "min_score"], value: float | None, *, cautious: bool
    ) -> Setting:
        kept = {query_id: _kept(scored, name, value) for query_id, scored in self._pairs.items()}
        values = self._calculator.values(kept)
        return Setting(
            name=name,
            cautious=cautious,
            value=value,
            mean=float(values.mean()),
            low=float(self._resampling.intervals(values).low[0]),
            documents=sum(map(len, kept.values())) / max(1, self._num_queries),
        )


def _kept(
    scored: Sequence[tuple[str, float]], name: Literal["top_n", "min_score"], value: float | None
) -> list[str]:
    if value is None:
        return [doc_id for doc_id, _ in scored]
    if name == "top_n":
        return [doc_id for doc_id, _ in scored[: int(value)]]
    return [doc_id for doc_id, score in scored if score >= value]


def _floor(score: float) -> float:
    """Round down, so that the document with this score passes the printed threshold."""
    scale = 10.0**_DECIMALS
    rounded = math.floor(score * scale) / scale
    return rounded if rounded <= score else max(0.0, rounded - 1.0 / scale)
