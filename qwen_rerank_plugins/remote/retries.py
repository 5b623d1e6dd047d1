"""Which failures are worth a new attempt, when, and how often. Knows no HTTP client and waits for nothing itself."""

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

__all__ = ["RETRIED_STATUSES", "attempts", "is_worth_another_try", "parse_retry_after"]

logger = logging.getLogger(__name__)

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that say "not now". Everything else below 500 says that the request is wrong, and would stay so."""

# Full jitter: any wait from none to the exponential bound, so that clients that failed together do not come back so.
_BACKOFF = wait_random_exponential(multiplier=0.25, max=8.0)
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def attempts(*, retries: int, budget_s: float) -> AsyncRetrying:
    """Give the attempts at one call: the first, and new ones after a wait, as long as the wait ends in time.

    Args:
        retries: New attempts at most.
        budget_s: Seconds from the first attempt's start after which none may begin.
    """
    return AsyncRetrying(
        retry=retry_if_exception(is_worth_another_try),
        stop=stop_after_attempt(retries + 1) | stop_before_delay(max(budget_s, 0.0)),
        wait=_wait_s,
        sleep=asyncio.sleep,
        before_sleep=_log,
        reraise=True,
    )


def is_worth_another_try(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, RemoteStatusError):
        return error.status in RETRIED_STATUSES
    return isinstance(error, RemoteConnectionError)


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Give a `Retry-After` header in seconds from now: of a number or an HTTP date; None for anything else."""
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": UTC, of an unknown place
        moment = moment.replace(tzinfo=UTC)
    return max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0)


def _wait_s(state: RetryCallState) -> float:
    """The service's own wish, if it has one, and a random wait on top of it."""
    error = state.outcome.exception() if state.outcome is not None else None
    wish = error.retry_after_s if isinstance(error, RemoteStatusError) else None
    return (wish or 0.0) + _BACKOFF(state)


def _log(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    reason = f"status {error.status}" if isinstance(error, RemoteStatusError) else type(error).__name__
    logger.info("attempt %d failed (%s): next in %.2f s", state.attempt_number, reason, state.upcoming_sleep)
