"""Limits of a request, settings of the service that affect requests, and clients' names in log and metrics."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest

from qwen_rerank_plugins.service.middleware.auth import KeyRing
from tests.service.schemas.test_json_codec import assert_problem
from tests.service.servers import RunningService, running_service, wait_for
from tests.service.test_observability import scraped

pytestmark = pytest.mark.loopback

DOCUMENTS = ["a fox", "the blue whale", "nothing of it"]


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service() as running:
        yield running


@pytest.mark.parametrize(
    "threshold",
    [
        {"min_score": 0.5},
        {"score_threshold": 0.5},
        {"score_threshold": "0.5"},
        {"min_score": 0.5, "score_threshold": 0.0},
    ],
)
def test_documents_below_the_threshold_are_left_out_in_every_dialect_with_a_ranked_list(
    service: RunningService, threshold: dict[str, Any]
) -> None:
    one = {"query": "blue whale", "documents": DOCUMENTS}
    bodies: list[tuple[dict[str, Any], list[Any]]] = [
        ({**one, **threshold}, ["results"]),
        ({"query": "blue whale", "texts": DOCUMENTS, **threshold}, []),
        ({**one, "top_k": 3, **threshold}, ["data"]),
        ({"queries": ["blue whale"], "documents": [DOCUMENTS], **threshold}, ["results", 0, "results"]),
        ({"input": one, "parameters": threshold}, ["output", "results"]),
    ]
    with service.client() as client:
        for body, path in bodies:
            entries = client.post("/rerank", json=body).json()
            for key in path:
                entries = entries[key]
            assert [entry["index"] for entry in entries] == [1], body
    assert len(service.rank(documents=DOCUMENTS, **threshold).json()["scores"]) == 3


@pytest.mark.parametrize("value", [-0.1, 1.5, "high", True, [], "2"])
def test_a_threshold_that_is_no_probability_is_refused(service: RunningService, value: Any) -> None:
    for name in ("min_score", "score_threshold"):
        assert name in assert_problem(service.rank(**{name: value}), 422)["message"]


TWO = "The sun is warm. The blue whale sings."


def test_relevant_spans_come_with_the_documents_of_both_own_dialects(service: RunningService) -> None:
    spans = {"threshold": 0, "max_spans": 1}
    one: dict[str, Any] = {"query": "blue whale", "documents": [{"text": TWO}, " "], "relevant_spans": spans}
    several = {
        "queries": ["sun", "blue whale"],
        "documents": [["moon"], [TWO]],
        "relevant_spans": {**spans, "unit": "passage"},
    }
    best, blank = service.rank(**one).json()["results"]
    (found,) = best["relevant_spans"]
    assert TWO[found["start"] : found["end"]] == "The blue whale sings."
    assert found["score"] == pytest.approx(1 / (1 + math.exp(-found["log_odds"])), abs=1e-9)
    assert blank["relevant_spans"] == []
    with service.client() as client:
        answer = client.post("/api/rerank", json=several).json()
    moon, two = (part["results"][0]["relevant_spans"] for part in answer["results"])
    assert [(span["start"], span["end"]) for span in (*moon, *two)] == [(0, 4), (0, len(TWO))]


@pytest.mark.parametrize("asked", [None, {"mode": "disabled"}, {"mode": "disabled", "max_spans": 3}])
def test_answers_mention_spans_only_on_request(service: RunningService, asked: Any) -> None:
    assert "relevant_spans" not in service.rank(documents=[TWO], relevant_spans=asked).text


def test_the_threshold_of_spans_is_cohere_s_unless_a_request_says(service: RunningService) -> None:
    """Without a common word the score is below 0.1."""
    asked: list[dict[str, Any]] = [{}, {"threshold": None}, {"threshold": 0.1}, {"threshold": 0}]
    found = [service.rank(query="moon", documents=[TWO], relevant_spans=one).json() for one in asked]
    assert [len(one["results"][0]["relevant_spans"]) for one in found] == [0, 0, 0, 2]


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ({"mode": "on"}, "relevant_spans.mode is unknown; pass 'enabled' or 'disabled'"),
        ({"mode": True}, "relevant_spans.mode has the wrong type: boolean; pass 'enabled' or 'disabled'"),
        ({"unit": "word"}, "relevant_spans.unit is unknown; pass 'sentence' or 'passage'"),
        ({"threshold": 1.5}, "relevant_spans.threshold is out of range"),
        ({"max_spans": -1}, "relevant_spans.max_spans is negative"),
        (True, "relevant_spans has the wrong type: boolean; pass an object"),
        ([], "relevant_spans has the wrong type: array; pass an object"),
    ],
)
def test_wrong_fields_of_spans_are_named(service: RunningService, asked: Any, place: str) -> None:
    assert place in assert_problem(service.rank(relevant_spans=asked), 422)["message"]


def test_a_request_with_more_spans_than_pairs_are_allowed_is_refused() -> None:
    lines = "\n".join(f"- item {number}" for number in range(9))
    with running_service(max_pairs=10) as small:
        assert len(small.rank(documents=[lines], relevant_spans={}).json()["results"]) == 1
        refused = small.rank(documents=[lines, lines], relevant_spans={})
        assert small.rank(documents=[lines, lines], top_n=1, relevant_spans={}).status_code == 200
    message = (
        "too many relevant spans: 18 spans to score, at most 10 are allowed; return fewer documents (`top_n`)"
    )
    assert message in assert_problem(refused, 422)["message"]


LONG = " ".join(f"word{number}" for number in range(60))
LIMITS = ("max_tokens_per_doc", "max_tokens_per_query", "truncate_prompt_tokens", "max_chunks_per_doc")


@pytest.mark.parametrize("name", LIMITS)
def test_no_limit_of_tokens_is_zero_null_or_minus_one(service: RunningService, name: str) -> None:
    body: dict[str, Any] = {"query": LONG, "documents": [LONG], "return_pairs": True}
    values: list[Any] = [None, 0, -1, "0", 4096, "4096", 1 << 40, 512.0]
    answers = [service.rank(**body, **{name: value}).json()["pairs"] for value in values]
    assert answers == [service.rank(**body).json()["pairs"]] * len(values)


@pytest.mark.parametrize("name", LIMITS[:3])
def test_longer_texts_are_truncated_to_the_limits_of_a_request(service: RunningService, name: str) -> None:
    """The model-free scorer counts words; `truncate: false` refuses what a limit would truncate."""
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/rerank", {"query": LONG, "documents": ["a fox", LONG], "return_pairs": True}),
        ("/rerank", {"queries": ["fox", LONG], "documents": [["a fox"], [LONG]], "return_pairs": True}),
        ("/score", {"text_1": LONG, "text_2": ["a fox", LONG]}),
    ]
    limits = {name: 70 if name == "truncate_prompt_tokens" else 10}
    with service.client() as client:
        for path, body in bodies:
            answer = client.post(path, json=body | limits)
            assert answer.status_code == 200
            flag = "query_truncated" if name == "max_tokens_per_query" else "truncated"
            assert f'"{flag}":true' in answer.text
            assert f'"{flag}":true' not in client.post(path, json=body).text
            if flag == "truncated":
                refused = client.post(path, json=body | limits | {"truncate": False})
                assert "too long" in assert_problem(refused, 422)["message"]


def test_a_limit_of_a_request_changes_the_text_that_is_scored(service: RunningService) -> None:
    body: dict[str, Any] = {"query": "whale", "documents": ["a red fox and a whale", "whale"]}
    scores = service.rank(**body, max_tokens_per_doc=3).json()["scores"]
    assert scores == service.rank(query="whale", documents=["a red fox", "whale"]).json()["scores"]


@pytest.mark.parametrize("value", [-2, "ten", True, 1.5])
def test_a_token_limit_of_another_kind_is_refused(service: RunningService, value: Any) -> None:
    assert "max_tokens_per_doc" in assert_problem(service.rank(max_tokens_per_doc=value), 422)["message"]


@pytest.mark.parametrize("path", ["/reranking", "/v1/reranking"])
def test_the_addresses_of_llama_cpp_rank(service: RunningService, path: str) -> None:
    with service.client() as client:
        answer = client.post(path, json={"query": "blue whale", "documents": DOCUMENTS})
    assert answer.json()["results"][0]["index"] == 1


def test_a_model_is_found_by_its_name_with_a_slash_or_without() -> None:
    name = "Qwen/Qwen3-Reranker-0.6B"
    with running_service(model_name=name, strict_model=True) as running, running.client() as client:
        (listed,) = client.get("/models").json()["data"]
        assert listed["id"] == name
        for spelled in (name, name.replace("/", "%2F")):
            assert client.get(f"/v1/models/{spelled}").json() == listed
        assert_problem(client.get("/v1/models/another"), 404)
    with running_service() as running, running.client() as client:
        assert client.get("/v1/models/any/name").json()["id"] == "lexical"


@pytest.mark.parametrize("default", [True, False])
def test_documents_are_echoed_as_configured_unless_a_request_says(default: bool) -> None:
    bodies: list[dict[str, Any]] = [
        {"query": "fox", "documents": DOCUMENTS},
        {"query": "fox", "documents": DOCUMENTS, "top_k": 3},
        {"query": "fox", "texts": DOCUMENTS},
        {"input": {"query": "fox", "documents": DOCUMENTS}},
    ]
    flags = ["return_documents", "return_documents", "return_text", ""]
    with running_service(return_documents=default) as running, running.client() as client:
        for body, flag in zip(bodies, flags, strict=True):
            assert ("a fox" in client.post("/rerank", json=body).text) is default
            for wanted in (True, False):
                asked = body | ({flag: wanted} if flag else {"parameters": {"return_documents": wanted}})
                assert ("a fox" in client.post("/rerank", json=asked).text) is wanted


def access_fields(caplog: pytest.LogCaptureFixture, route: str) -> dict[str, Any]:
    def found() -> list[logging.LogRecord]:
        return [one for one in caplog.records if getattr(one, "route", "") == route]

    wait_for(found)
    return vars(found()[-1])


def test_keys_are_named_by_their_digest_in_the_log_and_in_the_metrics(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEYS", "first-key,second-key")
    ids = [hashlib.sha256(key.encode()).hexdigest()[:8] for key in ("first-key", "second-key")]
    body = {"query": "blue whale", "documents": DOCUMENTS}
    with (
        running_service(api_keys_env="SOME_KEYS") as running,
        running.client() as client,
        caplog.at_level("INFO"),
    ):
        for key in ("first-key", "second-key", "second-key"):
            answer = client.post("/v2/rerank", json=body, headers={"Authorization": f"Bearer {key}"})
        assert access_fields(caplog, "/v2/rerank")["key"] == ids[1]
        assert client.post("/v2/rerank", json=body, headers={"X-API-Key": "third-key"}).status_code == 401
        found = samples_by_key(client.get("/metrics", headers={"X-API-Key": "first-key"}).text)
    tokens = answer.json()["usage"]["total_tokens"]
    assert found["rerank_key_documents_total"] == {ids[0]: 3.0, ids[1]: 6.0}
    assert found["rerank_key_tokens_total"] == {ids[0]: tokens, ids[1]: 2 * tokens}
    assert found["rerank_key_requests_total"] == {ids[0]: 1.0, ids[1]: 2.0}
    assert "first-key" not in caplog.text


def samples_by_key(text: str) -> dict[str, dict[str, float]]:
    from tests.service.test_observability import samples

    found: dict[str, dict[str, float]] = {}
    for (name, labels), value in samples(text).items():
        if name.startswith("rerank_key_") and name.endswith("_total"):
            found.setdefault(name, {})[dict(labels)["key"]] = value
    return found


def test_without_keys_there_are_no_metrics_of_keys(service: RunningService) -> None:
    service.rank()
    assert not [name for name, _ in scraped(service) if name.startswith("rerank_key_")]
    assert not KeyRing(())


@pytest.mark.parametrize(
    ("proxies", "forwarded", "logged"),
    [
        (("127.0.0.1",), "203.0.113.7", "203.0.113.7"),
        (("127.0.0.0/8",), "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        (("127.0.0.1",), "secret text", None),
        (("10.0.0.0/8",), "203.0.113.7", "127.0.0.1"),
        ((), "203.0.113.7", None),
    ],
)
def test_the_client_s_address_is_logged_behind_a_configured_proxy_alone(
    caplog: pytest.LogCaptureFixture, proxies: tuple[str, ...], forwarded: str, logged: str | None
) -> None:
    with running_service(trusted_proxies=proxies) as running, caplog.at_level("INFO"):
        with running.client(headers={"X-Forwarded-For": forwarded}) as client:
            client.get("/info")
        fields = access_fields(caplog, "/info")
    assert "secret" not in str(fields)
    if logged is not None or not proxies:
        assert fields.get("client") == logged
