"""Retry policy: which failures are retried, when, and how often. Knows no HTTP client."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from qwen_rerank_plugins.errors import RemoteConnectionError, RemoteStatusError

__all__ = ["RETRIED_STATUSES", "is_retryable", "parse_retry_after", "retrying"]

logger = logging.getLogger(__name__)

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Transient statuses. Any other status below 500 means that the request itself is wrong."""

# Full jitter: a wait between 0 and the exponential bound, so that clients that failed together do not retry together.
_BACKOFF = wait_random_exponential(multiplier=0.25, max=8.0)
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def retrying(*, retries: int, budget_s: float) -> AsyncRetrying:
    """Return the attempts of one call. A retry is made only if its wait ends within the budget.

    Args:
        retries: Maximum number of retries.
        budget_s: Seconds from the start of the first attempt within which a retry may start.
    """
    return AsyncRetrying(
        retry=retry_if_exception(is_retryable),
        stop=stop_after_attempt(retries + 1) | stop_before_delay(max(budget_s, 0.0)),
        wait=_wait_s,
        sleep=asyncio.sleep,
        before_sleep=_log,
        reraise=True,
    )


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, RemoteStatusError):
        return error.status in RETRIED_STATUSES
    return isinstance(error, RemoteConnectionError)


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return a `Retry-After` header, a number or an HTTP date, in seconds from now; None if it is neither."""
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": UTC without a time zone
        moment = moment.replace(tzinfo=UTC)
    return max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0)


def _wait_s(state: RetryCallState) -> float:
    """Return the wait before a retry: `Retry-After`, if the service sent it, plus a random backoff."""
    error = state.outcome.exception() if state.outcome is not None else None
    retry_after_s = error.retry_after_s if isinstance(error, RemoteStatusError) else None
    return (retry_after_s or 0.0) + _BACKOFF(state)


def _log(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    reason = f"status {error.status}" if isinstance(error, RemoteStatusError) else type(error).__name__
    logger.info(
        "attempt %d failed (%s); next attempt in %.2f s", state.attempt_number, reason, state.upcoming_sleep
    )
