"""The queue in front of the devices, as a pure data structure.

It knows no threads, no locks, no clock, no futures and no engine: the scheduler calls it under a lock and
passes the time. Shared segments are counted once: per request in the queue, per batch in a batch.

*Admission.* A request that does not fit below `max_queue_tokens` waits for admission, first come first
served, and is admitted in slices: after each slice it goes to the end of the line.

*Fair filling.* Weighted fair queueing by virtual finish times (Demers, Keshav, Shenker 1989). Virtual time
advances by served tokens divided by the number of backlogged requests. A request's finish time is the virtual
time plus its own size; one that is larger than a batch is served in packets of a batch. A batch takes the
earliest finish times first. So requests of equal size finish in the order they arrived, a small one overtakes
a large one, and none starves, because the finish times of newcomers advance with virtual time.

*Order within a request.* Prompts with a common prefix are neighbours, shorter ones first
(`sequences.group_by_prefix`), so a batch computes each prefix once.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qwen_rerank_plugins.core.sequences import TokenCounter, TokenSequence, group_by_prefix

__all__ = ["Admission", "FairQueue", "QueuedPrompt", "Request", "count_tokens"]

# Requests skipped per batch because their next prompt exceeds the remaining budget.
_MAX_SKIPPED = 16


Admission = Literal["wait", "reject"]
"""What happens to a request when the queue is full: it waits, or it is rejected."""


@dataclass(slots=True, eq=False)
class Request:
    """One request in the queue.

    Attributes:
        number: Unique, and increasing in the order of arrival.
        sequences: The prompts in the caller's order.
        deadline: Monotonic time in seconds after which the request fails, or None.
        order: Indices into `sequences` in the order of computation.
        costs: Tokens that each prompt adds to those before it in `order`, in that order.
        log_odds: The results so far, in the caller's order.
        num_missing: Results not yet computed.
        num_taken: Prompts that went into a batch: the first of `order`.
        num_admitted: Prompts that have entered the queue: the first of `order`.
        tokens_left: Tokens not yet taken, admitted or not.
        finish_time: Virtual finish time of the current packet.
        packet_left: Tokens of the current packet not yet taken.
        is_open: Whether the request is neither completed, failed nor cancelled.
        arrived: Monotonic time of arrival.
        was_started: Whether one of its prompts went into a batch.
    """

    number: int
    sequences: Sequence[TokenSequence]
    deadline: float | None = None
    order: list[int] = field(init=False)
    costs: list[int] = field(init=False)
    log_odds: list[float] = field(init=False)
    num_missing: int = field(init=False)
    num_taken: int = field(init=False, default=0)
    num_admitted: int = field(init=False, default=0)
    tokens_left: int = field(init=False)
    finish_time: float = field(init=False, default=0.0)
    packet_left: int = field(init=False, default=0)
    is_open: bool = field(init=False, default=True)
    arrived: float = field(init=False, default=0.0)
    was_started: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        counter = TokenCounter()
        self.order = group_by_prefix(self.sequences)
        self.costs = [counter.add(self.sequences[index]) for index in self.order]
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

    def is_active(self, now: float) -> bool:
        """Return whether the request is open and its deadline has not passed."""
        return self.is_open and (self.deadline is None or now < self.deadline)

    def slice_end(self, max_tokens: int) -> tuple[int, int]:
        """Return end (exclusive, in `order`) and tokens of the next slice to admit: at least one prompt."""
        end, tokens = self.num_admitted + 1, self.costs[self.num_admitted]
        while end < len(self.costs) and tokens + self.costs[end] <= max_tokens:
            tokens += self.costs[end]
            end += 1
        return end, tokens


@dataclass(frozen=True, slots=True)
class QueuedPrompt:
    """One prompt of one request.

    Attributes:
        request: The request.
        index: Index of the prompt in the request's `sequences`.
    """

    request: Request
    index: int

    @property
    def sequence(self) -> TokenSequence:
        """The prompt's tokens."""
        return self.request.sequences[self.index]


def count_tokens(items: Iterable[QueuedPrompt]) -> int:
    """Return the tokens that a batch of these prompts computes, shared segments once."""
    counter = TokenCounter()
    for item in items:
        counter.add(item.sequence)
    return counter.num_tokens


class _Batch:
    """A batch while it is filled."""

    def __init__(self, budget: int) -> None:
        self.items: list[QueuedPrompt] = []
        self._budget = budget
        self._counter = TokenCounter()

    @property
    def room(self) -> int:
        return self._budget - self._counter.num_tokens

    def try_add(self, item: QueuedPrompt) -> int | None:
        """Add a prompt and return the tokens that it adds; None if it does not fit. The first always fits."""
        if self.items and self._counter.cost(item.sequence) > self.room:
            return None
        self.items.append(item)
        return self._counter.add(item.sequence)


