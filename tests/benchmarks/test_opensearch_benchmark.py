"""OpenSearch's benchmark: its times add up, and an order that differs from the service's is an error."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import Any, cast

import pytest

from benchmarks import opensearch
from benchmarks.opensearch import RERANKING, WAYS, Bench, Turns, make_queries


def test_what_is_added_is_taken_turn_by_turn() -> None:
    turns = Turns()
    for way, seconds in zip(WAYS, (1.0, 2.0, 3.5, 4.0, 3.25, 2.9), strict=True):
        turns.seconds[way] += [seconds, seconds + 1.0, seconds + (way in RERANKING)]
    turns.wrong["rich"] = 1
    figures = turns.figures()
    assert figures["search"] == {"p50_ms": 1000.0, "p99_ms": 2000.0}
    assert [figures[way]["added_p50_ms"] for way in RERANKING] == [500.0, 1000.0, 250.0, -100.0]
    assert [figures[way]["added_p99_ms"] for way in RERANKING] == [1500.0, 2000.0, 1250.0, 900.0]
    assert [figures[way]["wrong_orders"] for way in RERANKING] == [0, 1, 0, 0]


def test_no_query_is_like_another() -> None:
    queries = list(itertools.islice(make_queries(1), 50))
    assert len(set(queries)) == 50
    assert queries[0] != next(make_queries(2))


@pytest.mark.parametrize(
    ("ids", "is_right"),
    [
        (["1", "0", "2"], True),
        (["1", "2", "0"], False),  # worse before better
        (["1", "0"], False),  # one is missing
        (["1", "1", "0"], False),  # one is there twice
    ],
)
def test_an_order_is_compared_with_the_services_scores(ids: list[str], is_right: bool) -> None:
    assert best_first([0.5, 0.9, 0.1], ids) is is_right


def test_scores_that_a_cluster_cannot_tell_apart_may_come_in_any_order() -> None:
    assert best_first([0.1234567890, 0.1234567891], ["0", "1"])
    assert not best_first([0.1234, 0.1235], ["0", "1"])


def best_first(scores: list[float], ids: list[str]) -> bool:
    class Somewhere:
        url = rerank_url = "http://127.0.0.1:1"
        client = None

    with ExitStack() as stack:
        bench = Bench(cast(Any, Somewhere()), cast(Any, Somewhere()), stack)
        bench._scores = scores
        return bench._is_best_first(ids)


def test_an_unknown_version_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        opensearch.parse(["--versions", "2.19.1,9.9"])
    assert "unknown version '9.9'" in capsys.readouterr().err
