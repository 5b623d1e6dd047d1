from __future__ import annotations

import math
import random

import pytest

from qwen_rerank_plugins import InputError
from qwen_rerank_plugins.evaluation import parse_measure
from qwen_rerank_plugins.evaluation.measures import MeasureCalculator

TOLERANCE = 1e-6

QRELS = {"a": {"d1": 2, "d2": 1, "d3": 0}, "b": {"d4": 1}, "c": {"d5": 1}}
# Query c has no list at all.
RUN = {"a": ["d3", "d2", "dx", "d1"], "b": ["d1", "d2", "d4"]}


def values_of(name: str) -> list[float]:
    column: list[float] = MeasureCalculator(QRELS, [parse_measure(name)]).values(RUN)[:, 0].tolist()
    return column


@pytest.mark.parametrize(
    ("name", "a", "b"),
    [
        # Gains are linear: 1 at place 2 and 2 at place 4, over 2 at place 1 and 1 at place 2.
        ("nDCG@10", (1 / math.log2(3) + 2 / math.log2(5)) / (2 + 1 / math.log2(3)), 1 / math.log2(4)),
        ("nDCG@2", (1 / math.log2(3)) / (2 + 1 / math.log2(3)), 0.0),
        ("RR", 1 / 2, 1 / 3),
        ("MRR@2", 1 / 2, 0.0),
        ("RR(rel=2)@10", 1 / 4, 0.0),
        ("AP@100", (1 / 2 + 2 / 4) / 2, 1 / 3),
        ("MAP@3", (1 / 2) / 2, 1 / 3),
        ("recall@3", 1 / 2, 1.0),
        ("P@5", 2 / 5, 1 / 5),
        ("Success@1", 0.0, 0.0),
    ],
)
def test_values_agree_with_those_computed_by_hand(name: str, a: float, b: float) -> None:
    assert values_of(name) == pytest.approx([a, b, 0.0], abs=TOLERANCE)


def own_ndcg(ranked: list[int], judged: list[int], cutoff: int) -> float:
    def dcg(grades: list[int]) -> float:
        return sum(grade / math.log2(place + 2) for place, grade in enumerate(grades[:cutoff]))

    best = dcg(sorted(judged, reverse=True))
    return dcg(ranked) / best if best else 0.0


def test_ndcg_agrees_with_its_formula_on_random_lists() -> None:
    rng = random.Random(3)
    qrels, run, expected = {}, {}, []
    for query in range(40):
        grades = {f"d{i}": rng.choice([0, 0, 1, 2, 3]) for i in range(rng.randint(1, 30))}
        documents = [f"d{i}" for i in range(40)]
        rng.shuffle(documents)
        qrels[f"q{query}"], run[f"q{query}"] = grades, documents
        expected.append(own_ndcg([grades.get(one, 0) for one in documents], list(grades.values()), 10))
    values = MeasureCalculator(qrels, [parse_measure("nDCG@10")]).values(run)[:, 0]
    assert values.tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_several_measures_keep_their_columns() -> None:
    measures = [parse_measure(name) for name in ("RR@2", "P@5", "RR", "nDCG@10", "RR(rel=2)@10")]
    together = MeasureCalculator(QRELS, measures).values(RUN)
    for column, measure in enumerate(measures):
        assert together[:, column].tolist() == pytest.approx(values_of(str(measure)), abs=TOLERANCE)


@pytest.mark.parametrize("name", ["bleu", "nDCG@0", "R", "P", "nDCG(rel=2)@10", "nDCG(dcg=exp-log2)@10", ""])
def test_what_trec_eval_has_not_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="measure"):
        parse_measure(name)
