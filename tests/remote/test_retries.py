from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import RetryCallState

from qwen_rerank_plugins import RemoteConnectionError, RemoteProtocolError, RemoteStatusError
from qwen_rerank_plugins.remote.retries import is_retryable, parse_retry_after, retrying

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 12:00:30 -0000", 30.0),
        ("Sun, 22 Nov 2026 13:00:30 +0100", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("9" * 400, None),
        ("soon", None),
        ("Sun, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=NOW) == seconds


def test_a_date_counts_from_now() -> None:
    assert parse_retry_after(format_datetime(datetime.now(UTC), usegmt=True)) == 0.0


@given(st.text(max_size=40))
def test_no_header_is_an_error(header: str) -> None:
    seconds = parse_retry_after(header)
    assert seconds is None or seconds >= 0


@given(st.floats(0.0, 60.0))
def test_the_wait_is_retry_after_plus_a_random_backoff(retry_after_s: float) -> None:
    """Clients that were refused at the same time do not retry at the same time."""
    policy = retrying(retries=3, budget_s=1000.0)
    state = RetryCallState(policy, None, (), {})
    state.set_exception(
        (RemoteStatusError, RemoteStatusError("no", status=429, retry_after_s=retry_after_s), None)
    )
    waits = [policy.wait(state) for _ in range(20)]
    assert min(waits) > retry_after_s
    assert len(set(waits)) > 1


@pytest.mark.parametrize(
    ("status", "again"),
    [
        *((status, True) for status in (408, 425, 429, 500, 502, 503, 504)),
        *(
            (status, False)
            for status in (301, 400, 401, 403, 404, 405, 409, 413, 415, 422, 424, 498, 501, 505)
        ),
    ],
)
def test_only_a_status_that_says_not_now_is_tried_again(status: int, again: bool) -> None:
    assert is_retryable(RemoteStatusError("no", status=status)) is again


def test_a_lost_connection_is_tried_again_and_a_bad_answer_is_not() -> None:
    assert is_retryable(RemoteConnectionError("lost"))
    assert not is_retryable(RemoteProtocolError("bad"))
    assert not is_retryable(ValueError("ours"))
