"""ActorPoolScorer: a `Scorer` whose pairs are scored by actors of a Ray cluster, each with its own copy of the model.

A worker that dies, or whose engine reports a fatal state, is replaced, and its calls are repeated on another worker;
scoring has no side effects.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from qwen_rerank_plugins.ray.batching import ScoresOrError, is_fatal, split_requests
from qwen_rerank_plugins.ray.scaling import scorer_name, with_reserved_threads
from qwen_rerank_plugins.scorers import build_scorer
from qwen_rerank_plugins.types import PairScore, Priority, Scorer, ScoreRequest

__all__ = ["CALLS_PER_WORKER", "CALL_TOKENS", "ActorPoolScorer", "ActorPoolSettings"]

logger = logging.getLogger(__name__)

CALLS_PER_WORKER = 2
"""Concurrent calls of a worker: one is tokenised while the other is computed."""

CALL_TOKENS = 65_536
CALL_ATTEMPTS = 4  # a call that loses a worker every time is probably the cause
WARN_AFTER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPoolSettings:
    """Number and resources of the workers for a file or a dataset.

    Attributes:
        num_workers: Number of workers, each with its own copy of the model; a pair of numbers lets Ray choose between.
        num_cpus: CPUs that each worker reserves; it computes with as many threads.
        num_gpus: GPUs that each worker reserves; with 0 it sees none.
        num_partitions: Partitions of a dataset, the units that are repeated when a worker dies; None for several per
            worker.

    Raises:
        ConfigurationError: `num_workers` is less than 1, or its bounds are in the wrong order.
    """

    num_workers: int | tuple[int, int] = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    num_partitions: int | None = None

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not 1 <= low <= high:
            raise ConfigurationError(
                f"num_workers is not valid: {self.num_workers!r}; use N or (MIN, MAX) with 1 <= MIN <= MAX"
            )

    @property
    def bounds(self) -> tuple[int, int]:
        """The minimum and maximum number of workers."""
        given = self.num_workers
        return given if isinstance(given, tuple) else (given, given)


class ActorPoolScorer(CloseMixin):
    """Scores pairs on the workers of a cluster, which start with the first call and stop with `close`.

    A worker is used once it has started; calls wait for a free worker. Safe to call from several threads.

    Args:
        config: The reranker's settings.
        settings: The workers; None for one worker.
    """

    def __init__(self, config: RerankConfig, settings: ActorPoolSettings | None = None) -> None:
        self._config = config
        self._settings = ActorPoolSettings() if settings is None else settings
        self._lock = threading.Lock()
        self._workers: set[Any] = set()  # Ray's actor handles, which have no types
        self._slots: queue.Queue[Any] = (
            queue.Queue()
        )  # a worker, once per call that it can take; None after `close`
        self._has_begun = False
        self._has_worker = False
        self._closed = False

    @property
    def model(self) -> str:
        """The model's name as configured."""
        return scorer_name(self._config)

    @property
    def max_concurrency(self) -> int:
        """Number of concurrent calls that keep every worker busy."""
        return CALLS_PER_WORKER * self._settings.bounds[1]

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score every pair, in input order. Large requests are split over the workers.

        Raises:
            DeadlineExceededError: The scores were not ready in time.
            WorkerDiedError: A worker was lost at every attempt.
            ClosedError: The scorer was closed.
            RerankError: The error of the worker's scorer.
        """
        end_s = None if deadline_s is None else time.monotonic() + deadline_s
        parts = list(split_requests(requests, batch_tokens=CALL_TOKENS, max_length=self._config.max_length))
        if len(parts) == 1:
            return self._score_part(parts[0], end_s, priority)
        with ThreadPoolExecutor(self.max_concurrency) as executor:
            calls = [executor.submit(self._score_part, part, end_s, priority) for part in parts]
            return [score for call in calls for score in call.result()]

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score every pair without blocking the event loop.

        Raises:
            RerankError: As `score`.
        """
        return await asyncio.to_thread(self.score, requests, deadline_s=deadline_s, priority=priority)

    def info(self) -> dict[str, Any]:
        """Return the `info` of one worker's scorer.

        Raises:
            RerankError: As `score`.
        """
        info: dict[str, Any] = self._call(lambda worker, _: worker.info.remote())
        return info

    def close(self) -> None:
        """Stop the workers; later calls raise `ClosedError`."""
        with self._lock:
            self._closed = True
            workers, self._workers = self._workers, set()
        self._slots.put(None)  # wakes the waiting calls
        for worker in workers:
            ray.kill(worker)

    def _score_part(
        self, requests: Sequence[ScoreRequest], end_s: float | None, priority: Priority
    ) -> list[PairScore]:
        scores: list[PairScore] = self._call(
            lambda worker, left_s: worker.score.remote(requests, left_s, priority), end_s
        )
        return scores

    def _call(self, start: Callable[[Any, float | None], Any], end_s: float | None = None) -> Any:
        """Call a worker that has a free slot; if it is lost, call another one.

        Args:
            start: Starts the call on a worker with so many seconds left, and returns its object reference.
            end_s: The deadline on the clock of `time.monotonic`.
        """
        self._start_workers()
        outcome: Any = None
        for _ in range(CALL_ATTEMPTS):
            with self._slot(end_s) as worker:
                outcome = _await_outcome(start, worker, end_s)
                if isinstance(outcome, ray_errors.RayError) or is_fatal(outcome):
                    self._replace(worker, outcome)
                    continue
            if isinstance(outcome, RerankError):
                raise outcome
            return outcome
        message = f"a worker was lost at each of {CALL_ATTEMPTS} attempts: {type(outcome).__name__}"
        raise WorkerDiedError(message) from outcome

    @contextmanager
    def _slot(self, end_s: float | None) -> Iterator[Any]:
        """Wait for a worker with a free slot, and free the slot at the end, whatever happens."""
        worker = self._acquire(end_s)
        try:
            yield worker
        finally:
            self._slots.put(worker)

    def _acquire(self, end_s: float | None) -> Any:
        """Wait for a slot of a worker that is still in use; slots of replaced workers are dropped."""
        while True:
            left_s = _seconds_left(end_s)
            try:
                worker = self._slots.get(timeout=WARN_AFTER_S if left_s is None else left_s)
            except queue.Empty:
                if left_s is not None:
                    raise _deadline_error() from None
                self._warn_without_workers()
                continue
            with self._lock:
                if self._closed:
                    self._slots.put(None)
                    raise self._closed_error()
                if worker in self._workers:
                    return worker

    def _start_workers(self) -> None:
        """Start the workers, at the first call."""
        with self._lock:
            if self._closed:
                raise self._closed_error()
            if not self._has_begun:
                self._has_begun = True
                for _ in range(self._settings.bounds[1]):
                    self._add_worker()

    def _replace(self, worker: Any, cause: Exception) -> None:
        """Stop a lost worker and start another one; only the first of its calls does so."""
        with self._lock:
            if worker not in self._workers or self._closed:
                return
            self._workers.remove(worker)
            logger.warning("a worker is lost (%s); another one starts", type(cause).__name__)
            ray.kill(worker)  # its process may live while its engine is broken
            self._add_worker()

    def _add_worker(self) -> None:
        config = with_reserved_threads(self._config, self._settings.num_cpus)
        actor: Any = ray.remote(ScoringWorker).options(
            num_cpus=self._settings.num_cpus,
            num_gpus=self._settings.num_gpus,
            max_concurrency=CALLS_PER_WORKER,
        )
        worker = actor.remote(config)
        self._workers.add(worker)

        def add_slots(_: object) -> None:  # also if it could not start: the call that gets the slot finds out
            self._has_worker = True
            for _slot in range(CALLS_PER_WORKER):
                self._slots.put(worker)

        worker.ready.remote().future().add_done_callback(add_slots)

    def _warn_without_workers(self) -> None:
        if not self._has_worker:
            logger.warning(
                "no worker has started after %.0f s; each needs num_cpus=%s and num_gpus=%s, and the cluster has %s",
                WARN_AFTER_S,
                self._settings.num_cpus,
                self._settings.num_gpus,
                ray.cluster_resources(),  # type: ignore[no-untyped-call]
            )

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"the scorer of {self.model!r} was closed; create another one")


