"""Calls that are scored together: what they cost, how a large one is cut, how each gets its own answer.

Tokens are estimated here, from bytes: the estimate decides what travels and waits together. What is computed together
is planned by the core, from real tokens. Knows neither Ray nor HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen_rerank_plugins.errors import DeadlineExceededError, RerankError
from qwen_rerank_plugins.types import PairScore, Scorer, ScoreRequest

__all__ = ["Answer", "Call", "estimate_tokens", "score_together", "slices_of"]

BYTES_PER_TOKEN = 4  # English text; of Chinese text a token has about as many bytes
HEAD_TOKENS = 64  # of the template and the usual instruction, computed once a query
TAIL_TOKENS = 12  # of the template after each document

Answer = list[PairScore] | RerankError
"""What a call gets. Errors are values here: on their way between processes Ray would wrap and log raised ones."""


@dataclass(frozen=True, slots=True)
class Call:
    """Pairs that came together, and until when their scores are wanted.

    Attributes:
        requests: The pairs.
        expires_at: On `time.monotonic`'s clock; None for never.
        shares: Its part of a full batch, in whole shares.
    """

    requests: Sequence[ScoreRequest]
    expires_at: float | None = None
    shares: int = 1


def _tokens(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return 1 + size // BYTES_PER_TOKEN


def estimate_tokens(requests: Sequence[ScoreRequest], max_length: int) -> list[int]:
    """What each pair adds to a batch, roughly: its document, and its query where the one before had another.

    Args:
        requests: The pairs.
        max_length: Tokens of a pair, above which it is cut (or read in chunks, which are estimated as if cut).
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


def slices_of(
    requests: Sequence[ScoreRequest], *, batch_tokens: int, max_length: int
) -> Iterator[Sequence[ScoreRequest]]:
    """Cut pairs, in their order, into runs of about equal cost, as many as it takes for each to be about a batch or less."""
    costs = estimate_tokens(requests, max_length)
    num_slices = max(1, -(-sum(costs) // batch_tokens))
    middles = (end - cost / 2 for end, cost in zip(itertools.accumulate(costs), costs, strict=True))
    numbers = [int(middle * num_slices / sum(costs)) for middle in middles]
    for _, run in itertools.groupby(range(len(requests)), key=numbers.__getitem__):
        yield [requests[index] for index in run]


async def score_together(scorer: Scorer, calls: Sequence[Call]) -> list[Answer]:
    """Score the pairs of several calls in one call to the scorer, and give each call its own scores or error.

    A call whose time is over costs nothing. What fails together is tried again alone, so that nobody gets the error of
    another's pairs.
    """
    live = [index for index, call in enumerate(calls) if _seconds_left(call) > 0]
    late: Answer = DeadlineExceededError("the deadline passed before the pairs were scored")
    answers: list[Answer] = [late] * len(calls)
    try:
        scores = await _score([calls[index] for index in live], scorer)
    except RerankError as error:
        scores = [error] if len(live) == 1 else await _score_alone([calls[index] for index in live], scorer)
    for index, answer in zip(live, scores, strict=True):
        answers[index] = answer
    return answers


async def _score(calls: Sequence[Call], scorer: Scorer) -> list[Answer]:
    requests = [request for call in calls for request in call.requests]
    seconds = max((_seconds_left(call) for call in calls), default=0.0)  # who has less gives up by itself
    found = iter(await scorer.ascore(requests, deadline_s=None if seconds == float("inf") else seconds))
    return [[next(found) for _ in call.requests] for call in calls]


async def _score_alone(calls: Sequence[Call], scorer: Scorer) -> list[Answer]:
    async def one(call: Call) -> Answer:
        try:
            return (await _score([call], scorer))[0]
        except RerankError as error:
            return error

    return await asyncio.gather(*map(one, calls))


def _seconds_left(call: Call) -> float:
    return float("inf") if call.expires_at is None else call.expires_at - time.monotonic()
