"""The shortest list, and the highest threshold, that still reach a target. Knows no model: only scored lists.

A setting that just reaches the target on these queries misses it on others as often as not. So two are given:
one by the mean, and a cautious one by the lower end of the mean's interval over resampled queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.evaluation.bootstrap import Resampling
from qwen_rerank_plugins.evaluation.datasets.dataset import Qrels
from qwen_rerank_plugins.evaluation.measures import Measure, Meter, parse_measure

__all__ = ["Proposal", "Setting", "Target", "parse_target", "propose"]

Pairs = Mapping[str, Sequence[tuple[str, float]]]
"""Query id → documents with relevance scores, best first."""

_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Target:
    """A measure and the value that its mean shall reach."""

    measure: Measure
    value: float

    def __str__(self) -> str:
        return f"{self.measure}={self.value:g}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A proposed value.

    Attributes:
        name: "top_n" or "min_score".
        cautious: Whether the interval's lower end reaches the target, and not only the mean.
        value: The proposal; None when no value reaches the target.
        mean: The measure's mean with it; without a proposal, with nothing cut.
        low: Lower end of the mean's interval.
        documents: Documents that a query keeps, on average.
    """

    name: Literal["top_n", "min_score"]
    cautious: bool
    value: float | None
    mean: float
    low: float
    documents: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one system would need to reach a target."""

    system: str
    target: Target
    settings: tuple[Setting, ...]


def parse_target(text: str) -> Target:
    """Read a target such as `recall@5=0.9`.

    Raises:
        InputError: It is no measure with a value above 0 and up to 1, or longer lists may lower the measure.
    """
    name, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not equals or not 0.0 < value <= 1.0:
        raise InputError(
            f"target is not valid: {text!r}; allowed: a measure, = and a value up to 1, as in R@5=0.9"
        )
    return Target(parse_measure(name), value)


def propose(system: str, target: Target, qrels: Qrels, pairs: Pairs, resampling: Resampling) -> Proposal:
    """Find settings that reach a target on these lists.

    Every measure here only falls when a list is cut, and so does its mean over any draw of queries: a search by
    halves finds the edge.

    Args:
        system: The name to be carried along.
        target: What shall be reached.
        qrels: The judgements.
        pairs: The reranked lists.
        resampling: How the lower end is found.
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
    """Looks for the strictest value that reaches the target."""

    def __init__(self, target: Target, qrels: Qrels, pairs: Pairs, resampling: Resampling) -> None:
        self._target = target
        self._pairs = pairs
        self._num_queries = len(qrels)
        self._meter = Meter(qrels, [target.measure])
        self._resampling = resampling

    def best(
        self, name: Literal["top_n", "min_score"], values: Sequence[float], *, cautious: bool
    ) -> Setting:
        """Give the first of the values, from the strictest on, that reaches the target."""
        made: Callable[[float], Setting] = lambda value: self._setting(name, value, cautious=cautious)  # noqa: E731
        low, high = 0, len(values)
        while low < high:
            middle = (low + high) // 2
            if self._reaches(made(values[middle])):
                high = middle
            else:
                low = middle + 1
        return made(values[low]) if low < len(values) else self._setting(name, None, cautious=cautious)

    def _reaches(self, setting: Setting) -> bool:
        return (setting.low if setting.cautious else setting.mean) >= self._target.value

    def _setting(
        self, name: Literal["top_n", "min_score"], value: float | None, *, cautious: bool
    ) -> Setting:
        kept = {query_id: _kept(scored, name, value) for query_id, scored in self._pairs.items()}
        values = self._meter.values(kept)
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
    """Round down, so that the document whose score proposed the threshold passes what is printed."""
    scale = 10.0**_DECIMALS
    rounded = math.floor(score * scale) / scale
    return rounded if rounded <= score else max(0.0, rounded - 1.0 / scale)