class ScoringWorker:
    """The actor: one scorer, loaded with the first call. Errors are returned, because Ray wraps raised ones.

    Args:
        config: The reranker's settings.
    """

    def __init__(self, config: RerankConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._scorer: Scorer | None = None

    def ready(self) -> None:
        """Return once the process has started."""

    def score(
        self, requests: Sequence[ScoreRequest], deadline_s: float | None, priority: Priority
    ) -> ScoresOrError:
        """Return the scores, or the error that the scorer raised."""
        try:
            return self._loaded().score(requests, deadline_s=deadline_s, priority=priority)
        except RerankError as error:
            return error

    def info(self) -> dict[str, Any] | RerankError:
        """Return the scorer's `info`, or the error that it raised."""
        try:
            return self._loaded().info()
        except RerankError as error:
            return error

    def _loaded(self) -> Scorer:
        with self._lock:
            if self._scorer is None:
                self._scorer = build_scorer(self._config)
            return self._scorer


def _await_outcome(start: Callable[[Any, float | None], Any], worker: Any, end_s: float | None) -> Any:
    """Call a worker and return its outcome, which is a `RayError` if the worker died."""
    left_s = _seconds_left(end_s)
    try:
        return ray.get(start(worker, left_s), timeout=left_s)
    except ray_errors.GetTimeoutError as error:
        raise _deadline_error() from error
    except ray_errors.RayTaskError as error:
        raise EngineError(f"a worker failed: {type(error.cause).__name__}") from error
    except ray_errors.RayError as error:
        return error


def _deadline_error() -> DeadlineExceededError:
    return DeadlineExceededError("the scores were not ready within the deadline")


def _seconds_left(end_s: float | None) -> float | None:
    return None if end_s is None else max(0.0, end_s - time.monotonic())
