"""Services that fail: the first stage's order with a mark, or a failed search; a node that stays well."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from opensearchpy.exceptions import AuthorizationException, TransportError

from tests.integrations.opensearch.conftest import BOOT_TIMEOUT_S
from tests.integrations.opensearch.live.texts import hits_of, numbers_of
from tests.integrations.opensearch.nodes import faulty as behaviours
from tests.integrations.opensearch.nodes.faulty import Behaviour, FaultyService, Reply
from tests.integrations.opensearch.nodes.services import running_rerank_service
from tests.integrations.opensearch.plugin.conftest import NUMBERS, Native, on_every_node
from tests.integrations.opensearch.plugin.test_ranking import outcome_of

pytestmark = [on_every_node, pytest.mark.timeout(BOOT_TIMEOUT_S)]

HANG_TIMEOUT_MS = 500
MAX_WAIT_S = 15.0
"""Time of a search whose service hangs; a busy machine needs some of it."""
NUM_PARALLEL = 500

FAULTS: dict[str, tuple[Behaviour, str, int]] = {
    "out of order": (behaviours.failing(503, "the model is loading"), "503: the model is loading", 502),
    "busy": (behaviours.failing(429, "come back later"), "come back later", 429),
    "no key": (behaviours.failing(401, "no valid key"), "no valid key", 502),
    "silent": (behaviours.hanging, "did not answer", 504),
    "gone in between": (lambda service, body: None, "cannot be reached", 502),
    "too few": (behaviours.cut_short, "19 results for 20 documents", 502),
    "not a number": (behaviours.literal("NaN"), "invalid answer", 502),
    "not JSON": (lambda service, body: Reply(200, b"<html>"), "invalid answer", 502),
    "endless": (lambda service, body: Reply(200, b" " * 3_000_000), "invalid answer", 502),
}
"""Behaviour of the service → part of the reason, and the status of a search that fails with it."""


def never_open(native: Native, failures: int | None = 1000) -> None:
    """Set after how many failures the circuit breaker opens."""
    setting = {"qwen_rerank.circuit_breaker.failures": failures}
    native.cluster.request("PUT", "/_cluster/settings", {"persistent": setting})


def test_every_fault_is_marked_or_raised(native: Native, faulty: FaultyService) -> None:
    never_open(native)
    first_order = hits_of(native.search("_none"))
    lenient = native.pipeline(faulty.url, timeout="20s")
    strict = native.pipeline(faulty.url, timeout="20s", on_failure="fail")
    for name, (behave, reason, status) in FAULTS.items():
        faulty.always = behave
        hung = {"qwen_rerank": {"timeout": f"{HANG_TIMEOUT_MS}ms"}} if name == "silent" else {}
        started = time.monotonic()
        answer = native.search(lenient, ext=hung)
        assert time.monotonic() - started < MAX_WAIT_S, name
        assert hits_of(answer) == first_order, name
        assert outcome_of(answer)["status"] == "failed"
        assert reason in outcome_of(answer)["reason"], name
        with pytest.raises(TransportError) as failure:
            native.search(strict, ext=hung)
        assert failure.value.status_code == status, name
        assert reason in str(failure.value), name
    assert native.statistics()["requests_in_flight"] == 0


def test_a_failed_page_is_the_first_stages_page(native: Native, faulty: FaultyService) -> None:
    never_open(native)
    faulty.always = behaviours.failing(503)
    answer = native.search(native.pipeline(faulty.url), from_=7, size=4, _source="title")
    assert answer["hits"]["hits"] == native.search("_none", from_=7, size=4, _source="title")["hits"]["hits"]


def test_a_killed_service_is_marked_and_back_after_its_return(native: Native, tmp_path: Path) -> None:
    never_open(native, None)
    arguments = ("--backend", "lexical")
    with running_rerank_service(tmp_path, arguments) as service:
        native.allow(service.url)
        pipeline = native.pipeline(service.url)
        assert outcome_of(native.search(pipeline))["status"] == "reranked"
        service.kill()
        reasons = [outcome_of(native.search(pipeline))["reason"] for _ in range(7)]
        assert "cannot be reached" in reasons[0]
        assert "not called for now" in reasons[-1]
    with running_rerank_service(tmp_path, arguments, port=int(service.url.rpartition(":")[2])):
        give_up = time.monotonic() + 30
        while outcome_of(native.search(pipeline))["status"] != "reranked":
            assert time.monotonic() < give_up
            time.sleep(0.2)


def test_only_allowed_addresses_are_called(native: Native, faulty: FaultyService) -> None:
    pipeline = native.pipeline(faulty.url)
    other = {"qwen_rerank": {"endpoint": faulty.url.replace("127.0.0.1", "localhost")}}
    assert "not allowed" in outcome_of(native.search(pipeline, ext=other))["reason"]
    native.allow()
    with pytest.raises(AuthorizationException, match="not allowed"):
        native.pipeline(faulty.url)
    assert "not allowed" in outcome_of(native.search(pipeline))["reason"]
    assert faulty.seen == []


def test_a_cancelled_search_ends_at_once(native: Native, faulty: FaultyService) -> None:
    faulty.always = behaviours.hanging
    pipeline = native.pipeline(faulty.url, timeout="50s")
    before = native.statistics()["cancelled"]
    errors: list[TransportError] = []

    def search() -> None:
        try:
            native.search(pipeline)
        except TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    while not faulty.seen:
        time.sleep(0.01)
    started = time.monotonic()
    native.cluster.request("POST", "/_tasks/_cancel", actions="indices:data/read/search")
    thread.join(40)
    assert time.monotonic() - started < 5
    assert "cancelled" in str(errors[0])
    assert native.statistics()["cancelled"] == before + 1
    assert native.statistics()["requests_in_flight"] == 0


def test_many_parallel_searches_are_all_reranked(native: Native, faulty: FaultyService) -> None:
    """Neither the threads nor the connections grow with the searches."""
    pipeline = native.pipeline(faulty.url, timeout="60s")
    url = f"{native.cluster.url}/{NUMBERS}/_search?search_pipeline={pipeline}"
    body = {"query": {"match": {"text": "whales"}}, "size": 3}

    async def search_all() -> list[Any]:
        limits = httpx.Limits(max_connections=NUM_PARALLEL)
        async with httpx.AsyncClient(trust_env=False, timeout=120, limits=limits) as client:
            answers = await asyncio.gather(*(client.post(url, json=body) for _ in range(NUM_PARALLEL)))
        return [answer.json() for answer in answers]

    answers = asyncio.run(search_all())
    assert [answer for answer in answers if numbers_of(answer) != [19, 18, 17]] == []
    (node,) = native.cluster.request("GET", "/_nodes/stats/thread_pool")["nodes"].values()
    assert node["thread_pool"]["qwen_rerank"]["largest"] <= 16
    assert node["thread_pool"]["qwen_rerank"]["rejected"] == 0
    assert faulty.connections <= 40


def test_the_statistics_count_every_outcome(native: Native, faulty: FaultyService) -> None:
    never_open(native)
    before = native.statistics()
    pipeline = native.pipeline(faulty.url)
    native.search(pipeline)
    native.search(pipeline, size=0)
    faulty.always = behaviours.cut_short
    native.search(pipeline)
    after = native.statistics()
    changed = {
        name: after[name] - before[name]
        for name in ("reranked", "skipped", "failed", "documents", "cancelled", "requests_in_flight")
    }
    assert changed == {
        "reranked": 1,
        "skipped": 1,
        "failed": 1,
        "documents": 20,
        "cancelled": 0,
        "requests_in_flight": 0,
    }
    assert after["failures"]["invalid_answer"] - before["failures"]["invalid_answer"] == 1
    assert after["circuit_breakers"][faulty.url] == "closed"