class FairQueue:
    """Requests that wait for the devices.

    Args:
        max_queue_tokens: Capacity; further requests wait for admission. An empty queue admits any one prompt.
        max_batch_tokens: Tokens of a packet, the unit in which a large request is served.
        refill_tokens: Level up to which later slices of a request fill the queue, so that newcomers find room
            where they cannot wait; None for `max_queue_tokens`. A request with nothing in the queue is
            admitted its next slice regardless, so that newcomers cannot starve it.
    """

    def __init__(
        self, *, max_queue_tokens: int, max_batch_tokens: int, refill_tokens: int | None = None
    ) -> None:
        self.queued_tokens = 0
        self._max_queue_tokens = max_queue_tokens
        self._max_batch_tokens = max_batch_tokens
        self._refill_tokens = refill_tokens
        self._slice_tokens = max(1, min(max_queue_tokens // 4, max_batch_tokens // 2))
        self._admission_line: deque[Request] = deque()
        self._ready: list[tuple[float, int, Request]] = []  # a heap; removed requests stay in it until popped
        self._backlogged: set[Request] = set()  # ready and open requests, which compete for batches
        self._deadlines: dict[Request, float] = {}
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
        self._track_deadline(request)
        self._admission_line.append(request)
        self._admit()

    def add_without_waiting(self, request: Request) -> None:
        """Admit a request ahead of those that wait, in slices if it exceeds the capacity."""
        self._track_deadline(request)
        if request.tokens_left <= self._max_queue_tokens:
            self._admit_slice(request, len(request.order), request.tokens_left)
        else:
            self._admission_line.appendleft(request)
            self._admit()

    def remove(self, request: Request) -> None:
        """Remove a request; no effect if it is gone already."""
        request.is_open = False
        self._deadlines.pop(request, None)
        if not request.is_fully_admitted and request in self._admission_line:
            self._admission_line.remove(request)
        if request in self._backlogged:
            self._backlogged.remove(request)
            self.queued_tokens -= request.queued_tokens
        self._admit()

    def take(self, budget: int) -> list[QueuedPrompt]:
        """Return the next batch of up to `budget` tokens, earliest finish times first; at least one prompt."""
        batch = _Batch(budget)
        skipped: list[Request] = []
        self._admit(extra=budget)  # requests that wait compete for the room that this batch frees
        while batch.room > 0 and len(skipped) < _MAX_SKIPPED and (request := self._pop_next(batch.room)):
            if self._take_packet(request, batch):
                self._schedule(request)
            else:
                skipped.append(request)
        for request in skipped:
            heapq.heappush(self._ready, (request.finish_time, request.number, request))
        self._admit()
        return batch.items

    def expired(self, now: float) -> list[Request]:
        """Return requests whose deadline has passed; they stay until they are removed."""
        return [request for request, deadline in self._deadlines.items() if deadline <= now]

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of all requests, waiting or being computed."""
        return min(self._deadlines.values(), default=None)

    def _track_deadline(self, request: Request) -> None:
        if request.deadline is not None:
            self._deadlines[request] = request.deadline

    def _admit(self, extra: int = 0) -> None:
        """Admit slices in order while the first one fits in the free room plus `extra` tokens."""
        while self._admission_line:
            request = self._admission_line[0]
            end, tokens = request.slice_end(self._slice_tokens)
            if not self._can_admit(request, tokens, extra):
                return
            self._admission_line.popleft()
            self._admit_slice(request, end, tokens)
            if not request.is_fully_admitted:
                self._admission_line.append(request)

    def _can_admit(self, request: Request, tokens: int, extra: int) -> bool:
        limit = self._max_queue_tokens
        if request.num_admitted and self._refill_tokens is not None:
            if not request.is_ready:
                return True
            limit = self._refill_tokens
        return self.queued_tokens == 0 or self.queued_tokens + tokens <= limit + extra

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
            request.packet_left = min(request.tokens_left, self._max_batch_tokens)
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

    def _take_packet(self, request: Request, batch: _Batch) -> bool:
        """Move prompts of the current packet into the batch; return False if the next one does not fit."""
        while request.is_ready:
            if batch.try_add(QueuedPrompt(request, request.order[request.num_taken])) is None:
                return False
            self._charge(request)
            if request.packet_left <= 0:
                break
        return True

    def _charge(self, request: Request) -> None:
        cost = request.costs[request.num_taken]
        self._virtual_time += cost / len(self._backlogged)
        request.num_taken += 1
        request.tokens_left -= cost
        request.packet_left -= cost
        self.queued_tokens -= cost
        if not request.is_ready:
            self._backlogged.remove(request)
