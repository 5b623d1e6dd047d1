"""A web page of an allowed origin can read every answer, also each error; a page of another origin can read none."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins.errors import (
    DeadlineExceededError,
    NonFiniteScoreError,
    OverloadedError,
    RequestError,
)
from tests.service.doubles import SteeredScorer
from tests.service.schemas.test_json_codec import assert_problem
from tests.service.servers import RunningService, running_service

pytestmark = pytest.mark.loopback

ORIGIN = "https://page.example"
KEY = "a-key"
BODY = {"query": "fox", "documents": ["a fox"]}
JSON = {"Content-Type": "application/json"}
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type",
}

# What the client does: the status, and how the request differs from one that is answered.
FAULTS: list[tuple[int, dict[str, Any]]] = [
    (400, {"content": "{"}),
    (401, {"headers": {"Authorization": "Bearer another-key"}}),
    (404, {"url": "/nothing"}),
    (405, {"method": "PUT"}),
    (413, {"content": " " * 10_001}),
    (415, {"headers": {"Content-Type": "text/plain"}}),
    (422, {"content": json.dumps({**BODY, "query": 5})}),
]
# What the scorer does.
FAILURES: list[tuple[int, Exception]] = [
    (429, OverloadedError("full", retry_after_s=2.0)),
    (503, RequestError("dropped")),
    (504, DeadlineExceededError("late")),
    (500, NonFiniteScoreError("NaN")),  # last, because the service then probes its engine
]


@pytest.fixture(scope="module")
def scorer() -> SteeredScorer:
    return SteeredScorer()


@pytest.fixture(scope="module")
def service(scorer: SteeredScorer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY, encoding="utf-8")
    settings: dict[str, Any] = {"max_body_bytes": 10_000, "receive_timeout_s": 0.5}
    with running_service(
        scorer=scorer, api_keys_file=str(keys), cors_origins=(ORIGIN,), **settings
    ) as running:
        yield running


def ask(service: RunningService, origin: str, **changes: Any) -> Any:
    """Send a request of a page, which is answered unless it is changed."""
    headers = {"Origin": origin, "Authorization": f"Bearer {KEY}", **JSON, **changes.pop("headers", {})}
    request = {"method": "POST", "url": "/rerank", "content": json.dumps(BODY), **changes}
    with service.client() as client:
        return client.request(headers=headers, **request)


def assert_readable(answer: Any) -> None:
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_page_reads_the_answer(service: RunningService) -> None:
    answer = ask(service, ORIGIN)
    assert answer.status_code == 200
    assert_readable(answer)
    assert "access-control-allow-origin" not in ask(service, "https://other.example").headers


@pytest.mark.parametrize(("status", "changes"), FAULTS, ids=[str(status) for status, _ in FAULTS])
def test_a_page_reads_what_was_wrong_with_its_request(
    service: RunningService, status: int, changes: dict[str, Any]
) -> None:
    answer = ask(service, ORIGIN, **changes)
    assert_problem(answer, status)
    assert_readable(answer)
    other = ask(service, "https://other.example", **changes)
    assert_problem(other, status)
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(("status", "error"), FAILURES, ids=[type(error).__name__ for _, error in FAILURES])
def test_a_page_reads_what_failed(
    service: RunningService, scorer: SteeredScorer, status: int, error: Exception
) -> None:
    scorer.error, scorer.num_errors = error, 1
    answer = ask(service, ORIGIN)
    assert_problem(answer, status)
    assert_readable(answer)


def test_a_page_reads_that_there_was_an_unexpected_error(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> bytes:
        raise KeyError("unexpected")

    monkeypatch.setattr(service.service.metrics, "render", fail)
    answer = ask(service, ORIGIN, method="GET", url="/metrics")
    assert_problem(answer, 500)
    assert_readable(answer)


def test_a_page_reads_that_its_body_was_too_slow(service: RunningService) -> None:
    head = f"POST /rerank HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
        raw.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{".encode())
        answer = HTTPResponse(raw)
        answer.begin()
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (408, ORIGIN)


def test_a_page_reads_that_a_job_does_not_exist(tmp_path: Path) -> None:
    with running_service(jobs_folder=str(tmp_path / "jobs"), cors_origins=(ORIGIN,)) as running:
        answer = ask(running, ORIGIN, method="DELETE", url="/v1/jobs/none")
        assert_problem(answer, 404)
        assert_readable(answer)


def test_a_page_reads_that_the_host_name_is_not_accepted() -> None:
    with running_service(cors_origins=(ORIGIN,)) as running:
        answer = ask(running, ORIGIN, headers={"Host": "evil.example"})
        assert_problem(answer, 400)
        assert_readable(answer)


def test_a_preflight_needs_no_key_and_has_an_id(service: RunningService) -> None:
    for url in ("/rerank", "/v1/rerank/", "/nothing"):
        answer = ask(
            service,
            ORIGIN,
            method="OPTIONS",
            url=url,
            headers={**PREFLIGHT, "Authorization": ""},
            content=b"",
        )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert {"authorization", "content-type"} <= {
            name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")
        }
        assert answer.headers["x-request-id"]
    refused = ask(service, "https://other.example", method="OPTIONS", headers=PREFLIGHT)
    assert "access-control-allow-origin" not in refused.headers
