"""The queue in front of the devices, as a pure data structure.

It knows no threads, no locks, no clock and no engine: the scheduler calls it under a lock. Shared segments are counted
once: per request in the queue, per batch in a batch.

*Admission.* A request that does not fit below `max_queue_tokens` waits for admission, first come first
served, and is admitted in slices: after each slice it goes to the end of the line.

*Fair filling.* Weighted fair queueing by virtual finish times (Demers, Keshav, Shenker 1989). Virtual time
advances by served tokens divided by the number of backlogged requests. A request's finish time is the virtual
time plus its own size; one that is larger than a batch is served in packets of a batch. A batch takes the
earliest finish times first. So requests of equal size finish in the order they arrived, a small one overtakes
a large one, and none starves, because the finish times of newcomers advance with virtual time.

*Priorities.* Interactive requests come before background ones. A batch cannot be interrupted, so background batches are
small, not counting what their requests have in common with earlier batches; and while interactive requests wait, background ones get one batch for every `BACKGROUND_INTERVAL` times its
tokens, so that they finish under any load.

*Order within a request.* Prompts with a common prefix are neighbours, shorter ones first
(`sequences.group_by_prefix`), so a batch computes each prefix once.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qwen_rerank_plugins.core.scheduler.futures import ScoreFuture
from qwen_rerank_plugins.core.sequences import Segment, added_tokens, group_by_prefix, unseen_segments
from qwen_rerank_plugins.types import Priority

__all__ = [
    "Admission",
    "FairQueue",
    "PriorityQueue",
    "QueuedPrompt",
    "Request",
    "count_tokens",
]

Admission = Literal["wait", "reject"]
"""What happens to an interactive request when the queue is full: it waits, or it is rejected."""

BACKGROUND_INTERVAL = 16
"""Tokens of interactive batches per token of a background batch, while requests of both priorities wait."""

# Requests skipped per batch because their next prompt exceeds the remaining budget.
_MAX_SKIPPED = 16


@dataclass(slots=True, eq=False)
class Request:
    """One request in the queue.

    Attributes:
        number: Unique, and increasing in the order of arrival.
        prompts: The prompts in the caller's order.
        deadline: Monotonic time in seconds after which the request fails, or None.
        priority: Whether it comes before or after requests of the other kind.
        arrived: Monotonic time of arrival.
        future: Receives the log-odds in the caller's order, or an error.
        order: Indices into `prompts` in the order of computation.
        costs: Tokens that each prompt adds to those before it in `order`, in that order.
        log_odds: The results so far, in the caller's order.
        num_missing: Results not yet computed.
        queue: The queue that the request was added to, if any.
        num_taken: Prompts that went into a batch: the first of `order`.
        num_admitted: Prompts that have entered the queue: the first of `order`.
        tokens_left: Tokens not yet taken, admitted or not.
        finish_time: Virtual finish time of the current packet.
        packet_left: Tokens of the current packet not yet taken.
        is_open: Whether the request is neither completed, failed nor cancelled.
    """

    number: int
    prompts: Sequence[Segment]
    deadline: float | None = None
    priority: Priority = "interactive"
    arrived: float = 0.0
    future: ScoreFuture = field(default_factory=ScoreFuture)
    order: list[int] = field(init=False)
    costs: list[int] = field(init=False)
    log_odds: list[float] = field(init=False)
    num_missing: int = field(init=False)
    queue: FairQueue | None = field(init=False, default=None)
    num_taken: int = field(init=False, default=0)
    num_admitted: int = field(init=False, default=0)
    tokens_left: int = field(init=False)
    finish_time: float = field(init=False, default=0.0)
    packet_left: int = field(init=False, default=0)
    is_open: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        self.order = group_by_prefix(self.prompts)
        self.costs = added_tokens(self.prompts[index] for index in self.order)
        self.log_odds = [0.0] * len(self.order)
        self.num_missing = len(self.order)
        self.tokens_left = sum(self.costs)

    @property
    def is_ready(self) -> bool:
        """Whether a prompt is in the queue: admitted and not yet taken."""
        return self.num_taken < self.num_admitted

    @property
    def is_fully_admitted(self) -> bool:
        """Whether all prompts have entered the queue."""
        return self.num_admitted == len(self.order)

    @property
    def queued_tokens(self) -> int:
        """Tokens in the queue: admitted and not yet taken."""
        return sum(self.costs[self.num_taken : self.num_admitted])

    def next_slice(self, max_tokens: int) -> tuple[int, int]:
        """Return end (exclusive, in `order`) and tokens of the next slice to admit: at least one prompt."""
        end, tokens = self.num_admitted + 1, self.costs[self.num_admitted]
        while end < len(self.costs) and tokens + self.costs[end] <= max_tokens:
            tokens += self.costs[end]
            end += 1
        return end, tokens


@dataclass(frozen=True, slots=True)
class QueuedPrompt:
    """One prompt of one request, and its index in the request's `prompts`."""

    request: Request
    index: int
    prompt: Segment


