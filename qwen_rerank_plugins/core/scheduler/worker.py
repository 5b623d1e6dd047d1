"""One device: its engine, its token budget, its counters, and the restarts of its thread.

It knows no locks and no queue: batches go in, and results come out, one sub-batch at a time. An `Exception` of the
engine never leaves `Worker.run`: it becomes the error of the request that it belongs to. `MemoryError` and
`DeviceLostError` do leave it, and end the thread.

A device that runs beside the host has the next batch prepared and launched while it computes:

    host      prepare 1, launch 1 │ prepare 2, launch 2 │ collect 1 ──► results │ prepare 3, launch 3 │ collect 2 ...
    device                        │ batch 1 ─────────────────────│ batch 2 ─────────────────────────────│ batch 3 ...
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from qwen_rerank_plugins.core.scheduler.queue import QueuedPrompt, Request, count_tokens
from qwen_rerank_plugins.core.scheduler.stats import DeviceStats
from qwen_rerank_plugins.core.sequences import Segment, added_tokens
from qwen_rerank_plugins.errors import (
    DeviceLostError,
    EngineError,
    EngineOutOfMemoryError,
    NonFiniteScoreError,
    RerankError,
    WorkerDiedError,
)

__all__ = ["LaunchedBatch", "TakeBatch", "TokenEngine", "Worker"]

logger = logging.getLogger(__name__)

# Share of the maximum by which each well-filled batch raises the budget after memory ran out: from a half in 32
# batches, so that a limit that is reached again each time costs about one batch in twenty.
_BUDGET_RECOVERY = 1 / 64

_SPEED_SMOOTHING = 0.2  # weight of the latest batch in the device's tokens per second

_MAX_RESTARTS = 3
"""Restarts of a device's thread within the window; after more, the device is out of service."""

_RESTART_WINDOW_S = 60.0


class LaunchedBatch(Protocol):
    """A batch that a device computes. It is dropped without `collect` if its thread dies."""

    def is_done(self) -> bool:
        """Return whether `collect` returns or raises without waiting for the device. Never raises."""

    def collect(self) -> list[float]:
        """Return the log-odds of every prompt, in order, once they are computed.

        Raises:
            EngineOutOfMemoryError: The batch does not fit the device's memory; half of it may.
        """


class TokenEngine(Protocol):
    """Token ids in, log-odds out, on one device. Called from one thread at a time.

    `prepare` and `launch` may raise what `collect` raises. Between the two of one batch, earlier batches are collected
    and, if they failed, computed again. At most two batches are launched and not yet collected.
    """

    @property
    def name(self) -> str:
        """The device, such as "cpu" or "cuda:0"."""

    @property
    def overlaps(self) -> bool:
        """Whether `launch` returns before the results are computed."""

    def prepare(self, prompts: Sequence[Segment]) -> Any:
        """Return what `launch` needs to compute the prompts as one batch; allocate nothing on the device."""

    def launch(self, prepared: Any) -> LaunchedBatch:
        """Start the computation of a prepared batch, behind those that were launched before."""

    def after_fork(self) -> None:
        """Make the engine usable in a forked child; called there once, before the first batch."""


class TakeBatch(Protocol):
    """Takes a batch from the queue."""

    def __call__(self, *, wait: bool) -> Sequence[QueuedPrompt]:
        """Return the next batch; an empty one if nothing is queued, or with `wait` only when there will be none."""


_Results = list[tuple[QueuedPrompt, float | RerankError]]


@dataclass(slots=True, eq=False)
class _Attempt:
    """One computation of a batch: prepared, then launched, or failed at either step."""

    prompts: list[QueuedPrompt]
    prepared: Any = None
    launched: LaunchedBatch | None = None
    launched_at: float = 0.0
    error: RerankError | None = None


