"""A scorer that takes its time: a job's calls to the service's own reranker, behind everybody who waits for an answer.

Requests of people come first in three ways. A call of a job waits while any of them is inside the gate, but not longer
than `YIELD_S`, so that a job goes on under any load. It is no larger than about a batch of the engine, and few of them
are under way at once; so the scheduler, which shares by size, has little of a job in its queue. And where the queue
is full, it is the job that waits and asks again.

It also outlives the engine: while that is mended, or built anew, a job waits. It knows neither files nor HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

from qwen_rerank_plugins.errors import (
    ClosedError,
    DeadlineExceededError,
    EngineError,
    NonFiniteScoreError,
    OverloadedError,
    RemoteError,
    RemoteStatusError,
    RerankError,
)
from qwen_rerank_plugins.service.admission import AdmissionController
from qwen_rerank_plugins.service.lifecycle import Lifecycle
from qwen_rerank_plugins.types import PairScore, ScoreRequest

__all__ = ["BackgroundScorer"]

T = TypeVar("T")

YIELD_S = 0.5
STOP_EVERY_S = 0.1
LOOK_EVERY_S = 0.01
RETRY_S = 0.25
MAX_RETRY_S = 5.0
FAILURES = 8  # of one call, before it is believed that it is the call's own
DEADLINE_S = 3600.0

BYTES_PER_TOKEN = 4
PAIR_TOKENS = 64  # of the template and the query, roughly
DEFAULT_SLICE_TOKENS = 8192  # where the scorer does not tell its batches

_PASSING = (EngineError, ClosedError, RemoteError, DeadlineExceededError)
_OWN_FAULT = range(400, 500)
_BUSY = {408, 425, 429}


class BackgroundScorer:
    """Scores for one job, on an event loop of its own or none.

    Args:
        lifecycle: Owns the reranker that scores; it is closed and replaced there.
        gate: Knows how many people wait.
        loop: The service's event loop, for what must happen there.
        stop: Whether the job is to end.
        count: Is told how many pairs were scored.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        gate: AdmissionController,
        *,
        loop: asyncio.AbstractEventLoop,
        stop: Callable[[], bool],
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._lifecycle, self._gate, self._loop = lifecycle, gate, loop
        self._stop, self._count = stop, count
        self._failure: RerankError | None = None

    @property
    def model(self) -> str:
        """The name under which scores are reported."""
        return self._lifecycle.reranker.model

    def info(self) -> dict[str, Any]:
        """What is loaded."""
        return self._lifecycle.reranker.info()

    def close(self) -> None:
        """Nothing: the reranker is the service's."""

    def score(self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None) -> list[PairScore]:
        """Score without an event loop: in a thread, on one that lives as long as the call."""
        return asyncio.run(self.ascore(requests, deadline_s=deadline_s))

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,  # noqa: ARG002 (a job has none)
    ) -> list[PairScore]:
        """Score slice by slice, each when nobody waits.

        Raises:
            ClosedError: The job is to end.
            RerankError: A slice cannot be scored, now or later.
        """
        scores: list[PairScore] = []
        for part in slices(requests, self._slice_tokens()):
            await self._stand_back()
            scores += await self._score_patiently(part)
            self._count(len(part))
        return scores

    def _slice_tokens(self) -> int:
        return int(self._lifecycle.loaded_info.get("max_batch_tokens") or DEFAULT_SLICE_TOKENS)

    async def _stand_back(self) -> None:
        """Wait until nobody else waits, or it was long enough."""
        end = time.monotonic() + YIELD_S
        self._check_stop()
        while self._gate.pending_requests and time.monotonic() < end:
            await asyncio.sleep(LOOK_EVERY_S)
            self._check_stop()

    async def _score_patiently(self, requests: Sequence[ScoreRequest]) -> list[PairScore]:
        failures, pause_s = 0, RETRY_S
        while True:
            await self._until_ready()
            try:
                return await self._unless_stopped(self._score_once(requests))
            except OverloadedError as error:
                await self._pause(min(max(error.retry_after_s, LOOK_EVERY_S), MAX_RETRY_S))
            except _PASSING as error:
                failures += 1
                self._loop.call_soon_threadsafe(self._lifecycle.note, error)
                if failures >= FAILURES or _stays(error):
                    self._failure = error
                    raise
                await self._pause(pause_s)
                pause_s = min(2 * pause_s, MAX_RETRY_S)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work, but withdraw it when the job is to end: what is not yet computed then leaves the queue."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=STOP_EVERY_S))[0]:
                self._check_stop()
            return task.result()
        finally:
            task.cancel()

    async def _until_ready(self) -> None:
        while self._lifecycle.state != "ready":
            self._check_stop()
            await asyncio.sleep(LOOK_EVERY_S)
        self._check_stop()

    async def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._check_stop()
            await asyncio.sleep(LOOK_EVERY_S)

    def _check_stop(self) -> None:
        if self._failure is not None:  # of a call beside this one: the job has ended
            raise self._failure
        if self._stop():
            raise ClosedError("the job was stopped")

    async def _score_once(self, requests: Sequence[ScoreRequest]) -> list[PairScore]:
        """Ask the reranker, for each instruction with the queries that follow one another."""
        scores: list[PairScore] = []
        for instruction, same in groupby(requests, key=lambda request: request.instruction):
            queries, documents = _lists(same)
            results = await self._lifecycle.reranker.arank_many(
                queries,
                documents,
                top_n=None,
                min_score=None,
                instruction=instruction,
                deadline_s=DEADLINE_S,
            )
            scores += [score for result in results for score in result.scores]
        return scores


def slices(requests: Sequence[ScoreRequest], max_tokens: int) -> Iterator[Sequence[ScoreRequest]]:
    """Cut requests into pieces of about so many tokens, of at least one request each."""
    start, tokens = 0, 0
    for place, request in enumerate(requests):
        size = PAIR_TOKENS + len(request.document.encode("utf-8", "replace")) // BYTES_PER_TOKEN
        if tokens and tokens + size > max_tokens:
            yield requests[start:place]
            start, tokens = place, 0
        tokens += size
    if start < len(requests):
        yield requests[start:]


def _lists(requests: Iterator[ScoreRequest]) -> tuple[list[str], list[list[str]]]:
    queries: list[str] = []
    documents: list[list[str]] = []
    for query, same in groupby(requests, key=lambda request: request.query):
        queries.append(query)
        documents.append([request.document for request in same])
    return queries, documents


def _stays(error: RerankError) -> bool:
    """Whether the same call would fail again."""
    if isinstance(error, RemoteStatusError):
        return error.status in _OWN_FAULT and error.status not in _BUSY
    return isinstance(error, NonFiniteScoreError)
