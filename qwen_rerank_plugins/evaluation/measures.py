"""nDCG, MRR, MAP, recall and precision per query, computed by ir-measures with trec_eval's code.

Gains are linear, as in trec_eval. A judged query without a list counts as 0, and so does an unjudged document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.evaluation.datasets.dataset import Qrels, Run

__all__ = ["DEFAULT_MEASURES", "Measure", "MeasureCalculator", "Values", "parse_measure"]

Values = np.ndarray[Any, np.dtype[np.float64]]
"""One row per judged query, one column per measure."""

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP@100", "R@10", "P@5")

_NAMES = {
    "ndcg": "nDCG",
    "rr": "RR",
    "mrr": "RR",
    "ap": "AP",
    "map": "AP",
    "r": "R",
    "recall": "R",
    "p": "P",
    "precision": "P",
    "success": "Success",
    "hit": "Success",
}
_NEED_CUTOFF = {"R", "P", "Success"}
_MEASURE = re.compile(r"(?P<name>[a-z]+)(?:\(rel=(?P<rel>[1-9]\d*)\))?(?:@(?P<cutoff>[1-9]\d*))?")
_HINT = "use nDCG, RR, AP, R, P or Success with a cutoff, as in nDCG@10, or with a minimum grade, as in RR(rel=2)@10"


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of ranking quality.

    Attributes:
        name: nDCG, RR (whose mean is MRR), AP (whose mean is MAP), R (recall), P (precision) or Success.
        cutoff: Number of documents that count; None for all.
        rel: Minimum grade of a relevant document; not used by nDCG, which uses the grades themselves.
    """

    name: str
    cutoff: int | None = None
    rel: int = 1

    def __str__(self) -> str:
        level = f"(rel={self.rel})" if self.rel > 1 else ""
        return f"{self.name}{level}{'' if self.cutoff is None else f'@{self.cutoff}'}"

    def to_ir_measures(self) -> Any:
        """Return the measure of ir-measures; without a cutoff for RR, whose lists are cut instead."""
        base = getattr(ir_measures, self.name)
        if self.name != "nDCG":
            base = base(rel=self.rel)
        return base if self.cutoff is None or self.name == "RR" else base @ self.cutoff


def parse_measure(text: str) -> Measure:
    """Parse a measure such as `nDCG@10`; MRR, MAP and recall are accepted as well.

    Raises:
        InputError: The measure is unknown, or lacks a required cutoff.
    """
    match = _MEASURE.fullmatch(text.strip().lower())
    name = _NAMES.get(match["name"]) if match else None
    if match is None or name is None:
        raise InputError(f"unknown measure: {text!r}; {_HINT}")
    if name in _NEED_CUTOFF and match["cutoff"] is None:
        raise InputError(f"measure without a cutoff: {text!r}; {_HINT}")
    if name == "nDCG" and match["rel"] is not None:
        raise InputError(
            f"nDCG measure with a minimum grade: {text!r}; remove (rel=...): nDCG uses the grades themselves"
        )
    return Measure(name, int(match["cutoff"]) if match["cutoff"] else None, int(match["rel"] or 1))


class MeasureCalculator:
    """Computes measures of runs against one set of judgements.

    Args:
        qrels: The judgements.
        measures: The measures.
    """

    def __init__(self, qrels: Qrels, measures: Sequence[Measure]) -> None:
        self.measures = tuple(measures)
        self._rows = {query_id: row for row, query_id in enumerate(qrels)}
        self._uncut = [measure for measure in measures if not _is_cut(measure)]
        judged = {query_id: dict(grades) for query_id, grades in qrels.items()}
        library: Any = ir_measures.pytrec_eval  # type: ignore[attr-defined,unused-ignore]
        self._evaluators = [
            (cutoff, chosen, library.evaluator([measure.to_ir_measures() for measure in chosen], judged))
            for cutoff, chosen in self._parts()
        ]

    def values(self, run: Run) -> Values:
        """Return one row per judged query, in the order of the judgements, and one column per measure."""
        values = np.zeros((len(self._rows), len(self.measures)))
        for cutoff, chosen, evaluator in self._evaluators:
            columns = {str(measure.to_ir_measures()): self.measures.index(measure) for measure in chosen}
            for found in evaluator.iter_calc(_scored(run, self._rows, cutoff)):
                values[self._rows[found.query_id], columns[str(found.measure)]] = found.value
        return values

    def _parts(self) -> list[tuple[int | None, list[Measure]]]:
        """Group the measures by the length to which lists are cut for the library."""
        parts = [(None, self._uncut)] if self._uncut else []
        return [*parts, *((one.cutoff, [one]) for one in self.measures if _is_cut(one))]


def _is_cut(measure: Measure) -> bool:
    # trec_eval computes the reciprocal rank of whole lists only.
    return measure.name == "RR" and measure.cutoff is not None


def _scored(run: Run, rows: dict[str, int], cutoff: int | None) -> dict[str, dict[str, float]]:
    """Give each position a distinct score, so that the library breaks no ties."""
    lists = {query_id: doc_ids[:cutoff] for query_id, doc_ids in run.items() if query_id in rows and doc_ids}
    return {
        query_id: {doc_id: float(len(doc_ids) - position) for position, doc_id in enumerate(doc_ids)}
        for query_id, doc_ids in lists.items()
    }
