"""Properties of reranking on the client side, over lists, windows and pages of all sizes."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opensearch_qwen_rerank.client import LinearFusion, RankFusion

from qwen_rerank_plugins import EngineError
from tests.doubles import FakeScorer
from tests.integrations.opensearch.client_doubles import (
    FakeClient,
    client_side,
    hit,
    ids,
    response_of,
    scores,
)

PROBABILITIES = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
WINDOWS = st.integers(1, 15)
FUSIONS = st.sampled_from([None, LinearFusion(weight=0.3), RankFusion()])


@st.composite
def lists(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Hits with falling first-stage scores; the text of each is its score by the model, or missing."""
    texts = draw(st.lists(PROBABILITIES, max_size=12))
    return [
        hit(str(number), None if text is None else repr(text), 50.0 - number)
        for number, text in enumerate(texts)
    ]


@given(hits=lists(), window=WINDOWS, fusion=FUSIONS)
def test_no_hit_is_lost_or_added(hits: list[dict[str, Any]], window: int, fusion: Any) -> None:
    found = client_side(window=window, fusion=fusion).rerank(response_of(hits), "q")
    assert sorted(ids(found)) == sorted(one["_id"] for one in hits)


@given(hits=lists(), window=WINDOWS, fusion=FUSIONS)
def test_hits_behind_the_window_follow_in_the_first_stages_order(
    hits: list[dict[str, Any]], window: int, fusion: Any
) -> None:
    found = client_side(window=window, fusion=fusion).rerank(response_of(hits), "q")
    names = [one["_id"] for one in hits]
    assert ids(found)[window:] == names[window:]
    assert set(ids(found)[:window]) == set(names[:window])


@given(hits=lists(), window=WINDOWS, fusion=FUSIONS)
def test_scores_fall_and_max_score_is_the_first(hits: list[dict[str, Any]], window: int, fusion: Any) -> None:
    found = client_side(window=window, fusion=fusion).rerank(response_of(hits), "q")
    scored = [score for score in scores(found) if score is not None]
    assert scored == sorted(scored, reverse=True)
    assert scores(found)[len(scored) :] == [None] * (len(hits) - len(scored))
    assert found["hits"]["max_score"] == max(scored, default=None)
    assert all(isinstance(score, float) for score in scored)
    assert found["rerank"]["num_scored"] == len(scored)


@given(
    hits=lists(),
    window=WINDOWS,
    size=st.integers(1, 5),
    fusion=FUSIONS,
    top_n=st.one_of(st.none(), st.integers(1, 9)),
)
def test_consecutive_pages_are_the_whole_list(
    hits: list[dict[str, Any]], window: int, size: int, fusion: Any, top_n: int | None
) -> None:
    reranker = client_side(FakeClient(hits), window=window, fusion=fusion, config={"top_n": top_n})
    whole = reranker.rerank(response_of(hits), "q")
    pages = [reranker.search({"from": start, "size": size}, query="q") for start in range(0, 15, size)]
    assert [name for page in pages for name in ids(page)] == ids(whole)
    assert [score for page in pages for score in scores(page)] == scores(whole)


@given(hits=lists(), threshold=st.floats(0, 1), fusion=FUSIONS)
def test_a_threshold_removes_hits_and_keeps_the_order(
    hits: list[dict[str, Any]], threshold: float, fusion: Any
) -> None:
    whole = client_side(fusion=fusion).rerank(response_of(hits), "q")
    cut = client_side(fusion=fusion).rerank(response_of(hits), "q", min_score=threshold)
    passed = [
        one["_id"]
        for one in whole["hits"]["hits"]
        if one["rerank"]["relevance_score"] is not None and one["rerank"]["relevance_score"] >= threshold
    ]
    assert ids(cut) == passed
    assert cut["rerank"]["num_below_min_score"] == whole["rerank"]["num_scored"] - len(passed)


@given(hits=lists(), window=WINDOWS, fusion=FUSIONS)
def test_reranking_twice_is_the_same_as_once(hits: list[dict[str, Any]], window: int, fusion: Any) -> None:
    """Including ties, which keep the order of the first reranking."""
    reranker = client_side(window=window, fusion=fusion)
    once = reranker.rerank(response_of(hits), "q")
    assert reranker.rerank(once, "q")["hits"] == once["hits"]


@given(hits=lists(), window=WINDOWS, fusion=FUSIONS)
def test_the_response_passed_in_is_not_changed(hits: list[dict[str, Any]], window: int, fusion: Any) -> None:
    response = response_of(hits)
    before = copy.deepcopy(response)
    client_side(window=window, fusion=fusion).rerank(response, "q", min_score=0.5)
    assert response == before


@given(hits=lists(), start=st.integers(0, 15), size=st.integers(0, 15))
def test_a_failed_reranking_returns_the_page_of_the_cluster(
    hits: list[dict[str, Any]], start: int, size: int
) -> None:
    client = FakeClient(hits)
    failing = client_side(
        client, FakeScorer(error=EngineError("broken")), {"on_error": "keep_order"}, window=5
    )
    found = failing.search({"from": start, "size": size}, query="q")
    alone = client.search(body={"from": start, "size": size}, index=None, params={}, headers={})
    assert ids(found) == ids(alone)
