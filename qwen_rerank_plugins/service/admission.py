"""How much is taken on: the gate before any work, and what one request may ask for.

The gate counts tokens before there are any, as a quarter of a body's bytes, because it must say no in a moment, under
any load. What it lets in is exactly accounted for until it is answered. It knows no HTTP and no scorer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from qwen_rerank_plugins.service.errors import Problem, ProblemError, overloaded
from qwen_rerank_plugins.service.schemas.request import BodyError, RankingRequest
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["AdmissionController", "Speed", "check_limits", "estimate_tokens"]

BYTES_PER_TOKEN = 4  # English text; JSON of Chinese text has about as many bytes a token, escaped ones more
REQUEST_TOKENS = 32  # what a request costs beside its text
HALF_LIFE_S = 5.0
MIN_BUSY_S = 0.5  # of observation, before a speed is believed


def estimate_tokens(num_bytes: int) -> int:
    """Tokens that a body of so many bytes will come to, roughly."""
    return REQUEST_TOKENS + num_bytes // BYTES_PER_TOKEN


class Speed:
    """Tokens a second while there is work, as of late.

    Older observations count half every few seconds, so that a stall is soon forgotten.

    Args:
        clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._busy_s = 0.0
        self._tokens = 0.0

    def pass_time(self, *, busy: bool) -> None:
        """Take note of the time since the last call, in which there was work or not."""
        now = self._clock()
        elapsed, self._last = now - self._last, now
        if busy:  # idle time says nothing of the speed, so it also forgets nothing
            decay = math.exp2(-elapsed / HALF_LIFE_S)
            self._busy_s = self._busy_s * decay + elapsed
            self._tokens *= decay

    def add(self, tokens: int) -> None:
        """Take note of work that was done."""
        self._tokens += tokens

    @property
    def tokens_per_s(self) -> float | None:
        """The speed, or None while too little was seen."""
        return self._tokens / self._busy_s if self._busy_s >= MIN_BUSY_S and self._tokens else None


class AdmissionController:
    """Says yes or no to a request before anything is done for it, and keeps the books of those inside.

    An empty service takes any one request. Otherwise it is refused when what is inside plus its own tokens would be
    above `max_pending_tokens`, or would at the recent speed take longer than `max_wait_s`.

    Args:
        settings: The limits.
        clock: Gives seconds.

    Attributes:
        pending_requests: Requests inside.
        pending_tokens: Their tokens, estimated.
        pending_bytes: Bytes of bodies that are being received or answered.
        accepted: Requests ever let in.
        answered: Those of them that got their answer, be it an error.
        cancelled: Those whose client left before.
    """

    def __init__(self, settings: ServiceSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.pending_requests = self.pending_tokens = self.pending_bytes = 0
        self.accepted = self.answered = self.cancelled = 0
        self._settings = settings
        self._speed = Speed(clock)

    def check(self, num_bytes: int) -> None:
        """Refuse what could not be let in now.

        Raises:
            ProblemError: With status 429.
        """
        self._check_bytes(num_bytes)
        self._check_tokens(num_bytes)

    def _check_bytes(self, num_bytes: int) -> None:
        if self.pending_bytes + num_bytes > self._settings.max_pending_bytes and self.pending_bytes:
            raise ProblemError(overloaded("too many bytes are waiting; try again later", 1.0, reason="bytes"))

    def _check_tokens(self, num_bytes: int) -> None:
        self._speed.pass_time(busy=self.pending_requests > 0)
        if not self.pending_requests:
            return
        wait_s = self.expected_wait_s(estimate_tokens(num_bytes))
        tokens = self.pending_tokens + estimate_tokens(num_bytes)
        excess = tokens - self._settings.max_pending_tokens
        if excess > 0:
            seconds = 1.0 if wait_s is None else wait_s * min(1.0, excess / tokens)
            raise ProblemError(
                overloaded("too many tokens are waiting; try again later", seconds, reason="tokens")
            )
        if wait_s is not None and wait_s > self._settings.max_wait_s:
            message = "the wait would be too long; try again later"
            raise ProblemError(overloaded(message, wait_s - self._settings.max_wait_s, reason="wait"))

    def expected_wait_s(self, tokens: int) -> float | None:
        """Seconds until so many more tokens would be done, at the recent speed; None while that is not known."""
        speed = self._speed.tokens_per_s
        return None if speed is None else (self.pending_tokens + tokens) / speed

    @contextmanager
    def held_bytes(self) -> Iterator[Callable[[int], None]]:
        """Account for a body while it is here; the function that is given adds bytes as they come, or refuses them."""
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
        """Let a request in whose bytes are held, or refuse it as `check` does."""
        self._check_tokens(num_bytes)
        tokens = estimate_tokens(num_bytes)
        self.accepted += 1
        self.pending_requests += 1
        self.pending_tokens += tokens
        return Slot(self, tokens)

    def leave(self, tokens: int, *, answered: bool, scored: bool) -> None:
        """Take a request off the books."""
        self._speed.pass_time(busy=True)
        if scored:
            self._speed.add(tokens)
        self.pending_requests -= 1
        self.pending_tokens -= tokens
        self.answered += answered
        self.cancelled += not answered


@dataclass(slots=True)
class Slot:
    """A request that was let in; it is given back exactly once, whatever happens.

    Attributes:
        scored: Whether its documents were scored, so that its tokens tell something of the speed.
        answered: False when its client left.
    """

    gate: AdmissionController
    tokens: int
    scored: bool = False
    answered: bool = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.gate.leave(self.tokens, answered=self.answered, scored=self.scored)


def check_limits(exchange: RankingRequest, settings: ServiceSettings) -> None:
    """Refuse a request that asks for more than the limits allow.

    Raises:
        ProblemError: With status 413, for too many documents.
        BodyError: With status 422, for a text that is too long.
    """
    _check_number("documents in a list", max(map(len, exchange.documents)), settings.max_documents)
    _check_number("pairs", exchange.num_pairs, settings.max_pairs)
    _check_chars("instruction", exchange.instruction or "", settings.max_query_chars)
    for index, query in enumerate(exchange.queries):
        _check_chars(f"query {index}", query, settings.max_query_chars)
    for number, documents in enumerate(exchange.documents):
        place = f"list {number}, document" if len(exchange.documents) > 1 else "document"
        for index, document in enumerate(documents):
            _check_chars(f"{place} {index}", document, settings.max_document_chars)


def _check_number(what: str, number: int, limit: int) -> None:
    if number > limit:
        message = f"too many {what}: {number!r}; allowed: at most {limit!r}"
        raise ProblemError(Problem(413, message, reason="documents"))


def _check_chars(place: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise BodyError(f"{place} is too long: {len(text)!r} characters; allowed: at most {limit!r}")
