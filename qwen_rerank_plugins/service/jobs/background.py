"""The scorer of jobs: calls the service's reranker at a lower priority than requests.

Requests take precedence in three ways. A job waits while any request is pending, but at most `YIELD_S`, so that it
progresses under any load. Its calls are about as large as a batch of the engine, with few at a time, so that little of
a job is in the scheduler's queue. And if the queue is full, the job waits and retries.

A job also waits while the engine recovers or is rebuilt. Nothing here knows files or HTTP.
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
STOP_POLL_S = 0.1
POLL_S = 0.01
RETRY_S = 0.25
MAX_RETRY_S = 5.0
FAILURES = 8  # of one call, after which the job fails
DEADLINE_S = 3600.0

BYTES_PER_TOKEN = 4
PAIR_TOKENS = 64  # estimate for template and query
DEFAULT_SLICE_TOKENS = 8192  # if the scorer does not report max_batch_tokens

_TRANSIENT = (EngineError, ClosedError, RemoteError, DeadlineExceededError)
_OWN_FAULT = range(400, 500)
_BUSY = {408, 425, 429}


class BackgroundScorer:
    """A `Scorer` for one job, for use outside the event loop of the service.

    Args:
        lifecycle: Owns the reranker.
        admission: Number of pending requests.
        loop: Event loop of the service, on which errors are reported.
        stop: Returns whether the job must stop.
        count: Called with the number of scored pairs.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        admission: AdmissionController,
        *,
        loop: asyncio.AbstractEventLoop,
        stop: Callable[[], bool],
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._lifecycle, self._admission, self._loop = lifecycle, admission, loop
        self._stop, self._count = stop, count
        self._failure: RerankError | None = None

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._lifecycle.reranker.model

    def info(self) -> dict[str, Any]:
        """Return information about the loaded model."""
        return self._lifecycle.reranker.info()

    def close(self) -> None:
        """Do nothing; the service owns the reranker."""

    def score(self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None) -> list[PairScore]:
        """Score without a running event loop, on a new one."""
        return asyncio.run(self.ascore(requests, deadline_s=deadline_s))

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,  # noqa: ARG002 (jobs have no deadline)
    ) -> list[PairScore]:
        """Score in slices, each when no request is pending.

        Raises:
            ClosedError: The job was stopped.
            RerankError: A slice failed permanently.
        """
        scores: list[PairScore] = []
        for part in split_by_tokens(requests, self._slice_tokens()):
            await self._yield_to_requests()
            scores += await self._score_with_retries(part)
            self._count(len(part))
        return scores

    def _slice_tokens(self) -> int:
        return int(self._lifecycle.loaded_info.get("max_batch_tokens") or DEFAULT_SLICE_TOKENS)

    async def _yield_to_requests(self) -> None:
        """Wait until no request is pending, but at most `YIELD_S`."""
        end = time.monotonic() + YIELD_S
        self._check_stop()
        while self._admission.pending_requests and time.monotonic() < end:
            await asyncio.sleep(POLL_S)
            self._check_stop()

    async def _score_with_retries(self, requests: Sequence[ScoreRequest]) -> list[PairScore]:
        failures, pause_s = 0, RETRY_S
        while True:
            await self._wait_until_ready()
            try:
                return await self._run_unless_stopped(self._score_once(requests))
            except OverloadedError as error:
                await self._pause(min(max(error.retry_after_s, POLL_S), MAX_RETRY_S))
            except _TRANSIENT as error:
                failures += 1
                self._loop.call_soon_threadsafe(self._lifecycle.report_error, error)
                if failures >= FAILURES or _is_permanent(error):
                    self._failure = error
                    raise
                await self._pause(pause_s)
                pause_s = min(2 * pause_s, MAX_RETRY_S)

    async def _run_unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work, and cancel it when the job is stopped, so that queued pairs leave the queue."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=STOP_POLL_S))[0]:
                self._check_stop()
            return task.result()
        finally:
            task.cancel()

    async def _wait_until_ready(self) -> None:
        while self._lifecycle.state != "ready":
            self._check_stop()
            await asyncio.sleep(POLL_S)
        self._check_stop()

    async def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._check_stop()
            await asyncio.sleep(POLL_S)

    def _check_stop(self) -> None:
        if self._failure is not None:  # of a concurrent call: the job has failed
            raise self._failure
        if self._stop():
            raise ClosedError("the job was stopped")

    async def _score_once(self, requests: Sequence[ScoreRequest]) -> list[PairScore]:
        """Call the reranker once per run of pairs with the same instruction."""
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


def split_by_tokens(requests: Sequence[ScoreRequest], max_tokens: int) -> Iterator[Sequence[ScoreRequest]]:
    """Split requests into slices of about `max_tokens`, with at least one request each."""
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


def _is_permanent(error: RerankError) -> bool:
    """Return whether the same call would fail again."""
    if isinstance(error, RemoteStatusError):
        return error.status in _OWN_FAULT and error.status not in _BUSY
    return isinstance(error, NonFiniteScoreError)
