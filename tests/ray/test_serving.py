"""The Serve application on a running Ray: several processes, the demo model, and injected faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ray import serve

from qwen_rerank_plugins import RerankConfig, Reranker
from qwen_rerank_plugins.ray import build_app
from tests.ray.clusters import OF_RAY, PATIENCE_S, body, free_port, kill, load_on, processes, wait_for
from tests.service.servers import running_service

pytestmark = [
    pytest.mark.loopback,
    pytest.mark.timeout(900),
    OF_RAY,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

APP = "rerank"
SCORERS = f"ray::ServeReplica:{APP}:Scorer"
GATEWAYS = f"ray::ServeReplica:{APP}:Gateway"
MODEL: dict[str, Any] = {
    "model": "demo",
    "device": "cpu",
    "dtype": "float32",
    "num_threads": 1,
    # What was computed before would change the last bits of what comes after.
    "prefix_cache_mb": 0,
    "cache_entries": 0,
}
TWO: dict[str, Any] = {"num_replicas": 2, "num_cpus": 1, "gateway_num_cpus": 0.1}


@pytest.fixture(scope="module")
def base_url(cluster: None) -> Iterator[str]:
    """The application with two replicas that score."""
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deploy()
    yield f"http://127.0.0.1:{port}"
    serve.delete(APP)


def deploy(**changes: Any) -> None:
    serve.run(build_app({**MODEL, **TWO, **changes}), name=APP, route_prefix="/")


@pytest.fixture(scope="module")
def reranker() -> Iterator[Reranker]:
    with Reranker(RerankConfig(**MODEL)) as one:
        yield one


REQUESTS = [
    ("/v1/rerank", {"query": "blue whale", "documents": ["a red fox", "the blue whale sings", ""]}),
    ("/v2/rerank", {"query": "cats", "documents": ["a cat", "a dog"], "top_n": 1, "model": "rerank-v3.5"}),
    ("/api/rerank", {"queries": ["blue whale", "fox"], "documents": [["a whale"], ["a fox", "a hen"]]}),
    ("/rerank", {"query": "blue whale", "texts": ["a fox", "the whale"], "raw_scores": True}),
    ("/v1/score", {"model": "demo", "text_1": "blue whale", "text_2": ["a fox", "the whale"]}),
    (
        "/v1/rerank",
        {
            "query": "鲸",
            "documents": ["鲸在唱歌", "狐狸"],
            "instruction": "Find songs",
            "return_documents": True,
        },
    ),
    ("/v1/rerank", {"query": "", "documents": ["a"]}),
    ("/v1/rerank", {"query": "a", "documents": []}),
    ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": "many"}),
    ("/nowhere", {}),
]
VOLATILE = ("id", "request_id", "created")


def stable(answer: httpx.Response) -> tuple[int, str]:
    """Status and exact body of a response, without the parts that differ between requests."""
    values = json.loads(answer.text)
    text = answer.text
    for name in VOLATILE if isinstance(values, dict) else ():
        if name in values:
            text = text.replace(json.dumps(values[name]), "*")
    return answer.status_code, text


def test_every_dialect_gets_the_answer_of_the_plain_service_byte_for_byte(base_url: str) -> None:
    def answers(client: httpx.Client) -> list[tuple[int, str]]:
        return [stable(client.post(path, json=value)) for path, value in REQUESTS]

    with running_service(RerankConfig(**MODEL)) as plain, plain.client() as client:
        expected = answers(client)
    with httpx.Client(base_url=base_url, trust_env=False, timeout=PATIENCE_S) as client:
        found = answers(client)
        assert client.get("/ready").json() == {"status": "ready", "model": "demo", "demo": True}
        assert client.get("/info").json()["device"] == "cpu"
        assert "rerank_requests_total" in client.get("/metrics").text
        assert "<html" in client.get("/").text
    assert {status for status, _ in expected} >= {200, 400, 404, 422}
    assert found == expected


def assert_nothing_lost(load: Any, reranker: Reranker) -> None:
    assert load.broken == []
    assert load.statuses == {200}
    assert len(load.answers) == load.sent > 20
    for number, (_, scores) in list(load.answers.items())[:: max(1, load.sent // 50)]:
        request = body(number)
        assert scores == pytest.approx(reranker.score(request["query"], request["documents"]), abs=1e-5)


def test_a_replica_that_is_killed_in_the_middle_loses_no_request(base_url: str, reranker: Reranker) -> None:
    before = processes(SCORERS)
    assert len(before) == 2
    with load_on(base_url) as load:
        wait_for(lambda: len(load.answers) > 20)
        kill(before[0])
        wait_for(lambda: before[0] not in processes(SCORERS) and len(processes(SCORERS)) == 2)
        count = len(load.answers)
        wait_for(lambda: len(load.answers) > count + 20)
    assert_nothing_lost(load, reranker)


def test_replacing_every_replica_loses_no_request(base_url: str, reranker: Reranker) -> None:
    before = {*processes(SCORERS), *processes(GATEWAYS)}
    with load_on(base_url, clients=2) as load:
        wait_for(lambda: len(load.answers) > 10)
        deploy(batch_wait_s=0.001)
        wait_for(lambda: not before & {*processes(SCORERS), *processes(GATEWAYS)})
        count = len(load.answers)
        wait_for(lambda: len(load.answers) > count + 10)
    assert_nothing_lost(load, reranker)


def test_too_many_calls_are_refused_with_429_and_the_others_are_served(
    base_url: str, reranker: Reranker
) -> None:
    """Four calls per replica and one that waits; the service's own limit is far higher."""
    deploy(max_ongoing_requests=4, max_queued_requests=1, num_replicas=1)
    refused = httpx.Response(200)

    def is_refused() -> bool:
        nonlocal refused
        refused = httpx.post(f"{base_url}/v1/rerank", json=body(0, 30), trust_env=False, timeout=PATIENCE_S)
        return refused.status_code == 429

    with load_on(base_url, clients=24, num_documents=30) as load:
        wait_for(is_refused)
        wait_for(lambda: load.statuses >= {200, 429})
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["code"] == "overloaded"
    with httpx.Client(base_url=base_url, trust_env=False, timeout=PATIENCE_S) as client:
        assert client.post("/v1/rerank", json=body(0)).status_code == 200
    assert load.broken == []
    assert load.statuses == {200, 429}
    assert len(load.answers) == load.sent
    served = [number for number, (status, _) in load.answers.items() if status == 200]
    request = body(served[0], 30)
    expected = reranker.score(request["query"], request["documents"])
    assert load.answers[served[0]][1] == pytest.approx(expected, abs=1e-5)


def test_replicas_come_with_the_load_and_go_with_it(base_url: str, reranker: Reranker) -> None:
    """The target is one call per replica, and eight clients call: a second replica starts, which is the maximum."""
    deploy(
        num_replicas=1, max_replicas=2, target_ongoing_requests=1, upscale_delay_s=0.5, downscale_delay_s=0.5
    )
    wait_for(lambda: len(processes(SCORERS)) == 1)
    with load_on(base_url, clients=8) as load:
        wait_for(lambda: len(processes(SCORERS)) == 2)
        count = len(load.answers)
        wait_for(lambda: len(load.answers) > count + 20)
    wait_for(lambda: len(processes(SCORERS)) == 1)
    assert_nothing_lost(load, reranker)
