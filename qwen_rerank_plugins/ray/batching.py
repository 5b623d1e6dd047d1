"""Batches of calls: estimate their cost, split large ones, score several together. Uses neither Ray nor HTTP.

Tokens are estimated from bytes. The estimate decides what travels and waits together; the core plans the computation
from real tokens.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from qwen_rerank_plugins.errors import DeadlineExceededError, RerankError
from qwen_rerank_plugins.types import PairScore, Priority, Scorer, ScoreRequest

__all__ = ["Call", "ScoresOrError", "estimate_tokens", "is_fatal", "score_calls", "split_requests"]

BYTES_PER_TOKEN = 4  # English text; Chinese text has about as many bytes per token
HEAD_TOKENS = 64  # of the template and the default instruction, computed once per query
TAIL_TOKENS = 12  # of the template after each document

ScoresOrError = list[PairScore] | RerankError
"""The outcome of a call. Errors are values here: Ray would wrap and log raised ones between processes."""


@dataclass(frozen=True, slots=True)
class Call:
    """Pairs of one call, and its deadline.

    Attributes:
        requests: The pairs.
        expires_at_s: The deadline on the clock of `time.monotonic`; None for no deadline.
        shares: Its part of a full batch, in whole shares.
        priority: Whether it comes before or after calls of the other kind in the scorer.
    """

    requests: Sequence[ScoreRequest]
    expires_at_s: float | None = None
    shares: int = 1
    priority: Priority = "interactive"


def is_fatal(outcome: object) -> bool:
    """Return whether an outcome is an error after which the engine cannot score again, such as a lost CUDA context."""
    return isinstance(outcome, RerankError) and bool(getattr(outcome, "is_fatal", False))


def _tokens(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return 1 + size // BYTES_PER_TOKEN


def estimate_tokens(requests: Sequence[ScoreRequest], max_length: int) -> list[int]:
    """Estimate the tokens that each pair adds to a batch: its document, and its query if it differs from the last one.

    Args:
        requests: The pairs.
        max_length: Tokens at which a pair is truncated; a pair that is read in chunks is estimated as truncated.
    """
    costs = []
    before: tuple[str | None, str] | None = None
    for request in requests:
        head = (request.instruction, request.query)
        cost = TAIL_TOKENS + _tokens(request.document)
        if head != before:
            cost += HEAD_TOKENS + _tokens(request.query) + _tokens(request.instruction or "")
        before = head
        costs.append(min(cost, max_length))
    return costs


def split_requests(
    requests: Sequence[ScoreRequest], *, batch_tokens: int, max_length: int
) -> Iterator[Sequence[ScoreRequest]]:
    """Split pairs into consecutive parts of about equal cost, each of about `batch_tokens` or less.

    Args:
        requests: The pairs.
        batch_tokens: Estimated tokens of a part.
        max_length: Tokens at which a pair is truncated.
    """
    costs = estimate_tokens(requests, max_length)
    num_parts = max(1, -(-sum(costs) // batch_tokens))
    middles = (end - cost / 2 for end, cost in zip(itertools.accumulate(costs), costs, strict=True))
    numbers = [int(middle * num_parts / sum(costs)) for middle in middles]
    for _, part in itertools.groupby(range(len(requests)), key=numbers.__getitem__):
        yield [requests[index] for index in part]


async def score_calls(scorer: Scorer, calls: Sequence[Call]) -> list[ScoresOrError]:
    """Score the pairs of several calls in one call to the scorer per priority, and return the outcome of each.

    Expired calls are not scored. If the common call fails, each call is scored alone, so that none gets the error of
    another one's pairs.
    """
    expired = DeadlineExceededError("the deadline passed before the pairs were scored")
    outcomes: list[ScoresOrError] = [expired] * len(calls)

    async def score_all(priority: Priority) -> None:
        live = [
            index for index, one in enumerate(calls) if one.priority == priority and _seconds_left(one) > 0
        ]
        own = [calls[index] for index in live]
        try:
            found = await _score(own, scorer) if own else []
        except RerankError as error:
            found = [error] if len(own) == 1 else await _score_alone(own, scorer)
        for index, outcome in zip(live, found, strict=True):
            outcomes[index] = outcome

    await asyncio.gather(*map(score_all, get_args(Priority)))
    return outcomes


async def _score(calls: Sequence[Call], scorer: Scorer) -> list[ScoresOrError]:
    requests = [request for call in calls for request in call.requests]
    seconds = max(map(_seconds_left, calls))  # calls with less time give up themselves
    deadline_s = None if seconds == float("inf") else seconds
    scores = iter(await scorer.ascore(requests, deadline_s=deadline_s, priority=calls[0].priority))
    return [[next(scores) for _ in call.requests] for call in calls]


async def _score_alone(calls: Sequence[Call], scorer: Scorer) -> list[ScoresOrError]:
    async def score_one(call: Call) -> ScoresOrError:
        try:
            return (await _score([call], scorer))[0]
        except RerankError as error:
            return error

    return await asyncio.gather(*map(score_one, calls))


def _seconds_left(call: Call) -> float:
    return float("inf") if call.expires_at_s is None else call.expires_at_s - time.monotonic()
