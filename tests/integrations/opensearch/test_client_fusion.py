"""Fusion of the first stage's and the model's score, with values computed by hand."""

from __future__ import annotations

import pytest
from opensearch_qwen_rerank.client import LinearFusion, RankFusion
from opensearch_qwen_rerank.client.fusion import min_max_normalize
from pydantic import ValidationError

from qwen_rerank_plugins import InputError
from tests.integrations.opensearch.client_doubles import client_side, hit, ids, response_of, scores

# First stage: 10, 6, 2 → 1, 0.5, 0. Model: 0.2, 0.9, 0.4 → 0, 1, 2/7.
HITS = [hit("a", "0.2", 10.0), hit("b", "0.9", 6.0), hit("c", "0.4", 2.0)]


def test_scores_are_scaled_by_minimum_and_maximum() -> None:
    assert min_max_normalize([10.0, 6.0, 2.0]) == [1.0, 0.5, 0.0]
    assert min_max_normalize([3.0, 3.0]) == [1.0, 1.0]
    assert min_max_normalize([]) == []


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (0.5, {"b": 0.75, "a": 0.5, "c": 1 / 7}),
        (0.25, {"a": 0.75, "b": 0.625, "c": 0.5 / 7}),
        (1.0, {"b": 1.0, "c": 2 / 7, "a": 0.0}),
        (0.0, {"a": 1.0, "b": 0.5, "c": 0.0}),
    ],
)
def test_the_weighted_mean_uses_normalized_scores(weight: float, expected: dict[str, float]) -> None:
    found = client_side(fusion=LinearFusion(weight=weight)).rerank(response_of(HITS), "q")
    assert ids(found) == list(expected)
    assert scores(found) == pytest.approx(list(expected.values()))
    assert found["hits"]["max_score"] == scores(found)[0]


def test_rank_fusion_adds_reciprocal_ranks_of_both_orders() -> None:
    """First stage a, b, c; model b, c, a: b has 1/62 + 1/61, a 1/61 + 1/63, c 1/63 + 1/62."""
    found = client_side(fusion=RankFusion()).rerank(response_of(HITS), "q")
    assert ids(found) == ["b", "a", "c"]
    assert scores(found) == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 63 + 1 / 62])
    assert scores(client_side(fusion=RankFusion(k=1)).rerank(response_of(HITS), "q")) == pytest.approx(
        [1 / 3 + 1 / 2, 1 / 2 + 1 / 4, 1 / 4 + 1 / 3]
    )


def test_equal_fused_scores_keep_the_first_stages_order() -> None:
    """Two hits that swap their ranks have the same sum of reciprocal ranks."""
    found = client_side(fusion=RankFusion()).rerank(response_of([hit("a", "0.1"), hit("b", "0.9")]), "q")
    assert ids(found) == ["a", "b"]
    assert scores(found)[0] == scores(found)[1]


def test_the_models_score_is_kept_beside_the_fused_one() -> None:
    found = client_side(fusion=LinearFusion()).rerank(response_of(HITS), "q")
    marks = {one["_id"]: one["rerank"] for one in found["hits"]["hits"]}
    assert {name: mark["relevance_score"] for name, mark in marks.items()} == {"a": 0.2, "b": 0.9, "c": 0.4}
    assert {name: mark["first_stage_score"] for name, mark in marks.items()} == {
        "a": 10.0,
        "b": 6.0,
        "c": 2.0,
    }


def test_a_threshold_applies_to_the_models_probability_and_changes_no_fused_score() -> None:
    whole = client_side(fusion=LinearFusion()).rerank(response_of(HITS), "q")
    cut = client_side(fusion=LinearFusion()).rerank(response_of(HITS), "q", min_score=0.3)
    assert ids(cut) == ["b", "c"]
    assert scores(cut) == [scores(whole)[0], scores(whole)[2]]


def test_top_n_cuts_the_fused_order() -> None:
    reranker = client_side(fusion=LinearFusion(weight=0.0), config={"top_n": 1})
    assert ids(reranker.rerank(response_of(HITS), "q")) == ["a"]


def test_a_weighted_mean_needs_the_first_stages_scores() -> None:
    bare = [hit("a", "0.2", None), hit("b", "0.9", None)]
    with pytest.raises(
        InputError, match=r"no first-stage score: ranks \[1, 2\].*track_scores, or use RankFusion"
    ):
        client_side(fusion=LinearFusion()).rerank(response_of(bare), "q")
    assert ids(client_side(fusion=RankFusion()).rerank(response_of(bare), "q")) == ["a", "b"]


def test_invalid_weights_are_refused() -> None:
    for weight in (-0.1, 1.1, float("nan"), "0.5"):
        with pytest.raises(ValidationError):
            LinearFusion(weight=weight)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        RankFusion(k=0)
