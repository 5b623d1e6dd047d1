from __future__ import annotations

import asyncio

import pytest

from qwen_rerank_plugins import DeadlineExceededError, Scorer, ScoreRequest
from qwen_rerank_plugins.cli.progress import ProgressScorer
from tests.doubles import FakeScorer

REQUESTS = [ScoreRequest("query", f"0.{number}") for number in range(5)]


def test_every_slice_is_reported_and_the_scores_are_those_of_one_call() -> None:
    reports: list[int] = []
    scorer = ProgressScorer(FakeScorer(), reports.append, slice_pairs=2)
    assert isinstance(scorer, Scorer)
    assert scorer.score(REQUESTS) == FakeScorer().score(REQUESTS)
    assert reports == [2, 2, 1]
    assert asyncio.run(scorer.ascore(REQUESTS)) == FakeScorer().score(REQUESTS)


def test_the_deadline_is_that_of_all_slices_together() -> None:
    inner = FakeScorer(delay_s=0.05)
    ProgressScorer(inner, lambda done: None, slice_pairs=2).score(REQUESTS, deadline_s=10.0)
    left = [deadline_s for _, deadline_s in inner.calls if deadline_s is not None]
    assert len(left) == 3
    assert left[0] - left[1] >= 0.05
    assert left[1] - left[2] >= 0.05
    with pytest.raises(DeadlineExceededError, match="only 2 of 5 pairs were scored"):
        ProgressScorer(FakeScorer(delay_s=0.1), lambda done: None, slice_pairs=2).score(
            REQUESTS, deadline_s=0.05
        )


def test_the_rest_is_the_inner_scorers() -> None:
    inner = FakeScorer()
    scorer = ProgressScorer(inner, lambda done: None)
    assert (scorer.model, scorer.info()) == ("fake", {"model": "fake"})
    scorer.close()
    assert inner.closed == 1
