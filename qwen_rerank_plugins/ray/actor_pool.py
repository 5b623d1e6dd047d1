"""ActorPoolScorer: the `Scorer` protocol over actors of a Ray cluster, each with its own copy of the model.

Knows no file and no dataset. A worker that died is replaced, and its calls are made again elsewhere: scoring has no
effects.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions as ray_errors

from qwen_rerank_plugins.closing import CloseMixin
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import (
    ClosedError,
    ConfigurationError,
    DeadlineExceededError,
    EngineError,
    RerankError,
    WorkerDiedError,
)
from qwen_rerank_plugins.ray.grouping import Answer, slices_of
from qwen_rerank_plugins.ray.scaling import scorer_name, with_reserved_threads
from qwen_rerank_plugins.scorers import build_scorer
from qwen_rerank_plugins.types import PairScore, Scorer, ScoreRequest

__all__ = ["CALLS_AT_A_TIME", "CALL_TOKENS", "ActorPoolScorer", "Pool"]

logger = logging.getLogger(__name__)

CALLS_AT_A_TIME = 2
"""Calls that a worker has: one is tokenised while the other is computed."""

CALL_TOKENS = 65_536
CALL_ATTEMPTS = 4  # at a call whose worker died; then it is the call that kills workers
WARN_AFTER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The workers of a file or a dataset.

    Attributes:
        num_workers: How many, each with its own copy of the model; a pair of numbers lets Ray choose between them.
        num_cpus: CPUs that each reserves; it computes with as many threads.
        num_gpus: GPUs that each reserves; without any it sees none.
        num_partitions: Of a dataset: parts of the work, which are also what is done again when a worker dies; None for
            some a worker.

    Raises:
        ConfigurationError: The numbers of workers are none.
    """

    num_workers: int | tuple[int, int] = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    num_partitions: int | None = None

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not 1 <= low <= high:
            raise ConfigurationError(
                f"num_workers is not valid: {self.num_workers!r}; allowed: N, or (MIN, MAX)"
            )

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest workers, and the most."""
        given = self.num_workers
        return given if isinstance(given, tuple) else (given, given)


class ActorPoolScorer(CloseMixin):
    """Scores by workers of a cluster, which start with the first call and end with `close`.

    A worker is used as soon as it has started; calls wait for one that has time. Several threads may call.

    Args:
        config: The reranker's settings.
        pool: The workers; None for one.
    """

    def __init__(self, config: RerankConfig, pool: Pool | None = None) -> None:
        self._config = config
        self._pool = Pool() if pool is None else pool
        self._lock = threading.Lock()
        self._workers: set[Any] = set()  # Ray's handles, which have no types
        self._free: queue.Queue[Any] = queue.Queue()
        self._has_begun = False
        self._has_worker = False
        self._closed = False

    @property
    def model(self) -> str:
        """The model's name as it was asked for."""
        return scorer_name(self._config)

    @property
    def num_calls(self) -> int:
        """Calls at the same time that keep every worker busy."""
        return CALLS_AT_A_TIME * self._pool.bounds[1]

    def score(self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None) -> list[PairScore]:
        """Score every pair, in input order; many are spread over the workers.

        Raises:
            DeadlineExceededError: There was no answer in time.
            WorkerDiedError: A worker died at every attempt.
            ClosedError: It was closed.
            RerankError: What the worker's scorer raised.
        """
        end = None if deadline_s is None else time.monotonic() + deadline_s
        parts = list(slices_of(requests, batch_tokens=CALL_TOKENS, max_length=self._config.max_length))
        if len(parts) == 1:
            return self._score_part(parts[0], end)
        with ThreadPoolExecutor(self.num_calls) as threads:
            calls = [threads.submit(self._score_part, part, end) for part in parts]
            return [score for call in calls for score in call.result()]

    async def ascore(
        self, requests: Sequence[ScoreRequest], *, deadline_s: float | None = None
    ) -> list[PairScore]:
        """Score every pair without blocking the event loop.

        Raises:
            RerankError: As `score`.
        """
        return await asyncio.to_thread(self.score, requests, deadline_s=deadline_s)

    def info(self) -> dict[str, Any]:
        """What one of the workers tells of itself.

        Raises:
            RerankError: As `score`.
        """
        info: dict[str, Any] = self._call(lambda worker, _: worker.info.remote())
        return info

    def close(self) -> None:
        """End the workers; later calls raise `ClosedError`."""
        with self._lock:
            self._closed = True
            workers, self._workers = self._workers, set()
        self._free.put(None)  # wakes those who wait
        for worker in workers:
            ray.kill(worker)

    def _score_part(self, requests: Sequence[ScoreRequest], end: float | None) -> list[PairScore]:
        scores: list[PairScore] = self._call(lambda worker, left: worker.score.remote(requests, left), end)
        return scores

    def _call(self, start: Callable[[Any, float | None], Any], end: float | None = None) -> Any:
        """Let a worker that has time do something, another one if it dies; errors of ours come as values.

        Args:
            start: Calls a worker, which has so many seconds.
            end: Until when an answer is wanted, on `time.monotonic`'s clock.
        """
        self._begin()
        lost: ray_errors.RayError | None = None
        for _ in range(CALL_ATTEMPTS):
            worker = self._borrow(end)
            left = _seconds_left(end)
            try:
                answer = ray.get(start(worker, left), timeout=left)
            except (ray_errors.GetTimeoutError, ray_errors.RayTaskError) as error:
                self._free.put(worker)
                raise _told(error) from error
            except ray_errors.RayError as error:
                lost = error
                self._replace(worker)
                continue
            self._free.put(worker)
            if isinstance(answer, RerankError):
                raise answer
            return answer
        raise WorkerDiedError(f"a worker died at every attempt: {type(lost).__name__}") from lost

    def _borrow(self, end: float | None) -> Any:
        """Wait for a worker that has time; what has died meanwhile is passed over."""
        while True:
            left = _seconds_left(end)
            try:
                worker = self._free.get(timeout=WARN_AFTER_S if left is None else left)
            except queue.Empty:
                if left is not None:
                    raise _late() from None
                self._warn_without_workers()
                continue
            with self._lock:
                if self._closed:
                    self._free.put(None)
                    raise self._ended()
                if worker in self._workers:
                    return worker

    def _begin(self) -> None:
        """Ask for the workers, at the first call."""
        with self._lock:
            if self._closed:
                raise self._ended()
            if not self._has_begun:
                self._has_begun = True
                for _ in range(self._pool.bounds[1]):
                    self._add_worker()

    def _replace(self, worker: Any) -> None:
        """Ask for another worker in place of one that died; of its calls the first does it."""
        with self._lock:
            if worker in self._workers and not self._closed:
                self._workers.remove(worker)
                logger.warning("a worker died; another one is started")
                self._add_worker()

    def _add_worker(self) -> None:
        config = with_reserved_threads(self._config, self._pool.num_cpus)
        make: Any = ray.remote(ScoringWorker).options(
            num_cpus=self._pool.num_cpus, num_gpus=self._pool.num_gpus, max_concurrency=CALLS_AT_A_TIME
        )
        worker = make.remote(config)
        self._workers.add(worker)

        def use(_: object) -> None:  # one that could not start tells the call that gets it
            self._has_worker = True
            for _ in range(CALLS_AT_A_TIME):
                self._free.put(worker)

        worker.ready.remote().future().add_done_callback(use)

    def _warn_without_workers(self) -> None:
        if not self._has_worker:
            logger.warning(
                "no worker has started after %.0f s; each needs num_cpus=%s and num_gpus=%s, and the cluster has %s",
                WARN_AFTER_S,
                self._pool.num_cpus,
                self._pool.num_gpus,
                ray.cluster_resources(),  # type: ignore[no-untyped-call]
            )

    def _ended(self) -> ClosedError:
        return ClosedError(f"the workers of {self.model!r} were ended")


class ScoringWorker:
    """What runs in a worker's process. Errors are values: on their way Ray would wrap raised ones."""

    def __init__(self, config: RerankConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._scorer: Scorer | None = None

    def ready(self) -> None:
        """Answer once the process is there."""

    def score(self, requests: Sequence[ScoreRequest], deadline_s: float | None) -> Answer:
        """Give the scores, or the error that was raised instead."""
        try:
            return self._loaded().score(requests, deadline_s=deadline_s)
        except RerankError as error:
            return error

    def info(self) -> dict[str, Any] | RerankError:
        """What is loaded, or why nothing could be."""
        try:
            return self._loaded().info()
        except RerankError as error:
            return error

    def _loaded(self) -> Scorer:
        with self._lock:
            if self._scorer is None:
                self._scorer = build_scorer(self._config)
            return self._scorer


def _told(error: ray_errors.RayError) -> RerankError:
    if isinstance(error, ray_errors.RayTaskError):
        return EngineError(f"a worker failed: {type(error.cause).__name__}")
    return _late()


def _late() -> DeadlineExceededError:
    return DeadlineExceededError("no score within the deadline")


def _seconds_left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())
