"""nDCG, MRR, MAP, recall and precision, one value a query, by ir-measures over trec_eval's own code.

Gains are linear, as trec_eval has them. A judged query without a list counts as 0, and so does a document that
nobody judged. Knows no reranker, no interval and no report.
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

__all__ = ["DEFAULT_MEASURES", "Measure", "Meter", "Values", "parse_measure"]

Values = np.ndarray[Any, np.dtype[np.float64]]
"""One row a judged query, one column a measure."""

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
_ALLOWED = (
    "nDCG, RR, AP, R, P or Success with a cutoff, as in nDCG@10, and perhaps a least grade: RR(rel=2)@10"
)


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured.

    Attributes:
        name: nDCG, RR (whose mean is MRR), AP (whose mean is MAP), R (recall), P (precision) or Success.
        cutoff: Places of the list that are looked at; None for all.
        rel: The least grade that counts as relevant; without meaning for nDCG, which takes grades as they are.
    """

    name: str
    cutoff: int | None = None
    rel: int = 1

    def __str__(self) -> str:
        level = f"(rel={self.rel})" if self.rel > 1 else ""
        return f"{self.name}{level}{'' if self.cutoff is None else f'@{self.cutoff}'}"

    def counted(self) -> Any:
        """The measure of ir-measures that trec_eval computes; a reciprocal rank is cut with the list."""
        base = getattr(ir_measures, self.name)
        if self.name != "nDCG":
            base = base(rel=self.rel)
        return base if self.cutoff is None or self.name == "RR" else base @ self.cutoff


def parse_measure(text: str) -> Measure:
    """Read a measure's name; MRR, MAP and recall are understood too.

    Raises:
        InputError: It is none that trec_eval has, or lacks its cutoff.
    """
    match = _MEASURE.fullmatch(text.strip().lower())
    name = _NAMES.get(match["name"]) if match else None
    if match is None or name is None:
        raise InputError(f"measure is not known: {text!r}; allowed: {_ALLOWED}")
    if name in _NEED_CUTOFF and match["cutoff"] is None:
        raise InputError(f"measure has no cutoff: {text!r}; allowed: {_ALLOWED}")
    if name == "nDCG" and match["rel"] is not None:
        raise InputError(f"measure has a least grade: {text!r}; nDCG takes grades as they are")
    return Measure(name, int(match["cutoff"]) if match["cutoff"] else None, int(match["rel"] or 1))


class Meter:
    """Measures lists against one set of judgements."""

    def __init__(self, qrels: Qrels, measures: Sequence[Measure]) -> None:
        self.measures = tuple(measures)
        self._rows = {query_id: row for row, query_id in enumerate(qrels)}
        self._plain = [measure for measure in measures if not _is_cut(measure)]
        judged = {query_id: dict(grades) for query_id, grades in qrels.items()}
        library: Any = ir_measures.pytrec_eval  # type: ignore[attr-defined,unused-ignore]
        self._evaluators = [
            (cutoff, chosen, library.evaluator([measure.counted() for measure in chosen], judged))
            for cutoff, chosen in self._parts()
        ]

    def values(self, run: Run) -> Values:
        """Give one row a judged query, in the judgements' order, and one column a measure."""
        values = np.zeros((len(self._rows), len(self.measures)))
        for cutoff, chosen, evaluator in self._evaluators:
            columns = {str(measure.counted()): self.measures.index(measure) for measure in chosen}
            for found in evaluator.iter_calc(_scored(run, self._rows, cutoff)):
                values[self._rows[found.query_id], columns[str(found.measure)]] = found.value
        return values

    def _parts(self) -> list[tuple[int | None, list[Measure]]]:
        """Group the measures by the length to which lists are cut before the library sees them."""
        parts = [(None, self._plain)] if self._plain else []
        return [*parts, *((one.cutoff, [one]) for one in self.measures if _is_cut(one))]


def _is_cut(measure: Measure) -> bool:
    # trec_eval has a reciprocal rank of the whole list only.
    return measure.name == "RR" and measure.cutoff is not None


def _scored(run: Run, rows: dict[str, int], cutoff: int | None) -> dict[str, dict[str, float]]:
    """Give each place a score of its own, so that the library has no tie to decide."""
    lists = {query_id: doc_ids[:cutoff] for query_id, doc_ids in run.items() if query_id in rows and doc_ids}
    return {
        query_id: {doc_id: float(len(doc_ids) - place) for place, doc_id in enumerate(doc_ids)}
        for query_id, doc_ids in lists.items()
    }