class Worker:
    """Runs batches on one engine and adapts the token budget to the device's memory.

    Args:
        engine: The engine.
        max_batch_tokens: The budget while memory suffices.
        background_batch_tokens: New tokens of a background batch.
        background_batch_s: A background batch may have more tokens if the device computes them in this time.

    Attributes:
        thread: The thread that serves the device, once it was started.
        in_flight: The batches being computed, oldest first: up to two with an engine that overlaps.
        is_alive: Whether the device is in service.
        needs_after_fork: Whether the engine comes from the parent process and `after_fork` is still to be called.
        budget_tokens: Token budget of the next batch.
        background_tokens: Maximum new tokens of the next background batch.
        tokens_per_s: Recent speed; 0 before the first batch.
    """

    def __init__(
        self,
        engine: TokenEngine,
        max_batch_tokens: int,
        background_batch_tokens: int | None = None,
        background_batch_s: float = 0.0,
    ) -> None:
        self.engine = engine
        self.thread: threading.Thread | None = None
        self.in_flight: deque[Sequence[QueuedPrompt]] = deque(maxlen=2)
        self.is_alive = True
        self.needs_after_fork = False
        self.budget_tokens = max_batch_tokens
        self.tokens_per_s = 0.0
        self._max_batch_tokens = max_batch_tokens
        self.background_tokens = background_batch_tokens or max_batch_tokens
        self._background_batch_tokens = self.background_tokens
        self._background_batch_s = background_batch_s
        self._deaths: deque[float] = deque()
        self._num_restarts = self._num_oom_splits = 0
        self._num_batches = self._num_prompts = self._num_tokens = 0
        self._compute_s = self._collected_at = 0.0

    def run(self, take: TakeBatch) -> Iterator[_Results]:
        """Compute batches and yield the prompts of each sub-batch with their log-odds or their request's error.

        A batch that runs out of memory is split into halves of about equal tokens. A batch that fails
        otherwise is retried request by request, so that only the faulty one gets the error. No other batch
        runs beside a retry. Prompts of requests that were cancelled or have expired are skipped when a batch
        is prepared.

        Args:
            take: Returns the next batch; the run ends when an idle device gets an empty one.
        """
        running: _Attempt | None = None
        while (batch := take(wait=running is None)) or running:
            running = yield from self._advance(running, batch)

    def _advance(
        self, running: _Attempt | None, batch: Sequence[QueuedPrompt]
    ) -> Generator[_Results, None, _Attempt | None]:
        """Launch a batch behind the running one, yield the results of the latter, and return what runs then."""
        attempt = self._prepare(batch)
        if running and running.launched and running.launched.is_done():
            yield from self._finish(running)
            running = None
        self._launch(attempt)
        if running and (error := (yield from self._collect(running))):
            yield from self._finish(attempt)
            yield from self._retry(running, error)
        elif attempt.launched and self.engine.overlaps:
            return attempt
        else:
            yield from self._finish(attempt)
        return None

    def _finish(self, attempt: _Attempt) -> Iterator[_Results]:
        """Yield the results of an attempt and, if it failed, of its retries; no other batch may be running."""
        if error := (yield from self._collect(attempt)):
            yield from self._retry(attempt, error)

    def _retry(self, failed: _Attempt, error: RerankError) -> Iterator[_Results]:
        parts = self._split_failed(failed.prompts, error)
        if not parts:
            yield [(failed.prompts[0], error)]
        for part in parts:
            attempt = self._prepare(part)
            self._launch(attempt)
            yield from self._finish(attempt)

    def _prepare(self, batch: Sequence[QueuedPrompt]) -> _Attempt:
        now = time.monotonic()
        attempt = _Attempt(
            [
                item
                for item in batch
                if item.request.is_open and (item.request.deadline is None or now < item.request.deadline)
            ]
        )
        if attempt.prompts:
            with self._capture_error(attempt):
                attempt.prepared = self.engine.prepare([item.prompt for item in attempt.prompts])
        return attempt

    def _launch(self, attempt: _Attempt) -> None:
        if attempt.prompts and attempt.error is None:
            attempt.launched_at = time.perf_counter()
            with self._capture_error(attempt):
                attempt.launched = self.engine.launch(attempt.prepared)
        attempt.prepared = None

    def _collect(self, attempt: _Attempt) -> Generator[_Results, None, RerankError | None]:
        """Wait for the results of an attempt and yield them, or return the error of the attempt as a whole."""
        if attempt.launched is None:
            return attempt.error
        scores: list[float] = []
        with self._capture_error(attempt):
            scores = [float(score) for score in attempt.launched.collect()]
            if len(scores) != len(attempt.prompts):
                raise EngineError(
                    f"The engine on {self.engine.name!r} returned {len(scores)} scores for "
                    f"{len(attempt.prompts)} prompts"
                )
        attempt.launched = None
        started = max(attempt.launched_at, self._collected_at)  # the device computes one batch at a time
        self._collected_at = time.perf_counter()
        if attempt.error is None:
            self._record(attempt.prompts, self._collected_at - started)
            yield list(zip(attempt.prompts, map(self._check_finite, scores), strict=True))
        return attempt.error

    @contextmanager
    def _capture_error(self, attempt: _Attempt) -> Iterator[None]:
        """Make an error of the engine the attempt's: raised on, it would keep the tensors of its frames alive."""
        try:
            yield
        except (MemoryError, DeviceLostError):
            raise  # the process is short of memory, or the device is lost: the thread ends
        except EngineOutOfMemoryError as error:
            self._halve_budget(count_tokens(attempt.prompts))
            _release_frames(error)
            attempt.error = error
        except Exception as error:  # noqa: BLE001 - the request fails with it
            attempt.error = _as_rerank_error(error, self.engine.name)

    def _check_finite(self, score: float) -> float | NonFiniteScoreError:
        if math.isfinite(score):
            return score
        return NonFiniteScoreError(
            f"The engine on {self.engine.name!r} returned {score!r} as log-odds; check the weights, or use a wider dtype"
        )

    def _split_failed(
        self, sub_batch: Sequence[QueuedPrompt], error: RerankError
    ) -> list[list[QueuedPrompt]]:
        """Return the smaller sub-batches to retry; none if one request caused the failure."""
        if isinstance(error, EngineOutOfMemoryError):
            self._num_oom_splits += len(sub_batch) > 1
            return _halves(sub_batch) if len(sub_batch) > 1 else []
        groups: dict[Request, list[QueuedPrompt]] = {}
        for item in sub_batch:
            groups.setdefault(item.request, []).append(item)
        return list(groups.values()) if len(groups) > 1 else []

    def _record(self, sub_batch: Sequence[QueuedPrompt], seconds: float) -> None:
        tokens = count_tokens(sub_batch)
        self._num_batches += 1
        self._num_prompts += len(sub_batch)
        self._num_tokens += tokens
        self._compute_s += seconds
        if tokens * 2 >= self.budget_tokens:  # a small batch does not test the memory
            growth = max(1, int(self._max_batch_tokens * _BUDGET_RECOVERY))
            self.budget_tokens = min(self._max_batch_tokens, self.budget_tokens + growth)
        speed = tokens / max(seconds, 1e-6)
        weight = _SPEED_SMOOTHING if self.tokens_per_s else 1.0
        self.tokens_per_s += weight * (speed - self.tokens_per_s)
        self.background_tokens = max(
            self._background_batch_tokens, int(self._background_batch_s * self.tokens_per_s)
        )

    def _halve_budget(self, failed_tokens: int) -> None:
        self.budget_tokens = max(1, min(self.budget_tokens, failed_tokens) // 2)
        logger.warning(
            "%s ran out of memory with a batch of %d tokens; its budget is now %d tokens",
            self.engine.name,
            failed_tokens,
            self.budget_tokens,
        )

    def may_restart(self) -> bool:
        """Record a death of the thread, and return whether it may be restarted."""
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - _RESTART_WINDOW_S:
            self._deaths.popleft()
        may = len(self._deaths) <= _MAX_RESTARTS
        self._num_restarts += may
        return may

    def died_error(self, error: BaseException) -> WorkerDiedError:
        """Return the error of requests whose thread died of `error`."""
        _release_frames(error)
        died = WorkerDiedError(
            f"The worker of {self.engine.name!r} died of {type(error).__name__}; send the request again"
        )
        died.__cause__ = error
        return died

    def stats(self) -> DeviceStats:
        """Return the counters."""
        return DeviceStats(
            name=self.engine.name,
            budget_tokens=self.budget_tokens,
            batches=self._num_batches,
            sequences=self._num_prompts,
            computed_tokens=self._num_tokens,
            oom_splits=self._num_oom_splits,
            compute_s=self._compute_s,
            tokens_per_s=self.tokens_per_s,
            restarts=self._num_restarts,
            is_alive=self.is_alive,
        )


def _halves(sub_batch: Sequence[QueuedPrompt]) -> list[list[QueuedPrompt]]:
    """Return two non-empty parts of about equal tokens."""
    ends = list(accumulate(added_tokens(item.prompt for item in sub_batch)))
    middle = next(index for index, end in enumerate(ends) if 2 * end >= ends[-1])
    cut = min(middle + 1, len(sub_batch) - 1)
    return [list(sub_batch[:cut]), list(sub_batch[cut:])]


def _as_rerank_error(error: Exception, name: str) -> RerankError:
    _release_frames(error)
    if isinstance(error, RerankError):
        return error
    wrapped = EngineError(f"The forward pass on {name!r} failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _release_frames(error: BaseException | None) -> None:
    """Clear the frames of an error and of its causes: they hold the batch's tensors."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
