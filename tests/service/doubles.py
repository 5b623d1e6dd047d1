"""Scorers that tests of the service control: slow, failing, dying, silent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from qwen_rerank_plugins import LexicalScorer, PairScore, ScoreRequest


class SteeredScorer:
    """Scores by words, after a delay, unless an error is set; counts requests and cancellations."""

    model = "steered"

    def __init__(
        self, *, delay_s: float = 0.0, error: Exception | None = None, max_chars: int | None = None
    ) -> None:
        self.delay_s = delay_s
        self.error = error
        self.num_errors: int | None = None  # how many more calls fail; None for all
        self.started = 0
        self.finished = 0
        self.cancelled = 0
        self.closed = 0
        self.deadlines: list[float | None] = []
        self.priorities: list[str] = []
        self.released = threading.Event()  # until it is set, calls wait
        self.released.set()
        self._lexical = LexicalScorer(max_chars=max_chars)

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: str = "interactive",
    ) -> list[PairScore]:
        return self._lexical.score(requests)

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: str = "interactive",
    ) -> list[PairScore]:
        is_probe = requests[0].query == "probe"
        self.started += not is_probe
        self.deadlines.append(deadline_s)
        self.priorities.append(priority)
        try:
            await asyncio.sleep(0.0 if is_probe else self.delay_s)
            if not is_probe:
                await asyncio.to_thread(self.released.wait)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None and self.num_errors != 0:
            if self.num_errors is not None:
                self.num_errors -= 1
            raise self.error
        self.finished += not is_probe
        return self._lexical.score(requests)

    def info(self) -> dict[str, Any]:
        return {"model": self.model, "device": "cpu", "dtype": "float32", "checkpoint": "/secret/folder"}

    def close(self) -> None:
        self.closed += 1
