"""ScorerReplica: holds the model, batches calls, and reports whether its engine works. Uses no HTTP."""

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
from qwen_rerank_plugins.ray.batching import Call, ScoresOrError, estimate_tokens, is_fatal, score_calls
from qwen_rerank_plugins.ray.scaling import ScalingSettings
from qwen_rerank_plugins.scorers import build_scorer
from qwen_rerank_plugins.types import Priority, Scorer, ScoreRequest

__all__ = ["ScorerReplica"]

MAX_CONCURRENT_BATCHES = 4
"""Batches in the core at the same time. Serve closes a batch after its wait even while another one is computed: with one at
a time, small batches would queue up. The core merges the batches that are waiting."""

PROBE_TIMEOUT_S = 20.0


class ScorerReplica:
    """Scores calls in batches.

    A batch is measured in shares. A call takes shares in proportion to its part of the token budget, at least one, so
    that a batch exceeds neither the budget nor the number of calls of the replica.

    Args:
        config: The reranker's settings.
        scaling: The limits of a batch.
        scorer: Replaces the scorer of the settings; for tests.
    """

    def __init__(
        self, config: RerankConfig, scaling: ScalingSettings, *, scorer: Scorer | None = None
    ) -> None:
        self._scorer = build_scorer(config) if scorer is None else scorer
        self._scaling = scaling
        self._max_length = config.max_length
        self._max_shares = max(1, scaling.max_ongoing_requests // MAX_CONCURRENT_BATCHES)
        self._failure: RerankError | None = None
        self._probe_numbers = itertools.count()
        batch = serve.batch(
            max_batch_size=self._max_shares,
            batch_wait_timeout_s=scaling.batch_wait_s,
            max_concurrent_batches=MAX_CONCURRENT_BATCHES,
            batch_size_fn=_shares,
        )
        self._score_batched = batch(self._score_batch)

    async def score(
        self,
        requests: Sequence[ScoreRequest],
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> ScoresOrError:
        """Return the scores of a call, or its error."""
        tokens = sum(estimate_tokens(requests, self._max_length))
        part = math.ceil(tokens / self._scaling.batch_tokens * self._max_shares)
        expires_at_s = None if deadline_s is None else time.monotonic() + deadline_s
        call = Call(requests, expires_at_s, min(max(1, part), self._max_shares), priority)
        outcome: ScoresOrError = await self._score_batched(call)
        return outcome

    async def _score_batch(self, calls: list[Call]) -> list[ScoresOrError]:
        outcomes = await score_calls(self._scorer, calls)
        for outcome in outcomes:
            if isinstance(outcome, EngineError | ClosedError) and not is_fatal(self._failure):
                self._failure = outcome  # a fatal one stays
        return outcomes

    def info(self) -> dict[str, Any]:
        """Return the `info` of the scorer."""
        return self._scorer.info()

    async def check_health(self) -> None:
        """Raise if the engine does not work, so that Serve replaces this replica.

        After a failure the engine is probed with a pair that no cache contains. A fatal failure needs no probe.

        Raises:
            RerankError: The engine failed fatally, or fails the probe.
            TimeoutError: The engine does not respond.
        """
        failure = self._failure
        if failure is None:
            return
        if is_fatal(failure):
            raise failure
        pair = ScoreRequest("probe", f"probe {next(self._probe_numbers)} {time.time_ns()}")
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            outcome = (await score_calls(self._scorer, [Call([pair])]))[0]
        if isinstance(outcome, RerankError):
            raise outcome
        if self._failure is failure:  # otherwise a call failed during the probe
            self._failure = None

    def __del__(self) -> None:
        scorer = getattr(self, "_scorer", None)
        if scorer is not None:
            scorer.close()


def _shares(calls: Sequence[Call]) -> int:
    return sum(call.shares for call in calls)
