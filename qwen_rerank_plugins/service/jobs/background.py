"""The scorer of jobs: calls the service's reranker with background priority, and repeats calls that fail.

The scheduler of a local model computes background calls after requests, in small batches. A remote service may ignore
the priority, so with one a call also waits while requests are pending, but at most `YIELD_S`, and a job progresses
under any load. A job also waits while the engine recovers or is rebuilt. Nothing here knows files or HTTP.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

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
from qwen_rerank_plugins.types import PairScore, Priority, ScoreRequest

__all__ = ["BackgroundScorer"]

YIELD_S = 0.5
RETRY_S = 0.25
MAX_RETRY_S = 5.0
FAILURES = 8  # of one call, after which the job fails
DEADLINE_S = 3600.0

_TRANSIENT = (EngineError, ClosedError, RemoteError, DeadlineExceededError)
_OWN_FAULT = range(400, 500)
_BUSY = {408, 425, 429}


class BackgroundScorer:
    """A `Scorer` for one job, whose calls come from threads and run on the event loop of the service.

    Args:
        lifecycle: Owns the reranker.
        admission: Number of pending requests.
        count: Called with the number of scored pairs, on the event loop.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        admission: AdmissionController,
        *,
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Create a scorer on the event loop of the service."""
        self._lifecycle, self._admission, self._count = lifecycle, admission, count
        self._loop = asyncio.get_running_loop()
        self._stopped_by: RerankError | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._lifecycle.reranker.model

    def info(self) -> dict[str, Any]:
        """Return information about the loaded model."""
        return self._lifecycle.reranker.info()

    def close(self) -> None:
        """Do nothing; the service owns the reranker."""

    def stop(self, error: RerankError | None = None) -> None:
        """Cancel running calls and refuse later ones. Call it on the event loop of the service.

        Args:
            error: What these calls raise; by default a `ClosedError`.
        """
        self._stopped_by = error or ClosedError("the job was stopped")
        for call in self._calls - {asyncio.current_task()}:
            call.cancel()

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,  # noqa: ARG002 (jobs have no deadline)
        priority: Priority = "background",  # noqa: ARG002 (always in the background)
    ) -> list[PairScore]:
        """Score every pair, in input order. Blocks a thread other than that of the event loop.

        Raises:
            ClosedError: The job was stopped.
            RerankError: The call failed permanently.
        """
        try:
            return asyncio.run_coroutine_threadsafe(self._score(requests), self._loop).result()
        except concurrent.futures.CancelledError:
            raise self._stopped_by or ClosedError("the service stopped") from None

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "background",
    ) -> list[PairScore]:
        """Score every pair from another event loop; see `score`."""
        return await asyncio.to_thread(self.score, requests, deadline_s=deadline_s, priority=priority)

    async def _score(self, requests: Sequence[ScoreRequest]) -> list[PairScore]:
        if self._stopped_by is not None:
            raise self._stopped_by
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        try:
            scores = await self._score_with_retries(requests)
        finally:
            self._calls.discard(call)
        self._count(len(scores))
        return scores

    async def _score_with_retries(self, requests: Sequence[ScoreRequest]) -> list[PairScore]:
        """Call the reranker until it succeeds or fails permanently, which stops the job's other calls too."""
        failures, pause_s = 0, RETRY_S
        while True:
            await self._lifecycle.ready.wait()
            if self._lifecycle.reranker.config.backend == "remote":
                with suppress(TimeoutError):
                    async with asyncio.timeout(YIELD_S):
                        await self._admission.idle.wait()
            try:
                return await self._score_once(requests)
            except OverloadedError as error:
                await asyncio.sleep(min(error.retry_after_s, MAX_RETRY_S))
            except _TRANSIENT as error:
                failures += 1
                self._lifecycle.report_error(error)
                if failures >= FAILURES or _is_permanent(error):
                    self.stop(error)
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_RETRY_S)

    async def _score_once(self, requests: Sequence[ScoreRequest]) -> list[PairScore]:
        """Call the reranker once per run of pairs with the same instruction."""
        scores: list[PairScore] = []
        for instruction, same in groupby(requests, key=lambda request: request.instruction):
            pairs = list(same)
            results = await self._lifecycle.reranker.arank_many(
                [pair.query for pair in pairs],
                [[pair.document] for pair in pairs],
                top_n=None,
                min_score=None,
                instruction=instruction,
                deadline_s=DEADLINE_S,
                priority="background",
            )
            scores += [score for result in results for score in result.scores]
        return scores


def _is_permanent(error: RerankError) -> bool:
    """Return whether the same call would fail again."""
    if isinstance(error, RemoteStatusError):
        return error.status in _OWN_FAULT and error.status not in _BUSY
    return isinstance(error, NonFiniteScoreError)
