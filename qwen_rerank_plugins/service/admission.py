"""Admission control: the total work that the service accepts, and the limits of a single request.

Admission must be fast under any load, so it estimates a body's tokens as a quarter of its bytes, before parsing. It
knows no HTTP and no scorer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from qwen_rerank_plugins.service.errors import BodyError, Problem, ProblemError, overloaded
from qwen_rerank_plugins.service.schemas.dialect import RankingRequest
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["AdmissionController", "Throughput", "check_limits", "estimate_tokens"]

BYTES_PER_TOKEN = 4  # for English, and about for Chinese in UTF-8; escaped Chinese has more
REQUEST_TOKENS = 32  # cost of a request in addition to its text
HALF_LIFE_S = 5.0
MIN_BUSY_S = 0.5  # of observation before the throughput is used


def estimate_tokens(num_bytes: int) -> int:
    """Return the estimated number of tokens of a body."""
    return REQUEST_TOKENS + num_bytes // BYTES_PER_TOKEN


class Throughput:
    """Recent tokens per second of busy time, with exponential decay.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._busy_s = 0.0
        self._tokens = 0.0

    def advance(self, *, busy: bool) -> None:
        """Account for the time since the last call, during which the service was busy or idle."""
        now = self._clock()
        elapsed, self._last = now - self._last, now
        if busy:  # idle time says nothing about throughput, so nothing decays
            decay = math.exp2(-elapsed / HALF_LIFE_S)
            self._busy_s = self._busy_s * decay + elapsed
            self._tokens *= decay

    def add(self, tokens: int) -> None:
        """Add completed tokens."""
        self._tokens += tokens

    @property
    def tokens_per_s(self) -> float | None:
        """The throughput, or None before `MIN_BUSY_S` of observation."""
        return self._tokens / self._busy_s if self._busy_s >= MIN_BUSY_S and self._tokens else None


class AdmissionController:
    """Accepts or rejects a request before it is processed, and counts accepted requests until they are answered.

    An idle service accepts any request. Otherwise a request is rejected if the pending tokens, including its own,
    would exceed `max_pending_tokens`, or would take longer than `max_wait_s` at the recent throughput.

    Args:
        settings: The limits.
        clock: Returns seconds.

    Attributes:
        pending_requests: Accepted requests that are not yet answered.
        pending_tokens: Their estimated tokens.
        pending_bytes: Bytes of bodies that are being received or processed.
        accepted: Total number of accepted requests.
        answered: Those that were answered, including with an error.
        cancelled: Those whose client disconnected first.
        idle: Set while no request is pending.
    """

    def __init__(self, settings: ServiceSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.pending_requests = self.pending_tokens = self.pending_bytes = 0
        self.accepted = self.answered = self.cancelled = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._settings = settings
        self._throughput = Throughput(clock)

    def check(self, num_bytes: int) -> None:
        """Reject a request that cannot be accepted now.

        Raises:
            ProblemError: With status 429.
        """
        self._check_bytes(num_bytes)
        self._check_tokens(num_bytes)

    def _check_bytes(self, num_bytes: int) -> None:
        if self.pending_bytes + num_bytes > self._settings.max_pending_bytes and self.pending_bytes:
            raise ProblemError(overloaded("too many pending bytes; retry later", 1.0, reason="bytes"))

    def _check_tokens(self, num_bytes: int) -> None:
        self._throughput.advance(busy=self.pending_requests > 0)
        if not self.pending_requests:
            return
        wait_s = self.expected_wait_s(estimate_tokens(num_bytes))
        tokens = self.pending_tokens + estimate_tokens(num_bytes)
        excess = tokens - self._settings.max_pending_tokens
        if excess > 0:
            seconds = 1.0 if wait_s is None else wait_s * min(1.0, excess / tokens)
            raise ProblemError(overloaded("too many pending tokens; retry later", seconds, reason="tokens"))
        if wait_s is not None and wait_s > self._settings.max_wait_s:
            message = "the expected wait is too long; retry later"
            raise ProblemError(overloaded(message, wait_s - self._settings.max_wait_s, reason="wait"))

    def expected_wait_s(self, tokens: int) -> float | None:
        """Return the seconds until so many more tokens are done, at the recent throughput; None if it is unknown."""
        tokens_per_s = self._throughput.tokens_per_s
        return None if tokens_per_s is None else (self.pending_tokens + tokens) / tokens_per_s

    @contextmanager
    def reserve_bytes(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of a body while it is in memory. The yielded function adds bytes, or rejects them."""
        held = 0

        def add(num_bytes: int) -> None:
            nonlocal held
            self._check_bytes(num_bytes)
            held += num_bytes
            self.pending_bytes += num_bytes

        try:
            yield add
        finally:
            self.pending_bytes -= held

    def enter(self, num_bytes: int) -> Slot:
        """Accept a request whose bytes are counted, or reject it as `check` does."""
        self._check_tokens(num_bytes)
        tokens = estimate_tokens(num_bytes)
        self.accepted += 1
        self.pending_requests += 1
        self.idle.clear()
        self.pending_tokens += tokens
        return Slot(self, tokens)

    def leave(self, tokens: int, *, answered: bool, scored: bool) -> None:
        """Remove an answered or cancelled request from the counters."""
        self._throughput.advance(busy=True)
        if scored:
            self._throughput.add(tokens)
        self.pending_requests -= 1
        if not self.pending_requests:
            self.idle.set()
        self.pending_tokens -= tokens
        self.answered += answered
        self.cancelled += not answered


@dataclass(slots=True)
class Slot:
    """The slot of an accepted request, released exactly once by its context manager.

    Attributes:
        scored: Whether its documents were scored, so that its tokens count for the throughput.
        answered: False if its client disconnected.
    """

    admission: AdmissionController
    tokens: int
    scored: bool = False
    answered: bool = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.admission.leave(self.tokens, answered=self.answered, scored=self.scored)


def check_limits(request: RankingRequest, settings: ServiceSettings) -> None:
    """Reject a request that exceeds the limits.

    Raises:
        ProblemError: With status 413: too many documents.
        BodyError: With status 422: a text is too long.
    """
    _check_number("documents in a list", max(map(len, request.documents)), settings.max_documents)
    _check_number("pairs", request.num_pairs, settings.max_pairs)
    _check_chars("instruction", request.instruction or "", settings.max_query_chars)
    for index, query in enumerate(request.queries):
        _check_chars(f"query {index}", query, settings.max_query_chars)
    for number, documents in enumerate(request.documents):
        place = f"list {number}, document" if len(request.documents) > 1 else "document"
        for index, document in enumerate(documents):
            _check_chars(f"{place} {index}", document, settings.max_document_chars)


def _check_number(what: str, number: int, limit: int) -> None:
    if number > limit:
        message = f"too many {what}: {number!r}; send at most {limit!r}"
        raise ProblemError(Problem(413, message, reason="documents"))


def _check_chars(place: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise BodyError(f"{place} is too long: {len(text)!r} characters; send at most {limit!r}")
