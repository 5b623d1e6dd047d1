"""What a replica does that scores: holds the model, collects calls, knows whether its engine is alive.

Knows no HTTP; of Serve only its batching.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

from ray import serve

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ClosedError, EngineError, RerankError
from qwen_rerank_plugins.ray.grouping import Answer, Call, estimate_tokens, score_together
from qwen_rerank_plugins.ray.scaling import ScalingSettings
from qwen_rerank_plugins.scorers import build_scorer
from qwen_rerank_plugins.types import Scorer, ScoreRequest

__all__ = ["ScorerReplica"]

MAX_CONCURRENT_BATCHES = 4
"""Batches that are handed to the core at a time. Serve closes a batch when its wait is over even while another is being
computed, so that with one at a time small ones would stand in line; the core merges what it has when it has time."""

PROBE_TIMEOUT_S = 20.0


class ScorerReplica:
    """Scores calls, together where they come together.

    A batch is counted in shares: each call takes as many of them as its part of the token budget, at least one. So a
    batch holds neither more tokens than the budget nor more calls than the replica is given.

    Args:
        config: The reranker's settings.
        scaling: The batch's limits.
        scorer: Scores in place of the one that the settings mean.
    """

    def __init__(
        self, config: RerankConfig, scaling: ScalingSettings, *, scorer: Scorer | None = None
    ) -> None:
        self._scorer = build_scorer(config) if scorer is None else scorer
        self._scaling = scaling
        self._max_length = config.max_length
        self._max_shares = max(1, scaling.max_ongoing_requests // MAX_CONCURRENT_BATCHES)
        self._suspect: RerankError | None = None
        self._numbers = itertools.count()
        collect = serve.batch(
            max_batch_size=self._max_shares,
            batch_wait_timeout_s=scaling.batch_wait_s,
            max_concurrent_batches=MAX_CONCURRENT_BATCHES,
            batch_size_fn=_shares,
        )
        self._collected = collect(self._score_batch)

    async def score(self, requests: Sequence[ScoreRequest], deadline_s: float | None = None) -> Answer:
        """Give a call's scores, or the error that it gets."""
        tokens = sum(estimate_tokens(requests, self._max_length))
        part = math.ceil(tokens / self._scaling.batch_tokens * self._max_shares)
        expires_at = None if deadline_s is None else time.monotonic() + deadline_s
        answer: Answer = await self._collected(
            Call(requests, expires_at, min(max(1, part), self._max_shares))
        )
        return answer

    async def _score_batch(self, calls: list[Call]) -> list[Answer]:
        answers = await score_together(self._scorer, calls)
        for answer in answers:
            if isinstance(answer, EngineError | ClosedError):
                self._suspect = answer
        return answers

    def info(self) -> dict[str, Any]:
        """What is loaded."""
        return self._scorer.info()

    async def check_health(self) -> None:
        """Let Serve replace this replica when its engine is dead; asked every few seconds.

        The engine is only bothered after a failure, with a pair that no cache holds.

        Raises:
            RerankError: It does not answer.
        """
        if self._suspect is None:
            return
        pair = ScoreRequest("probe", f"probe {next(self._numbers)} {time.time_ns()}")
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            answer = (await score_together(self._scorer, [Call([pair])]))[0]
        if isinstance(answer, RerankError):
            raise answer
        self._suspect = None

    def __del__(self) -> None:
        scorer = getattr(self, "_scorer", None)
        if scorer is not None:
            scorer.close()


def _shares(calls: Sequence[Call]) -> int:
    return sum(call.shares for call in calls)
