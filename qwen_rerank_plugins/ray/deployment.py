"""DeploymentScorer: a `Scorer` whose pairs are scored by the replicas of a Ray Serve deployment.

Large requests are split over the replicas. A call whose replica is lost is repeated; scoring has no side effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors
from ray.serve.handle import DeploymentHandle
from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from qwen_rerank_plugins.errors import (
    ClosedError,
    DeadlineExceededError,
    EngineError,
    OverloadedError,
    RerankError,
    WorkerDiedError,
)
from qwen_rerank_plugins.ray.batching import ScoresOrError, is_fatal, split_requests
from qwen_rerank_plugins.types import PairScore, Priority, ScoreRequest

__all__ = ["DeploymentScorer"]

INFO_TIMEOUT_S = 10.0
FIRST_PAUSE_S = 0.1  # in which Serve removes a dead replica
MAX_PAUSE_S = 2.0

_LOST: Final = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
    serve_errors.ReplicaUnavailableError,
    WorkerDiedError,  # the replica lives, but its engine does not
    ClosedError,  # the replica is shutting down
)


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, _LOST) or is_fatal(error)


class DeploymentScorer:
    """Scores pairs on the replicas of a deployment with the methods `score(requests, deadline_s, priority)` and `info()`.

    Args:
        handle: The deployment's handle.
        model: The model name to report.
        batch_tokens: Estimated tokens per call to a replica.
        max_length: Tokens at which a pair is truncated.
        call_attempts: Attempts at a call whose replica is lost.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        *,
        model: str,
        batch_tokens: int = 16_384,
        max_length: int = 8192,
        call_attempts: int = 4,
    ) -> None:
        self._handle = handle
        self._model = model
        self._batch_tokens = batch_tokens
        self._max_length = max_length
        self._call_attempts = call_attempts
        self._closed = False

    @property
    def model(self) -> str:
        """The model's name as configured."""
        return self._model

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score every pair, in input order. May be called from a thread with a running event loop.

        Raises:
            RerankError: As `ascore`.
        """
        with ThreadPoolExecutor(1) as executor:
            return executor.submit(
                asyncio.run, self.ascore(requests, deadline_s=deadline_s, priority=priority)
            ).result()

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score every pair without blocking the event loop. Cancellation cancels the calls to the replicas.

        Raises:
            OverloadedError: The queue of calls is full.
            DeadlineExceededError: The scores were not ready in time.
            WorkerDiedError: A replica was lost at every attempt, or none can be started.
            RerankError: The error of the replica's scorer.
        """
        if self._closed:
            raise ClosedError(f"the scorer of {self.model!r} was closed")
        parts = split_requests(requests, batch_tokens=self._batch_tokens, max_length=self._max_length)
        try:
            async with asyncio.timeout(deadline_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._score_part(part, deadline_s, priority)) for part in parts]
        except TimeoutError:
            raise DeadlineExceededError(
                f"the scores were not ready within the deadline of {deadline_s!r} s"
            ) from None
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first one, which cancelled the others
        return [score for task in tasks for score in task.result()]

    def info(self) -> dict[str, Any]:
        """Return the `info` of one replica's scorer.

        Raises:
            EngineError: No replica responded.
        """
        try:
            info: dict[str, Any] = self._handle.info.remote().result(timeout_s=INFO_TIMEOUT_S)
        except (ray_errors.RayError, serve_errors.RayServeException, TimeoutError) as error:
            raise EngineError(f"no replica responded: {type(error).__name__}") from error
        return info

    def close(self) -> None:
        """Refuse later calls. Serve manages the replicas."""
        self._closed = True

    async def _score_part(
        self, requests: Sequence[ScoreRequest], deadline_s: float | None, priority: Priority
    ) -> list[PairScore]:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._call_attempts),
            wait=wait_random_exponential(FIRST_PAUSE_S, max=MAX_PAUSE_S),
            retry=retry_if_exception(_is_lost),
        )
        try:
            return await retrying(self._call, requests, deadline_s, priority)
        except RetryError as error:
            last = error.last_attempt.exception()
            raise WorkerDiedError(
                f"a replica of {self.model!r} was lost at every attempt: {type(last).__name__}"
            ) from last

    async def _call(
        self, requests: Sequence[ScoreRequest], deadline_s: float | None, priority: Priority
    ) -> list[PairScore]:
        response: Any = None  # its `cancel` has no types
        try:
            response = self._handle.score.remote(requests, deadline_s, priority)
            outcome: ScoresOrError = await response
        except asyncio.CancelledError:
            if response is not None:
                response.cancel()
            raise
        except serve_errors.BackPressureError as error:
            message = "the queue of calls is full"
            raise OverloadedError(message, retry_after_s=error.retry_after_s or 1.0) from None
        except serve_errors.DeploymentUnavailableError:
            raise WorkerDiedError("the replicas could not be started") from None
        except ray_errors.RayTaskError as error:
            raise EngineError(f"a replica failed: {type(error.cause).__name__}") from error
        if isinstance(outcome, RerankError):
            raise outcome
        return outcome
