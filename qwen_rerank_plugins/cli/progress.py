"""A scorer that scores in slices and reports its progress. Knows nothing of how progress is shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from qwen_rerank_plugins.errors import DeadlineExceededError
from qwen_rerank_plugins.types import PairScore, Priority, Scorer, ScoreRequest

SLICE = 64
"""Pairs between two reports: enough for a full batch, few enough for visible progress."""


class ProgressScorer:
    """Wraps a scorer and calls `on_progress` with the number of pairs after each slice."""

    def __init__(
        self, inner: Scorer, on_progress: Callable[[int], None], *, slice_pairs: int = SLICE
    ) -> None:
        self._inner = inner
        self._on_progress = on_progress
        self._slice_pairs = slice_pairs

    @property
    def model(self) -> str:
        """The inner scorer's name."""
        return self._inner.model

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score slice by slice; the deadline applies to all slices together.

        Raises:
            DeadlineExceededError: The deadline passed between two slices.
        """
        end_s = None if deadline_s is None else time.monotonic() + deadline_s
        scores: list[PairScore] = []
        for start in range(0, len(requests), self._slice_pairs):
            left_s = None if end_s is None else end_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise DeadlineExceededError(
                    f"only {start} of {len(requests)} pairs were scored within {deadline_s!r} s"
                )
            part = self._inner.score(
                requests[start : start + self._slice_pairs], deadline_s=left_s, priority=priority
            )
            scores += part
            self._on_progress(len(part))
        return scores

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score slice by slice in a thread, without blocking the event loop."""
        return await asyncio.to_thread(self.score, requests, deadline_s=deadline_s, priority=priority)

    def info(self) -> dict[str, Any]:
        """The inner scorer's info."""
        return self._inner.info()

    def close(self) -> None:
        """Close the inner scorer."""
        self._inner.close()
