from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import RerankConfig, Reranker, errors
from qwen_rerank_plugins.batch import BatchOptions
from qwen_rerank_plugins.lexical import LexicalScorer
from qwen_rerank_plugins.ray.batching import Call, estimate_tokens, score_calls, split_requests
from qwen_rerank_plugins.ray.data import ROW_COLUMN, _Worker
from qwen_rerank_plugins.types import PairScore, ScoreRequest
from tests.calibrations import fit, write_calibration

BAD = "bad"


class Choosy(LexicalScorer):
    """Refuses any call with a bad document, as a scorer does, and records the sizes of its calls."""

    def __init__(self, error: errors.RerankError) -> None:
        super().__init__()
        self.error = error
        self.sizes: list[int] = []
        self.deadlines: list[float | None] = []
        self.priorities: list[str] = []

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: str = "interactive",
    ) -> list[PairScore]:
        self.sizes.append(len(requests))
        self.deadlines.append(deadline_s)
        self.priorities.append(priority)
        if any(request.document == BAD for request in requests):
            raise self.error
        return self.score(requests)


def pairs(*documents: str, query: str = "blue whale") -> list[ScoreRequest]:
    return [ScoreRequest(query, document) for document in documents]


def test_calls_that_come_together_are_one_call_to_the_scorer_and_each_gets_its_own_scores() -> None:
    scorer = Choosy(errors.EngineError("x"))
    calls = [Call(pairs("blue whale", "fox")), Call([]), Call(pairs("whale"))]
    answers = asyncio.run(score_calls(scorer, calls))
    assert scorer.sizes == [3]
    assert answers == [scorer.score(call.requests) for call in calls]


def test_calls_of_each_priority_are_a_call_to_the_scorer() -> None:
    scorer = Choosy(errors.EngineError("x"))
    calls = [
        Call(pairs("blue whale")),
        Call(pairs("fox"), priority="background"),
        Call(pairs("whale")),
        Call(pairs("blue"), priority="background"),
    ]
    answers = asyncio.run(score_calls(scorer, calls))
    assert sorted(zip(scorer.priorities, scorer.sizes, strict=True)) == [
        ("background", 2),
        ("interactive", 2),
    ]
    assert answers == [scorer.score(call.requests) for call in calls]


@pytest.mark.parametrize(
    "error", [errors.InputError("no"), errors.OverloadedError("no"), errors.EngineError("no")]
)
def test_no_call_gets_the_error_of_anothers_pairs(error: errors.RerankError) -> None:
    scorer = Choosy(error)
    good, bad = Call(pairs("blue whale")), Call(pairs("fox", BAD))
    answers = asyncio.run(score_calls(scorer, [good, bad, good]))
    assert answers == [scorer.score(good.requests), error, scorer.score(good.requests)]


def test_a_call_whose_time_is_over_costs_nothing() -> None:
    scorer = Choosy(errors.EngineError("x"))
    now = time.monotonic()
    answers = asyncio.run(score_calls(scorer, [Call(pairs("a"), now - 1), Call(pairs("b"), now + 60)]))
    assert isinstance(answers[0], errors.DeadlineExceededError)
    assert answers[1] == scorer.score(pairs("b"))
    assert scorer.sizes == [1]
    assert scorer.deadlines[0] is not None
    assert scorer.deadlines[0] <= 60


def test_the_longest_deadline_of_those_together_holds_for_all_of_them() -> None:
    scorer = Choosy(errors.EngineError("x"))
    asyncio.run(score_calls(scorer, [Call(pairs("a"), time.monotonic() + 60), Call(pairs("b"))]))
    assert scorer.deadlines == [None]


def test_a_query_is_paid_for_once_where_its_documents_stand_together() -> None:
    long = "whale " * 400
    apart = estimate_tokens([ScoreRequest(long, "a"), ScoreRequest("b", "a"), ScoreRequest(long, "a")], 8192)
    together = estimate_tokens(
        [ScoreRequest(long, "a"), ScoreRequest(long, "a"), ScoreRequest("b", "a")], 8192
    )
    assert sum(apart) - sum(together) > 600
    assert max(estimate_tokens(pairs("x" * 100_000), 512)) == 512
    assert estimate_tokens(pairs("鲸" * 400), 8192) > estimate_tokens(pairs("w" * 400), 8192)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3000)), max_size=40),
    st.integers(256, 4096),
)
def test_slices_are_the_pairs_in_their_order_and_each_is_about_a_batch_or_less(
    shape: list[tuple[str, int]], batch_tokens: int
) -> None:
    requests = [ScoreRequest(query, "x" * size) for query, size in shape]
    slices = list(split_requests(requests, batch_tokens=batch_tokens, max_length=8192))
    assert [request for part in slices for request in part] == requests
    assert all(slices)
    largest = max(estimate_tokens(requests, 8192), default=0)
    head = 66  # a slice begins with its query, which was counted in the slice before
    assert all(sum(estimate_tokens(part, 8192)) <= batch_tokens + largest + head for part in slices)
    assert len(slices) <= 1 + sum(estimate_tokens(requests, 8192)) // batch_tokens


@pytest.mark.parametrize("name", list(errors.__all__))
def test_every_error_crosses_processes_with_what_it_carries(name: str) -> None:
    kind = getattr(errors, name)
    extra = {
        "OverloadedError": {"retry_after_s": 7.5},
        "RemoteStatusError": {"status": 429, "retry_after_s": 3.0},
    }.get(name, {})
    copy = pickle.loads(pickle.dumps(kind("a message", **extra)))  # noqa: S301 (its own)
    assert type(copy) is kind
    assert str(copy) == "a message"
    assert {key: getattr(copy, key) for key in extra} == extra


def test_a_worker_of_a_dataset_calibrates_and_marks_each_instruction(tmp_path: Path) -> None:
    """It calls its scorer without a reranker."""
    config = RerankConfig(backend="lexical", calibration=write_calibration(tmp_path, fit("mine")))
    rows = [{"query": "blue whale", "document": "blue", "i": one} for one in ("mine", "other")]
    table = pa.Table.from_pylist([{**row, ROW_COLUMN: number} for number, row in enumerate(rows)])
    worker = _Worker(config, BatchOptions(details=True, instruction_column="i", form="pairs"))
    found = {row["i"]: row for row in worker(table).to_pylist()}
    reranker = Reranker(config)
    for instruction, row in found.items():
        (expected,) = reranker.score("blue whale", ["blue"], instruction=instruction)
        assert row["relevance_score"] == pytest.approx(expected)
        assert row["calibrated"] is (instruction == "mine")
    assert found["mine"]["relevance_score"] != found["other"]["relevance_score"]
