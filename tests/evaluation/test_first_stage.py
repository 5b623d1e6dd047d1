from __future__ import annotations

import dataclasses
import math

import pytest

from qwen_rerank_plugins import InputError
from qwen_rerank_plugins.evaluation import Dataset, Query, bm25_run, run_from_scores
from qwen_rerank_plugins.evaluation.analyzer import extract_terms
from qwen_rerank_plugins.evaluation.first_stage import _Index
from tests.evaluation.collections import tiny


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The Blue-Whale sings!", ["the", "blue", "whale", "sings"]),
        ("电热水壶", ["电热", "热水", "水壶"]),
        ("水", ["水"]),
        ("用USB3充电", ["用", "usb3", "充电"]),
        ("ＡＢＣ　１２", ["abc", "12"]),
        ("snake_case", ["snake", "case"]),
        ("𠀀𠀁 かな", ["𠀀𠀁", "かな"]),
        ("!? …", []),
    ],
)
def test_terms_are_words_and_pairs_of_characters(text: str, terms: list[str]) -> None:
    assert extract_terms(text) == terms


def test_scores_are_those_of_the_formula() -> None:
    """Lucene's BM25: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), k1 1.5, b 0.75, without the factor (k1 + 1)."""
    corpus = {"a": "cat cat dog", "b": "dog bird", "c": "fish"}
    scores = _Index(corpus)._scores("cat dog")
    mean = 6 / 3

    def part(tf: int, length: int, n: int) -> float:
        idf = math.log(1 + (3 - n + 0.5) / (n + 0.5))
        return idf * tf / (tf + 1.5 * (0.25 + 0.75 * length / mean))

    expected = [part(2, 3, 1) + part(1, 3, 2), part(1, 2, 2), 0.0]
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)


def test_documents_that_share_nothing_are_not_found() -> None:
    run = bm25_run(tiny())
    assert run["q1"] == ["d1", "d3"]
    assert run["q2"] == ["d4", "d5"]


def test_candidates_are_all_given_and_their_own_order_does_not_leak() -> None:
    documents = [f"d{place}" for place in range(20)]
    base = Dataset("x", dict.fromkeys(documents, "nothing shared"), {"q": Query("问")}, {"q": {"d0": 1}})
    orders = [
        bm25_run(dataclasses.replace(base, candidates={"q": given}))["q"]
        for given in (documents, documents[::-1])
    ]
    assert orders[0] == orders[1] != documents
    assert sorted(orders[0]) == sorted(documents)


def test_a_corpus_without_a_word_gives_empty_lists() -> None:
    dataset = Dataset("x", {"a": "!!", "b": ""}, {"q": Query("whale")}, {"q": {"a": 1}})
    assert bm25_run(dataset)["q"] == []


def test_a_run_is_ordered_by_score_in_32_bits_and_then_by_id_falling() -> None:
    close = 0.1 + 1e-12  # the same number in 32 bits
    run = run_from_scores(tiny(), {"q1": {"d1": close, "d3": 0.1, "d2": 0.2}, "unjudged": {"gone": 1.0}})
    assert run == {"q1": ["d2", "d3", "d1"], "q2": []}


def test_a_run_over_another_corpus_is_refused() -> None:
    with pytest.raises(InputError, match="not in the corpus: 'gone'"):
        run_from_scores(tiny(), {"q1": {"gone": 1.0}})


def test_a_run_without_a_judged_query_is_refused() -> None:
    with pytest.raises(InputError, match="no document of a judged query"):
        run_from_scores(tiny(), {"other": {"d1": 1.0}})
