"""The outcome of every request: one answer, or a cancellation by its own client."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.soak.requests import TOLERANCE, Request

PAUSE_AFTER_ERROR_S = 0.2


@dataclass(slots=True)
class Window:
    """A period in which a fault explains some statuses."""

    statuses: Collection[int]
    start_s: float
    end_s: float = math.inf


@dataclass(slots=True)
class Ledger:
    """Counts requests and checks their answers.

    Attributes:
        num_sent: Requests whose sending began.
        num_cancelled: Requests that their own client cancelled before an answer came.
        statuses: Number of answers of each status.
        problems: Requests without an answer, wrong scores, and statuses that no fault explains.
        max_difference: Largest difference of a score from the reference.
    """

    num_sent: int = 0
    num_cancelled: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    max_difference: float = 0.0
    _windows: list[Window] = field(default_factory=list)

    @property
    def num_answered(self) -> int:
        """Requests that were answered."""
        return self.statuses.total()

    @contextmanager
    def excused(self, *statuses: int) -> Iterator[None]:
        """Excuse answers with these statuses to requests that are open while the block runs."""
        window = Window(statuses, time.monotonic())
        self._windows.append(window)
        try:
            yield
        finally:
            window.end_s = time.monotonic()

    def is_excused(self, status: int, start_s: float) -> bool:
        """Return whether a fault explains a status of a request that was sent at `start_s`."""
        return any(status in window.statuses and window.end_s >= start_s for window in self._windows)

    async def send(self, http: httpx.AsyncClient, request: Request) -> None:
        """Send a request and check its answer; 429 is always an answer."""
        self.num_sent += 1
        start_s = time.monotonic()
        try:
            answer = await http.post(request.path, json=request.body, headers=request.headers)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        except httpx.TransportError as error:
            self.problems.append(f"{request.path}: no answer: {error!r}")
            return
        self.check(request, answer.status_code, answer.content, start_s)
        if answer.status_code != httpx.codes.OK:
            await asyncio.sleep(PAUSE_AFTER_ERROR_S)

    def check(self, request: Request, status: int, content: bytes, start_s: float) -> None:
        """Count an answer, and note what is wrong with it."""
        self.statuses[status] += 1
        if status == httpx.codes.OK:
            difference = request.difference(httpx.Response(status, content=content).json())
            self.max_difference = max(self.max_difference, difference)
            if not difference <= TOLERANCE:
                self.problems.append(f"{request.path}: scores differ by {difference!r}")
        elif status != httpx.codes.TOO_MANY_REQUESTS and not self.is_excused(status, start_s):
            self.problems.append(f"{request.path}: status {status} without a fault: {content[:200]!r}")
