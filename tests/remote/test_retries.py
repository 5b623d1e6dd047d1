from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import RemoteConnectionError, RemoteProtocolError, RemoteStatusError
from qwen_rerank_plugins.remote.retries import is_worth_another_try, parse_retry_after

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
    assert is_worth_another_try(RemoteStatusError("no", status=status)) is again


def test_a_lost_connection_is_tried_again_and_a_bad_answer_is_not() -> None:
    assert is_worth_another_try(RemoteConnectionError("lost"))
    assert not is_worth_another_try(RemoteProtocolError("bad"))
    assert not is_worth_another_try(ValueError("ours"))
