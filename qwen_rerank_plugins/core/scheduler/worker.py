"""One device: its engine, its token budget, its counters, and the restarts of its thread.

It knows no locks and no queue: a batch goes in, and results come out, one sub-batch at a time. An `Exception` of the
engine never leaves `Worker.run`: it becomes the error of the request that it belongs to. `MemoryError` and
`DeviceLostError` do leave it, and end the thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

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

__all__ = ["TokenEngine", "Worker"]

logger = logging.getLogger(__name__)

# Share of the maximum by which each well-filled batch raises the budget after memory ran out: from a half in 32
# batches, so that a limit that is reached again each time costs about one batch in twenty.
_BUDGET_RECOVERY = 1 / 64

_SPEED_SMOOTHING = 0.2  # weight of the latest batch in the device's tokens per second

_MAX_RESTARTS = 3
"""Restarts of a device's thread within the window; after more, the device is out of service."""

_RESTART_WINDOW_S = 60.0


class TokenEngine(Protocol):
    """Token ids in, log-odds out, on one device. Called from one thread at a time."""

    @property
    def name(self) -> str:
        """The device, such as "cpu" or "cuda:0"."""

    def log_odds(self, prompts: Sequence[Segment]) -> list[float]:
        """Return the log-odds of every prompt, in order, all computed as one batch.

        Raises:
            EngineOutOfMemoryError: The batch does not fit the device's memory; half of it may.
        """

    def after_fork(self) -> None:
        """Make the engine usable in a forked child; called there once, before the first batch."""


class Worker:
    """Runs batches on one engine and adapts the token budget to the device's memory.

    Args:
        engine: The engine.
        max_batch_tokens: The budget while memory suffices.
        background_batch_tokens: New tokens of a background batch.
        background_batch_s: A background batch may have more tokens if the device computes them in this time.

    Attributes:
        thread: The thread that serves the device, once it was started.
        in_flight: Prompts that are being computed.
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
        self.in_flight: Sequence[QueuedPrompt] = ()
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
        self._compute_s = 0.0

    def run(self, batch: Sequence[QueuedPrompt]) -> Iterator[list[tuple[QueuedPrompt, float | RerankError]]]:
        """Compute a batch and yield the prompts of each sub-batch with their log-odds or their request's error.

        A batch that runs out of memory is split into halves of about equal tokens. A batch that fails
        otherwise is retried request by request, so that only the faulty one gets the error. Prompts of
        requests that were cancelled or have expired are skipped.
        """
        sub_batches: list[Sequence[QueuedPrompt]] = [batch]
        while sub_batches:
            now = time.monotonic()
            sub_batch = [
                item
                for item in sub_batches.pop()
                if item.request.is_open and (item.request.deadline is None or now < item.request.deadline)
            ]
            if not sub_batch:
                continue
            result = self._compute(sub_batch)
            if not isinstance(result, RerankError):
                yield list(zip(sub_batch, result, strict=True))
            elif parts := self._split_failed(sub_batch, result):
                sub_batches.extend(reversed(parts))
            else:
                yield [(sub_batch[0], result)]

    def _compute(self, sub_batch: Sequence[QueuedPrompt]) -> list[float | RerankError] | RerankError:
        """Call the engine once. Errors are returned, so that no handler keeps their frames' tensors alive."""
        started = time.perf_counter()
        name = self.engine.name
        try:
            scores = [float(score) for score in self.engine.log_odds([item.prompt for item in sub_batch])]
        except (MemoryError, DeviceLostError):
            raise  # the process is short of memory, or the device is lost: the thread ends
        except EngineOutOfMemoryError as error:
            self._halve_budget(count_tokens(sub_batch))
            _release_frames(error)
            return error
        except Exception as error:  # noqa: BLE001 - the request fails with it
            return _as_rerank_error(error, name)
        if len(scores) != len(sub_batch):
            return EngineError(
                f"The engine on {name!r} returned {len(scores)} scores for {len(sub_batch)} prompts"
            )
        self._record(sub_batch, time.perf_counter() - started)
        return [
            score
            if math.isfinite(score)
            else NonFiniteScoreError(
                f"The engine on {name!r} returned {score!r} as log-odds; check the weights, or use a wider dtype"
            )
            for score in scores
        ]

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