def count_tokens(batch: Iterable[QueuedPrompt]) -> int:
    """Return the tokens that a batch computes, shared segments once."""
    return sum(added_tokens(item.prompt for item in batch))


class FairQueue:
    """Requests of one priority that wait for the devices.

    Args:
        max_queue_tokens: Capacity; further requests wait for admission. An empty queue admits any one prompt.
        max_batch_tokens: Tokens of a packet, the unit in which a large request is served, and of a batch.
        refill_tokens: Level up to which later slices of a request fill the queue, so that newcomers find room
            where they cannot wait; None for `max_queue_tokens`. A request with nothing in the queue is
            admitted its next slice regardless, so that newcomers cannot starve it.
    """

    def __init__(
        self, *, max_queue_tokens: int, max_batch_tokens: int, refill_tokens: int | None = None
    ) -> None:
        self.queued_tokens = 0
        self.max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._refill_tokens = refill_tokens
        self._slice_tokens = max(1, min(max_queue_tokens // 4, max_batch_tokens // 2))
        self._admission_line: deque[Request] = deque()
        self._ready: list[tuple[float, int, Request]] = []  # a heap; removed requests stay in it until popped
        self._backlogged: set[Request] = set()  # ready and open requests, which compete for batches
        self._virtual_time = 0.0

    @property
    def num_queued(self) -> int:
        """Requests with prompts in the queue."""
        return len(self._backlogged)

    @property
    def num_waiting(self) -> int:
        """Requests with prompts that wait for admission."""
        return len(self._admission_line)

    def has_room_for(self, request: Request) -> bool:
        """Return whether a request can be admitted at once: it fits, or the queue is empty."""
        return self.queued_tokens == 0 or self.queued_tokens + request.tokens_left <= self._max_queue_tokens

    def add(self, request: Request) -> None:
        """Add a request behind those that wait for admission."""
        request.queue = self
        self._admission_line.append(request)
        self._admit()

    def add_without_waiting(self, request: Request) -> None:
        """Admit a request ahead of those that wait, in slices if it exceeds the capacity."""
        request.queue = self
        if request.tokens_left <= self._max_queue_tokens:
            self._admit_slice(request, len(request.order), request.tokens_left)
        else:
            self._admission_line.appendleft(request)
            self._admit()

    def remove(self, request: Request) -> None:
        """Remove a request; no effect if it is gone already."""
        request.is_open = False
        if not request.is_fully_admitted and request in self._admission_line:
            self._admission_line.remove(request)
        if request in self._backlogged:
            self._backlogged.remove(request)
            self.queued_tokens -= request.queued_tokens
        self._admit()

    def take(self, budget: int, new_tokens: float = math.inf) -> list[QueuedPrompt]:
        """Return the next batch, earliest finish times first; at least one prompt.

        Args:
            budget: Maximum tokens of the batch.
            new_tokens: Maximum tokens besides those that earlier batches of the same requests contained, which are
                usually cached.
        """
        batch: list[QueuedPrompt] = []
        segments: set[Segment] = set()
        skipped: list[Request] = []
        room, new_room = budget, new_tokens
        self._admit(extra=budget)  # requests that wait compete for the room that this batch frees
        while min(room, new_room) > 0 and len(skipped) < _MAX_SKIPPED and (request := self._pop_next(room)):
            room, new_room, fits = self._take_packet(request, batch, segments, room, new_room)
            if fits:
                self._schedule(request)
            else:
                skipped.append(request)
        for request in skipped:
            heapq.heappush(self._ready, (request.finish_time, request.number, request))
        self._admit()
        return batch

    def _admit(self, extra: int = 0) -> None:
        """Admit slices in order while the first one fits in the free room plus `extra` tokens."""
        while self._admission_line:
            request = self._admission_line[0]
            end, tokens = request.next_slice(self._slice_tokens)
            limit, is_starved = self._max_queue_tokens, False
            if request.num_admitted and self._refill_tokens is not None:
                limit, is_starved = self._refill_tokens, not request.is_ready
            if self.queued_tokens and not is_starved and self.queued_tokens + tokens > limit + extra:
                return
            self._admission_line.popleft()
            self._admit_slice(request, end, tokens)
            if not request.is_fully_admitted:
                self._admission_line.append(request)

    def _admit_slice(self, request: Request, end: int, tokens: int) -> None:
        was_ready = request.is_ready
        request.num_admitted = end
        self.queued_tokens += tokens
        if not was_ready:
            self._backlogged.add(request)
            self._schedule(request)

    def _schedule(self, request: Request) -> None:
        """Assign a ready request its next packet if it has none, and put it on the heap."""
        if not request.is_ready:
            return
        if request.packet_left <= 0:
            request.packet_left = min(request.tokens_left, self.max_batch_tokens)
            request.finish_time = max(self._virtual_time, request.finish_time) + request.packet_left
        heapq.heappush(self._ready, (request.finish_time, request.number, request))

    def _pop_next(self, room: int) -> Request | None:
        """Pop the request with the earliest finish time; None when nothing is left to compute."""
        if not self._ready:
            self._admit(extra=room)
        while self._ready:
            request = heapq.heappop(self._ready)[2]
            if request.is_open:
                return request
        return None

    def _take_packet(
        self,
        request: Request,
        batch: list[QueuedPrompt],
        segments: set[Segment],
        room: int,
        new_room: float,
    ) -> tuple[int, float, bool]:
        """Move prompts of the current packet into the batch.

        Returns:
            What is left of both rooms, and False if the next prompt does not fit; the first of a batch always does.
        """
        while request.is_ready:
            index = request.order[request.num_taken]
            unseen, tokens = unseen_segments(request.prompts[index], segments)
            cost = request.costs[request.num_taken]
            if batch and (tokens > room or cost > new_room):
                return room, new_room, False
            batch.append(QueuedPrompt(request, index, request.prompts[index]))
            segments.update(unseen)
            room -= tokens
            new_room -= cost
            self._virtual_time += cost / len(self._backlogged)
            request.num_taken += 1
            request.tokens_left -= cost
            request.packet_left -= cost
            self.queued_tokens -= cost
            if request.packet_left <= 0:
                break
        if not request.is_ready:
            self._backlogged.remove(request)
        return room, new_room, True


class PriorityQueue:
    """Two queues: interactive requests, and background ones behind them.

    Args:
        max_queue_tokens: Capacity of each queue.
        max_batch_tokens: Maximum tokens of an interactive batch.
        background_batch_tokens: Unit in which a large background request is served.
        admission: What happens to an interactive request that does not fit. Background requests wait.
    """

    def __init__(
        self,
        *,
        max_queue_tokens: int,
        max_batch_tokens: int,
        background_batch_tokens: int,
        admission: Admission,
    ) -> None:
        refill_tokens = max_queue_tokens // 2 if admission == "reject" else None
        self.interactive = FairQueue(
            max_queue_tokens=max_queue_tokens,
            max_batch_tokens=max_batch_tokens,
            refill_tokens=refill_tokens,
        )
        self.background = FairQueue(
            max_queue_tokens=max_queue_tokens, max_batch_tokens=background_batch_tokens
        )
        self._admission = admission
        self._passed_over_tokens = (
            0  # of interactive batches since the last background batch, while one waits
        )

    def add(self, request: Request) -> bool:
        """Add a request to the queue of its priority; return False if there is no room, and it may not wait."""
        if request.priority == "background":
            self.background.add(request)
        elif self._admission == "wait":
            self.interactive.add(request)
        elif self.interactive.has_room_for(request):
            self.interactive.add_without_waiting(request)
        else:
            return False
        return True

    def take(self, budget: int, background_tokens: int) -> list[QueuedPrompt]:
        """Return the next batch of up to `budget` tokens, all of one priority; empty if nothing waits.

        A background batch has up to `background_tokens` new tokens.
        """
        is_due = self._passed_over_tokens >= BACKGROUND_INTERVAL * background_tokens
        batch = [] if is_due else self.interactive.take(budget)
        if batch:
            if self.background.num_queued:
                self._passed_over_tokens += count_tokens(batch)
            return batch
        self._passed_over_tokens = 0
        batch = self.background.take(budget, background_tokens)
        return batch or (self.interactive.take(budget) if is_due else [])
