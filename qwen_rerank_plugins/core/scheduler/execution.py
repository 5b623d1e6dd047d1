"""One device and what can go wrong on it: memory runs out, a batch fails, a score is no number.

It knows no threads, no locks and no queue: a batch goes in, and answers for its prompts come out, one sub-batch at
a time. Nothing that the engine raises as an `Exception` leaves here; it becomes the answer of the request that it
belongs to.
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

from qwen_rerank_plugins.core.scheduler.queue import Item, Request, count_tokens
from qwen_rerank_plugins.core.sequences import TokenCounter, TokenSequence
from qwen_rerank_plugins.errors import (
    DeviceLostError,
    EngineError,
    EngineOutOfMemoryError,
    NonFiniteScoreError,
    RerankError,
)

__all__ = ["Answers", "Device", "TokenEngine"]

logger = logging.getLogger(__name__)

# After memory ran out, the budget comes back by this part of its maximum with each well-filled batch: from a half
# in 32 batches, so that a limit that is met again each time costs about one batch in twenty.
_REGROWTH = 1 / 64

_SPEED_SMOOTHING = 0.2  # weight of the latest batch in the device's tokens per second


class TokenEngine(Protocol):
    """What computes: token ids in, log-odds out, on one device. Called from one thread at a time."""

    @property
    def name(self) -> str:
        """The device, such as "cpu" or "cuda:0"."""

    def log_odds(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """The log-odds of every prompt, in order, all computed as one batch.

        Raises:
            EngineOutOfMemoryError: The batch is too large for the device's memory; half of it may fit.
        """

    def after_fork(self) -> None:
        """Make the engine usable in a forked child; called there once, before the first batch."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one sub-batch gave.

    Attributes:
        scores: Prompts with their log-odds, finite.
        failures: Requests that cannot be served, with the reason.
    """

    scores: Sequence[tuple[Item, float]] = ()
    failures: Sequence[tuple[Request, RerankError]] = ()


class Device:
    """Runs batches on one engine and keeps its working budget.

    Args:
        engine: What computes.
        max_batch_tokens: The budget while memory suffices.

    Attributes:
        budget_tokens: Tokens that the next batch should not exceed.
        num_batches: Batches that were computed.
        num_sequences: Prompts that were computed.
        num_tokens: Tokens that were computed, shared segments once a batch.
        num_oom_splits: Batches that were cut in two because memory ran out.
        compute_s: Seconds that the engine computed.
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

    def run(self, batch: Sequence[Item]) -> Iterator[Answers]:
        """Compute a batch, in pieces where it must be, and yield answers as they come.

        When memory runs out, the batch is cut in two halves of about equal tokens. When it fails otherwise, each of
        its requests is tried once more by itself, so that only the guilty one gets the error. Prompts whose request
        nobody waits for any more are left out of what is still to come.
        """
        pieces: list[Sequence[Item]] = [batch]
        while pieces:
            piece = _live(pieces.pop())
            if not piece:
                continue
            scores = self._attempt(piece)
            if not isinstance(scores, RerankError):
                yield _validate_scores(piece, scores, self.engine.name)
            elif smaller := self._divide(piece, scores):
                pieces.extend(reversed(smaller))
            else:
                yield Answers(failures=[(piece[0].request, scores)])

    def _attempt(self, piece: Sequence[Item]) -> list[float] | RerankError:
        """Call the engine once. The error is returned, so that no handler keeps its frames' tensors alive."""
        started = time.perf_counter()
        try:
            scores = [float(score) for score in self.engine.log_odds([item.sequence for item in piece])]
        except (MemoryError, DeviceLostError):
            raise  # the process is short of memory, or cannot use the device any more: the worker ends
        except EngineOutOfMemoryError as error:
            self._shrink(count_tokens(piece))
            _release_frames(error)
            return error
        except Exception as error:  # noqa: BLE001 - whatever it is, its waiter must hear of it
            return _as_rerank_error(error, self.engine.name)
        if len(scores) != len(piece):
            return EngineError(
                f"The engine on {self.engine.name!r} gave {len(scores)} scores for {len(piece)} prompts"
            )
        self._record(piece, time.perf_counter() - started)
        return scores

    def _divide(self, piece: Sequence[Item], error: RerankError) -> list[list[Item]]:
        """Smaller pieces to try instead of the one that failed; none if one request is to blame."""
        if isinstance(error, EngineOutOfMemoryError):
            self.num_oom_splits += len(piece) > 1
            return _halves(piece) if len(piece) > 1 else []
        groups: dict[Request, list[Item]] = {}
        for item in piece:
            groups.setdefault(item.request, []).append(item)
        return list(groups.values()) if len(groups) > 1 else []

    def _record(self, piece: Sequence[Item], seconds: float) -> None:
        tokens = count_tokens(piece)
        self.num_batches += 1
        self.num_sequences += len(piece)
        self.num_tokens += tokens
        self.compute_s += seconds
        if tokens * 2 >= self.budget_tokens:  # a small batch says nothing about memory
            growth = max(1, int(self._max_batch_tokens * _REGROWTH))
            self.budget_tokens = min(self._max_batch_tokens, self.budget_tokens + growth)
        speed = tokens / max(seconds, 1e-6)
        weight = _SPEED_SMOOTHING if self.tokens_per_s else 1.0
        self.tokens_per_s += weight * (speed - self.tokens_per_s)

    def _shrink(self, failed_tokens: int) -> None:
        self.budget_tokens = max(1, min(self.budget_tokens, failed_tokens) // 2)
        logger.warning(
            "%s ran out of memory with a batch of %d tokens; its budget is now %d tokens",
            self.engine.name,
            failed_tokens,
            self.budget_tokens,
        )


def _live(piece: Sequence[Item]) -> list[Item]:
    now = time.monotonic()
    return [item for item in piece if item.request.is_live(now)]


def _validate_scores(piece: Sequence[Item], scores: Sequence[float], name: str) -> Answers:
    """Keep what is finite; a request with a score that is not gets an error."""
    bad = {item.request: score for item, score in zip(piece, scores, strict=True) if not math.isfinite(score)}
    failures = [
        (request, NonFiniteScoreError(f"The engine on {name!r} gave {score!r} as log-odds"))
        for request, score in bad.items()
    ]
    good = [(item, score) for item, score in zip(piece, scores, strict=True) if item.request not in bad]
    return Answers(good, failures)


def _halves(piece: Sequence[Item]) -> list[list[Item]]:
    """Two parts, neither empty, cut where half of the tokens are reached."""
    counter = TokenCounter()
    ends = list(accumulate(counter.add(item.sequence) for item in piece))
    middle = next(place for place, end in enumerate(ends) if 2 * end >= ends[-1])
    cut = min(middle + 1, len(piece) - 1)
    return [list(piece[:cut]), list(piece[cut:])]


def _as_rerank_error(error: Exception, name: str) -> RerankError:
    _release_frames(error)
    if isinstance(error, RerankError):
        return error
    wrapped = EngineError(f"The forward pass on {name!r} failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _release_frames(error: BaseException | None) -> None:
    """Empty the frames that the error and its causes came through: they hold the batch's tensors."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
