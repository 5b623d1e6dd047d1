"""Doubles that several test modules use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from qwen_rerank_plugins import PairScore, ScoreRequest


class FakeScorer:
    """Scores by a function of the request, remembers what it was asked, and fails when it is set to."""

    model = "fake"

    def __init__(
        self,
        score_one: Callable[[ScoreRequest], PairScore] | None = None,
        *,
        error: Exception | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.calls: list[tuple[list[ScoreRequest], float | None]] = []
        self.priorities: list[str] = []
        self.closed = 0
        self._score_one = score_one or (lambda request: PairScore(float(request.document)))
        self._error = error
        self._delay_s = delay_s

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: str = "interactive",
    ) -> list[PairScore]:
        self.calls.append((list(requests), deadline_s))
        self.priorities.append(priority)
        time.sleep(self._delay_s)
        if self._error is not None:
            raise self._error
        return [self._score_one(request) for request in requests]

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: str = "interactive",
    ) -> list[PairScore]:
        return await asyncio.to_thread(self.score, requests, deadline_s=deadline_s, priority=priority)

    def info(self) -> dict[str, Any]:
        return {"model": self.model}

    def close(self) -> None:
        self.closed += 1
