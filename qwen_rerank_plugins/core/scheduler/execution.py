"""Runs batches on one device and handles out of memory, failed batches and non-finite scores.

It knows no threads, no locks and no queue: a batch goes in, and results come out, one sub-batch at a time. An
`Exception` of the engine never leaves this module: it becomes the error of the request that it belongs to.
`MemoryError` and `DeviceLostError` do leave it, and end the worker.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from qwen_rerank_plugins.core.scheduler.queue import QueuedPrompt, Request, count_tokens
from qwen_rerank_plugins.core.sequences import TokenCounter, TokenSequence
from qwen_rerank_plugins.errors import (
    DeviceLostError,
    EngineError,
    EngineOutOfMemoryError,
    NonFiniteScoreError,
    RerankError,
)

__all__ = ["BatchExecutor", "BatchResult", "TokenEngine"]

logger = logging.getLogger(__name__)

# Share of the maximum by which each well-filled batch raises the budget after memory ran out: from a half in 32
# batches, so that a limit that is reached again each time costs about one batch in twenty.
_BUDGET_RECOVERY = 1 / 64

_SPEED_SMOOTHING = 0.2  # weight of the latest batch in the device's tokens per second


class TokenEngine(Protocol):
    """Token ids in, log-odds out, on one device. Called from one thread at a time."""

    @property
    def name(self) -> str:
        """The device, such as "cpu" or "cuda:0"."""

    def log_odds(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """Return the log-odds of every prompt, in order, all computed as one batch.

        Raises:
            EngineOutOfMemoryError: The batch does not fit the device's memory; half of it may.
        """

    def after_fork(self) -> None:
        """Make the engine usable in a forked child; called there once, before the first batch."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Results of one sub-batch.

    Attributes:
        scores: Prompts with their log-odds, all finite.
        failures: Failed requests, with their errors.
    """

    scores: Sequence[tuple[QueuedPrompt, float]] = ()
    failures: Sequence[tuple[Request, RerankError]] = ()


class BatchExecutor:
    """Runs batches on one engine and adapts the token budget to the device's memory.

    Args:
        engine: The engine.
        max_batch_tokens: The budget while memory suffices.

    Attributes:
        budget_tokens: Token budget of the next batch.
        num_batches: Computed batches.
        num_sequences: Computed prompts.
        num_tokens: Computed tokens, shared segments once per batch.
        num_oom_splits: Batches that were split because memory ran out.
        compute_s: Seconds of computation.
        tokens_per_s: Recent speed; 0 before the first batch.
    """

    def __init__(self, engine: TokenEngine, max_batch_tokens: int) -> None:
        self.engine = engine
        self.budget_tokens = max_batch_tokens
        self.num_batches = 0
        self.num_sequences = 0
        self.num_tokens = 0
        self.num_oom_splits = 0
        self.compute_s = 0.0
        self.tokens_per_s = 0.0
        self._max_batch_tokens = max_batch_tokens

    def run(self, batch: Sequence[QueuedPrompt]) -> Iterator[BatchResult]:
        """Compute a batch and yield the results of each sub-batch.

        A batch that runs out of memory is split into halves of about equal tokens. A batch that fails
        otherwise is retried request by request, so that only the faulty one gets the error. Prompts of
        requests that were cancelled or have expired are skipped.
        """
        sub_batches: list[Sequence[QueuedPrompt]] = [batch]
        while sub_batches:
            sub_batch = _drop_inactive(sub_batches.pop())
            if not sub_batch:
                continue
            scores = self._compute(sub_batch)
            if not isinstance(scores, RerankError):
                yield _validate_scores(sub_batch, scores, self.engine.name)
            elif parts := self._split_failed(sub_batch, scores):
                sub_batches.extend(reversed(parts))
            else:
                yield BatchResult(failures=[(sub_batch[0].request, scores)])

    def _compute(self, sub_batch: Sequence[QueuedPrompt]) -> list[float] | RerankError:
        """Call the engine once. Errors are returned, so that no handler keeps their frames' tensors alive."""
        started = time.perf_counter()
        try:
            scores = [float(score) for score in self.engine.log_odds([item.sequence for item in sub_batch])]
        except (MemoryError, DeviceLostError):
            raise  # the process is short of memory, or the device is lost: the worker ends
        except EngineOutOfMemoryError as error:
            self._halve_budget(count_tokens(sub_batch))
            _release_frames(error)
            return error
        except Exception as error:  # noqa: BLE001 - the request fails with it
            return _as_rerank_error(error, self.engine.name)
        if len(scores) != len(sub_batch):
            return EngineError(
                f"The engine on {self.engine.name!r} returned {len(scores)} scores for {len(sub_batch)} prompts"
            )
        self._record(sub_batch, time.perf_counter() - started)
        return scores

    def _split_failed(
        self, sub_batch: Sequence[QueuedPrompt], error: RerankError
    ) -> list[list[QueuedPrompt]]:
        """Return the smaller sub-batches to retry; none if one request caused the failure."""
        if isinstance(error, EngineOutOfMemoryError):
            self.num_oom_splits += len(sub_batch) > 1
            return _halves(sub_batch) if len(sub_batch) > 1 else []
        groups: dict[Request, list[QueuedPrompt]] = {}
        for item in sub_batch:
            groups.setdefault(item.request, []).append(item)
        return list(groups.values()) if len(groups) > 1 else []

    def _record(self, sub_batch: Sequence[QueuedPrompt], seconds: float) -> None:
        tokens = count_tokens(sub_batch)
        self.num_batches += 1
        self.num_sequences += len(sub_batch)
        self.num_tokens += tokens
        self.compute_s += seconds
        if tokens * 2 >= self.budget_tokens:  # a small batch does not test the memory
            growth = max(1, int(self._max_batch_tokens * _BUDGET_RECOVERY))
            self.budget_tokens = min(self._max_batch_tokens, self.budget_tokens + growth)
        speed = tokens / max(seconds, 1e-6)
        weight = _SPEED_SMOOTHING if self.tokens_per_s else 1.0
        self.tokens_per_s += weight * (speed - self.tokens_per_s)

    def _halve_budget(self, failed_tokens: int) -> None:
        self.budget_tokens = max(1, min(self.budget_tokens, failed_tokens) // 2)
        logger.warning(
            "%s ran out of memory with a batch of %d tokens; its budget is now %d tokens",
            self.engine.name,
            failed_tokens,
            self.budget_tokens,
        )


def _drop_inactive(sub_batch: Sequence[QueuedPrompt]) -> list[QueuedPrompt]:
    now = time.monotonic()
    return [item for item in sub_batch if item.request.is_active(now)]


def _validate_scores(sub_batch: Sequence[QueuedPrompt], scores: Sequence[float], name: str) -> BatchResult:
    """Return finite scores; a request with a non-finite one fails."""
    non_finite = {
        item.request: score for item, score in zip(sub_batch, scores, strict=True) if not math.isfinite(score)
    }
    failures = [
        (request, NonFiniteScoreError(f"The engine on {name!r} returned {score!r} as log-odds"))
        for request, score in non_finite.items()
    ]
    good = [
        (item, score) for item, score in zip(sub_batch, scores, strict=True) if item.request not in non_finite
    ]
    return BatchResult(good, failures)


def _halves(sub_batch: Sequence[QueuedPrompt]) -> list[list[QueuedPrompt]]:
    """Return two non-empty parts of about equal tokens."""
    counter = TokenCounter()
    ends = list(accumulate(counter.add(item.sequence) for item in sub_batch))
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
