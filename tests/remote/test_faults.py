"""Faults of services and the errors that callers get. Every wait is bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from qwen_rerank_plugins import (
    DeadlineExceededError,
    RemoteConnectionError,
    RemoteError,
    RemoteProtocolError,
    RemoteStatusError,
    RerankConfig,
    RerankError,
    ScoreRequest,
)
from qwen_rerank_plugins.remote import RemoteScorer
from tests.remote import servers
from tests.remote.servers import Fault, Service, serving

pytestmark = pytest.mark.loopback

SECRET = "the merger with Globex is planned for the ninth of May"
REQUESTS = [ScoreRequest("the secret question of the board", f"0.{number} {SECRET}") for number in (2, 8)]
KEY = "sk-0123456789abcdef"


@contextmanager
def scorer_of(service: Service, **settings: Any) -> Iterator[RemoteScorer]:
    values = {
        "backend": "remote",
        "base_url": service.url,
        "dialect": service.dialect,
        "retries": 0,
        "timeout_s": 5.0,
        "api_key": KEY,
        **settings,
    }
    scorer = RemoteScorer(RerankConfig(**values))
    try:
        yield scorer
    finally:
        scorer.close()


def call(scorer: RemoteScorer, blocking: bool, deadline_s: float | None) -> None:
    if blocking:
        scorer.score(REQUESTS, deadline_s=deadline_s)
    else:
        asyncio.run(scorer.ascore(REQUESTS, deadline_s=deadline_s))


def outcome(scorer: RemoteScorer, *, blocking: bool = True, deadline_s: float | None = None) -> RerankError:
    """The error that a call ends with."""
    with pytest.raises(RerankError) as caught:
        call(scorer, blocking, deadline_s)
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


# Answers that are none.

ECHO = json.dumps({"results": [], "input": [request.document for request in REQUESTS], "key": KEY}).encode()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            servers.content(b"<html><body>502 Bad Gateway</body>"),
            "it is HTML or XML, not JSON; it begins '<html>",
        ),
        (servers.content(b""), "it is empty"),
        (servers.content(b'{"results": [{"index": 0'), "it is not JSON"),
        (servers.content(b'{"results": [{"index": 0, "relevance_score": NaN}, {}]}'), "is not finite: nan"),
        (
            servers.content(b'{"detail": "no model"}'),
            "its keys: 'detail'; it begins '{\"detail\": \"no model\"}'",
        ),
        (servers.content(ECHO), "it holds 0 scores for 2 documents; it begins"),
        (servers.content(gzip.compress(b"[]"), Content_Encoding="gzip"), "it is compressed"),
        (servers.flood, "it is longer than"),
    ],
)
@pytest.mark.parametrize("blocking", [True, False])
def test_an_answer_that_cannot_be_used_says_what_is_wrong_with_it(
    fault: Fault, message: str, blocking: bool
) -> None:
    with serving("jina") as service, scorer_of(service, retries=2) as scorer:
        service.always = fault
        error = outcome(scorer, blocking=blocking)
        assert isinstance(error, RemoteProtocolError)
        assert message in str(error)
        assert f"the answer of '{service.url}/v1/rerank' does not follow the jina dialect" in str(error)
        assert len(service.seen) == 1, "a bad answer is not asked for again"


def test_the_excerpt_of_an_answer_is_short() -> None:
    with serving("jina") as service, scorer_of(service) as scorer:
        service.always = servers.content(b"word " * 10_000)
        text = str(outcome(scorer))
    assert text.count("word") == 40


# Statuses.


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (400, "check dialect and model"),
        (401, "the key was rejected"),
        (403, "the key was rejected"),
        (404, "set base_url to the root of the service"),
        (413, "lower max_batch_documents"),
        (418, "its answer begins"),
        (422, "check dialect, model"),
        (424, "its answer begins"),
        (501, "its answer begins"),
    ],
)
def test_the_error_of_a_status_has_an_excerpt_of_the_answer(code: int, hint: str) -> None:
    with serving("qwen") as service, scorer_of(service, retries=3) as scorer:
        service.always = servers.status(code, {"message": "no such thing", "input": SECRET, "you": KEY})
        error = outcome(scorer)
        assert isinstance(error, RemoteStatusError)
        assert (error.status, error.retry_after_s, len(service.seen)) == (code, None, 1)
    assert f"status {code}: '{service.url}/rerank'" in str(error)
    assert hint in str(error)
    assert "no such thing" in str(error)


def test_without_a_key_a_401_says_that_it_is_missing() -> None:
    with serving("qwen") as service, scorer_of(service, api_key=None) as scorer:
        service.always = servers.status(401, b"")
        assert "no key was sent: set api_key, api_key_env or api_key_file" in str(outcome(scorer))


def test_a_redirect_is_not_followed_and_says_where_it_leads() -> None:
    with serving("qwen") as service, serving("qwen") as other, scorer_of(service) as scorer:
        service.always = servers.status(
            307, b"", Location=f"{other.url.replace('//', '//me:t0ken@')}/rerank?key=t0ken"
        )
        error = outcome(scorer)
        assert isinstance(error, RemoteStatusError)
        assert "redirects are not followed" in str(error)
        assert f"({f'{other.url}/rerank'!r})" in str(error)
        assert "t0ken" not in str(error)
        assert other.seen == []


@pytest.mark.parametrize("location", ["", "http://[bad", "/elsewhere"])
def test_a_redirect_to_nowhere_is_one_too(location: str) -> None:
    with serving("qwen") as service, scorer_of(service) as scorer:
        service.always = servers.status(302, b"", Location=location)
        error = outcome(scorer)
    assert isinstance(error, RemoteStatusError)
    assert "redirects are not followed" in str(error)
    assert ("('/elsewhere')" in str(error)) is (location == "/elsewhere")


def test_an_endless_error_page_is_cut() -> None:
    with serving("qwen") as service, scorer_of(service) as scorer:
        start = b"HTTP/1.1 400 Bad\r\nContent-Type: text/plain\r\n\r\n"
        service.always = servers.drip(start, b"no " * 10_000, every_s=0.001)
        error = outcome(scorer)
    assert isinstance(error, RemoteStatusError)
    assert len(str(error)) < 700


# New attempts.


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_says_not_now_is_tried_again(code: int) -> None:
    with serving("qwen") as service, scorer_of(service, retries=2) as scorer:
        service.faults.extend([servers.status(code), servers.status(code)])
        assert [one.relevance_score for one in scorer.score(REQUESTS)] == [0.2, 0.8]
        assert len(service.seen) == 3
        service.always = servers.status(code)
        error = outcome(scorer)
        assert isinstance(error, RemoteStatusError)
        assert (error.status, len(service.seen)) == (code, 6)


TRUNCATED = servers.raw(b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"results": [')


@pytest.mark.parametrize("fault", [servers.reset, servers.raw(b""), servers.raw(b"SSH-2.0-x\r\n"), TRUNCATED])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_lost_connection_is_tried_again(fault: Fault, blocking: bool) -> None:
    with serving("qwen") as service, scorer_of(service, retries=1) as scorer:
        service.faults.append(fault)
        assert len(scorer.score(REQUESTS)) == 2
        service.always = fault
        error = outcome(scorer, blocking=blocking)
        assert isinstance(error, RemoteConnectionError)
        assert f"cannot reach the service: '{service.url}/rerank'; attempt 2:" in str(error)
        assert len(service.seen) == 4


def test_a_refused_connection_is_a_connection_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with scorer_of(Service(url, "qwen"), retries=1) as scorer:
            error = outcome(scorer)
    assert isinstance(error, RemoteConnectionError)
    assert "attempt 2: ConnectError" in str(error)


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(as_date: bool) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    with serving("qwen") as service, scorer_of(service, retries=1) as scorer:
        service.faults.append(servers.status(429, Retry_After=date if as_date else "1"))
        started = time.perf_counter()
        assert len(scorer.score(REQUESTS)) == 2
    # A date has whole seconds: two of them ahead are at least one.
    assert 0.9 <= time.perf_counter() - started < 10


@pytest.mark.parametrize(("timeout_s", "deadline_s"), [(20.0, None), (60.0, 2.0)])
def test_a_retry_after_beyond_timeout_or_deadline_ends_the_call_with_the_service_s_error(
    timeout_s: float, deadline_s: float | None
) -> None:
    """Waiting would end with a timeout, which is less specific than status 429."""
    with serving("qwen") as service, scorer_of(service, retries=5, timeout_s=timeout_s) as scorer:
        service.always = servers.status(429, Retry_After="30")
        error = outcome(scorer, deadline_s=deadline_s)
        assert isinstance(error, RemoteStatusError)
        assert (error.status, error.retry_after_s, len(service.seen)) == (429, 30.0, 1)


def test_waits_grow_and_are_random() -> None:
    waits = []
    for _ in range(6):
        with serving("qwen") as service, scorer_of(service, retries=2) as scorer:
            service.always = servers.status(503)
            started = time.perf_counter()
            outcome(scorer)
            waits.append(time.perf_counter() - started)
    assert max(waits) < 0.25 + 0.5 + 3.0
    assert len({round(wait, 2) for wait in waits}) > 1


# Time.

HEADERS = servers.drip(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x")
BODY = servers.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" ")


@pytest.mark.parametrize("fault", [servers.hang, HEADERS, BODY], ids=["silent", "slow headers", "slow body"])
@pytest.mark.parametrize("blocking", [True, False])
def test_no_service_holds_a_caller_longer_than_the_timeout(fault: Fault, blocking: bool) -> None:
    with serving("qwen") as service, scorer_of(service, timeout_s=0.3, retries=3) as scorer:
        service.always = fault
        started = time.perf_counter()
        error = outcome(scorer, blocking=blocking)
        assert time.perf_counter() - started < 5
        assert isinstance(error, RemoteConnectionError)
        assert "did not answer in time" in str(error)
        assert "timeout_s is 0.3" in str(error)
        assert len(service.seen) == 1, "a request that is still being worked on is not sent again"


@pytest.mark.parametrize(
    "fault", [servers.hang, HEADERS, BODY, None], ids=["silent", "headers", "body", "late"]
)
@pytest.mark.parametrize("blocking", [True, False])
def test_no_service_holds_a_caller_longer_than_the_deadline(fault: Fault | None, blocking: bool) -> None:
    with serving("qwen") as service, scorer_of(service, timeout_s=30.0) as scorer:
        service.always, service.delay_s = fault, 20.0
        started = time.perf_counter()
        error = outcome(scorer, blocking=blocking, deadline_s=0.3)
        assert time.perf_counter() - started < 5
        assert isinstance(error, DeadlineExceededError)
        assert "deadline_s is 0.3" in str(error)


def test_the_deadline_holds_for_calls_that_wait_for_their_turn() -> None:
    with serving("qwen") as service, scorer_of(service, max_concurrency=1, max_batch_documents=1) as scorer:
        service.faults.append(servers.hang)
        started = time.perf_counter()
        assert isinstance(outcome(scorer, deadline_s=1.0), DeadlineExceededError)
        assert time.perf_counter() - started < 5
        assert len(service.seen) == 1


def test_new_attempts_end_with_the_timeout() -> None:
    with serving("qwen") as service, scorer_of(service, timeout_s=0.6, retries=1000) as scorer:
        service.always = servers.status(503)
        started = time.perf_counter()
        error = outcome(scorer)
        assert time.perf_counter() - started < 5
        assert isinstance(error, RemoteStatusError), "the last answer says more than that time is up"


def test_one_failed_call_ends_the_others() -> None:
    requests = [ScoreRequest("q", f"0.{number}") for number in range(1, 9)]
    with serving("qwen") as service, scorer_of(service, max_batch_documents=1, max_concurrency=2) as scorer:
        service.faults.append(servers.status(400))
        service.always = servers.hang
        started = time.perf_counter()
        with pytest.raises(RemoteError, match="status 400"):
            scorer.score(requests)
        assert time.perf_counter() - started < 5
        assert len(service.seen) <= 3


def test_after_any_fault_the_next_call_works() -> None:
    with serving("qwen") as service, scorer_of(service, timeout_s=0.3) as scorer:
        for fault in (servers.reset, servers.hang, servers.flood, TRUNCATED, servers.status(500), BODY):
            service.faults.append(fault)
            outcome(scorer)
            assert [one.relevance_score for one in scorer.score(REQUESTS)] == [0.2, 0.8]
