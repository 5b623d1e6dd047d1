"""DeploymentScorer: the `Scorer` protocol over the replicas of a Serve deployment.

A large request is cut and spread; a call whose replica died or was taken away is made again, for scoring has no
effects. Knows no HTTP and no model.
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
    retry_if_exception_type,
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
from qwen_rerank_plugins.ray.grouping import slices_of
from qwen_rerank_plugins.types import PairScore, ScoreRequest

__all__ = ["DeploymentScorer"]

INFO_TIMEOUT_S = 10.0
FIRST_PAUSE_S = 0.1  # in which Serve takes a dead replica off its list
MAX_PAUSE_S = 2.0

_LOST: Final = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
    serve_errors.ReplicaUnavailableError,
    WorkerDiedError,  # the replica lives, its engine does not
    ClosedError,  # the replica is on its way out
)


class DeploymentScorer:
    """Scores by the replicas of a deployment that takes `score(requests, deadline_s)` and `info()`.

    Args:
        handle: The deployment's handle.
        model: The name under which scores are reported.
        batch_tokens: Estimated tokens of one call to a replica.
        max_length: Tokens of a pair above which it is cut.
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
        """The model's name as it was asked for."""
        return self._model

    def score(self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None) -> list[PairScore]:
        """Score every pair, in input order, from a thread that may have an event loop of its own.

        Raises:
            RerankError: As `ascore`.
        """
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self.ascore(requests, deadline_s=deadline_s)).result()

    async def ascore(
        self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None
    ) -> list[PairScore]:
        """Score every pair without blocking the event loop. Cancelling takes the pairs off the replicas.

        Raises:
            OverloadedError: As many calls wait as may.
            DeadlineExceededError: There was no answer in time.
            WorkerDiedError: Replicas died at every attempt, or there are none.
            RerankError: What the replica's scorer raised.
        """
        if self._closed:
            raise ClosedError(f"the scorer of {self.model!r} was closed")
        parts = slices_of(requests, batch_tokens=self._batch_tokens, max_length=self._max_length)
        try:
            async with asyncio.timeout(deadline_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._score_part(part, deadline_s)) for part in parts]
        except TimeoutError:
            raise DeadlineExceededError(f"no score within the deadline of {deadline_s!r} s") from None
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first; the others were cancelled for it
        return [score for task in tasks for score in task.result()]

    def info(self) -> dict[str, Any]:
        """What one of the replicas tells of itself, and their names.

        Raises:
            EngineError: None answered.
        """
        try:
            info: dict[str, Any] = self._handle.info.remote().result(timeout_s=INFO_TIMEOUT_S)
        except (ray_errors.RayError, serve_errors.RayServeException, TimeoutError) as error:
            raise EngineError(f"no replica told of itself: {type(error).__name__}") from error
        return info

    def close(self) -> None:
        """Refuse later calls; the replicas are Serve's."""
        self._closed = True

    async def _score_part(
        self, requests: Sequence[ScoreRequest], deadline_s: float | None
    ) -> list[PairScore]:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._call_attempts),
            wait=wait_random_exponential(FIRST_PAUSE_S, max=MAX_PAUSE_S),
            retry=retry_if_exception_type(_LOST),
        )
        try:
            return await retrying(self._call, requests, deadline_s)
        except RetryError as error:
            last = error.last_attempt.exception()
            raise WorkerDiedError(f"the replicas of {self.model!r} died: {type(last).__name__}") from last

    async def _call(self, requests: Sequence[ScoreRequest], deadline_s: float | None) -> list[PairScore]:
        response: Any = None  # its `cancel` has no types
        try:
            response = self._handle.score.remote(requests, deadline_s)
            answer: list[PairScore] | RerankError = await response
        except asyncio.CancelledError:
            if response is not None:
                response.cancel()
            raise
        except serve_errors.BackPressureError as error:
            message = "as many calls wait for a replica as may"
            raise OverloadedError(message, retry_after_s=error.retry_after_s or 1.0) from None
        except serve_errors.DeploymentUnavailableError:
            raise WorkerDiedError("the replicas could not be started") from None
        except ray_errors.RayTaskError as error:
            raise EngineError(f"a replica failed: {type(error.cause).__name__}") from error
        if isinstance(answer, RerankError):
            raise answer
        return answer
