"""The service's benchmark counts every request, and its figures are those of their definitions."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from typing import Any

import pytest

from benchmarks import service
from benchmarks.service import BUSY, OK, Load, bodies, closed_loop, judge, open_loop, percentile
from benchmarks.wire import Answer, Connection
from tests.service.doubles import SteeredScorer
from tests.service.servers import running_service


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, part) for part in (0.0, 0.5, 0.99, 1.0)] == [1.0, 51.0, 100.0, 100.0]
    assert math.isnan(percentile([], 0.5))


def test_no_request_is_like_another() -> None:
    texts = [json.loads(body) for body in itertools.islice(bodies(3, 1), 50)]
    assert len({text["query"] for text in texts}) == 50
    assert len({document for text in texts for document in text["documents"]}) == 150
    assert next(bodies(3, 1)) != next(bodies(3, 2))


def test_figures_count_what_was_served_refused_and_lost() -> None:
    answers = [Answer(OK, b"", 0.1)] * 8 + [Answer(BUSY, b"", 0.001)] * 2
    figures = Load(seconds=2.0, answers=answers, sent=11).figures()
    assert (figures["requests_per_s"], figures["served"], figures["other"], figures["lost"]) == (4.0, 8, 2, 1)
    assert figures["p50_ms"] == figures["p99_ms"] == 100.0


def good_figures() -> dict[str, Any]:
    return {
        "throughput": {"merged_gain": 3.1},
        "overhead": {"overhead": 0.05},
        "overload": {"p99_times": 1.1, "rejected_p99_ms": 9.0, "failed": 0, "overload": {"lost": 0}},
    }


@pytest.mark.parametrize(
    ("part", "change", "word"),
    [
        ("throughput", {"merged_gain": 2.9}, "64 clients"),
        ("overhead", {"overhead": 0.11}, "HTTP adds"),
        ("overload", {"p99_times": 3.1}, "p99"),
        ("overload", {"rejected_p99_ms": 51.0}, "rejections"),
        ("overload", {"failed": 1}, "lost"),
        ("overload", {"overload": {"lost": 1}}, "lost"),
    ],
)
def test_a_missed_goal_is_reported(part: str, change: dict[str, Any], word: str) -> None:
    assert judge(good_figures()) == []
    figures = good_figures()
    figures[part] |= change
    (missed,) = judge(figures)
    assert word in missed


@pytest.mark.loopback
def test_clients_of_both_kinds_get_every_answer() -> None:
    with running_service() as running:
        closed = asyncio.run(closed_loop(running.port, 3, 2, 0.4))
        opened = asyncio.run(open_loop(running.port, 50.0, 2, 0.4))
    for load in (closed, opened):
        assert load.sent == len(load.answers) == len(load.times()) > 3
        assert {len(json.loads(answer.body)["scores"]) for answer in load.answers} == {2}
    assert 15 <= opened.sent <= 25


@pytest.mark.loopback
def test_refusals_and_lost_connections_are_answers_too() -> None:
    scorer = SteeredScorer()
    with running_service(scorer=scorer, max_body_bytes=200) as running:

        async def ask() -> list[int]:
            async with Connection(running.port) as connection:
                statuses = [(await connection.post(b"{}")).status, (await connection.post(b" " * 300)).status]
                return [*statuses, (await connection.post(next(bodies(1, 1))[:150])).status]

        assert asyncio.run(ask()) == [422, 413, 400]

    async def ask_nobody() -> int:
        async with Connection(running.port) as connection:
            return (await connection.post(b"{}")).status

    assert asyncio.run(ask_nobody()) == 0


@pytest.mark.loopback
@pytest.mark.timeout(200)
def test_the_service_is_started_and_ended_as_a_process() -> None:
    with service.service(("--backend", "lexical"), {}) as port:
        load = asyncio.run(closed_loop(port, 2, 2, 0.3))
        counters = service.read_counters(port)
    assert load.figures()["lost"] == 0
    assert counters["accepted"] == counters["answered"] == load.sent
    assert counters["cancelled"] == 0
