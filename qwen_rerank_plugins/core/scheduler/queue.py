"""The queue in front of the devices, as a pure data structure.

It knows no threads, no locks, no clock, no futures and no engine: the scheduler calls it under a lock and says what
time it is. Tokens are counted once where prompts share segments: within a request for what the queue holds, within
a batch for what a batch costs.

Three things happen here.

*Admission.* A request that does not fit below `max_queue_tokens` stands in a line, first come first served, and
enters in slices: when one has entered, its next slice goes to the end of the line.

*Fair filling.* Weighted fair queueing by virtual finish times (Demers, Keshav, Shenker 1989). A virtual clock advances
by served tokens divided by the number of competing requests. A request is due at the clock's reading plus its own
size; one that is larger than a batch is due a batch's worth at a time. The batch takes what is due first. So requests
of equal size finish in the order they came, a small one overtakes a large one, and none waits forever, because
newcomers' dates move on with the clock.

*Order within a request.* Prompts with a common head are neighbours, shorter ones first among them
(`packing.sharing_order`), so a batch computes each head once.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qwen_rerank_plugins.core.sequences import TokenCounter, TokenSequence, sharing_order

__all__ = ["Admission", "FairQueue", "Item", "Request", "count_tokens"]

# How many due requests may be passed over in one batch because their next prompt is too long for what is left.
_MAX_MISSES = 16


Admission = Literal["wait", "reject"]
"""What happens to a request when the queue is full: it stands in line, or it is refused."""


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way through the queue.

    Attributes:
        number: Unique, and rising in the order of arrival.
        sequences: The prompts in the caller's order.
        deadline: Reading of the monotonic clock in seconds after which the result is worthless, or None.
        order: Indices into `sequences` in the order of computation.
        costs: Tokens that each prompt adds to those before it in `order`, in that order.
        log_odds: The results so far, in the caller's order.
        num_missing: Results still to come.
        num_taken: Prompts that went into a batch: the first of `order`.
        num_admitted: Prompts that have entered the queue: the first of `order`.
        tokens_left: Tokens not yet taken, entered or not.
        due: Virtual time at which the current packet should be done.
        packet_left: Tokens of the current packet that are not yet taken.
        is_open: Whether somebody still waits for the result.
        arrived: Reading of the monotonic clock when it came.
        has_started: Whether one of its prompts went into a batch.
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
    due: float = field(init=False, default=0.0)
    packet_left: int = field(init=False, default=0)
    is_open: bool = field(init=False, default=True)
    arrived: float = field(init=False, default=0.0)
    has_started: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        counter = TokenCounter()
        self.order = sharing_order(self.sequences)
        self.costs = [counter.add(self.sequences[index]) for index in self.order]
        self.log_odds = [0.0] * len(self.order)
        self.num_missing = len(self.order)
        self.tokens_left = sum(self.costs)

    @property
    def is_ready(self) -> bool:
        """Whether a prompt has entered the queue and was not yet taken."""
        return self.num_taken < self.num_admitted

    @property
    def is_wholly_admitted(self) -> bool:
        """Whether nothing of it stands in the line."""
        return self.num_admitted == len(self.order)

    @property
    def queued_tokens(self) -> int:
        """Tokens that have entered the queue and were not yet taken."""
        return sum(self.costs[self.num_taken : self.num_admitted])

    def is_live(self, now: float) -> bool:
        """Whether computing it is still of use to somebody."""
        return self.is_open and (self.deadline is None or now < self.deadline)

    def slice_end(self, max_tokens: int) -> tuple[int, int]:
        """End (exclusive, in `order`) and tokens of the next slice to enter: at least one prompt."""
        end, tokens = self.num_admitted + 1, self.costs[self.num_admitted]
        while end < len(self.costs) and tokens + self.costs[end] <= max_tokens:
            tokens += self.costs[end]
            end += 1
        return end, tokens


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of one request.

    Attributes:
        request: Whose prompt it is.
        index: Its place in the request's `sequences`.
    """

    request: Request
    index: int

    @property
    def sequence(self) -> TokenSequence:
        """The prompt itself."""
        return self.request.sequences[self.index]


def count_tokens(items: Iterable[Item]) -> int:
    """Tokens that a batch of these prompts computes, shared segments once."""
    counter = TokenCounter()
    for item in items:
        counter.add(item.sequence)
    return counter.num_tokens


class _Batch:
    """A batch while it is filled."""

    def __init__(self, budget: int) -> None:
        self.items: list[Item] = []
        self._budget = budget
        self._counter = TokenCounter()

    @property
    def room(self) -> int:
        return self._budget - self._counter.num_tokens

    def try_add(self, item: Item) -> int | None:
        """Tokens that it added, or None if it does not fit; the first one always does."""
        if self.items and self._counter.cost(item.sequence) > self.room:
            return None
        self.items.append(item)
        return self._counter.add(item.sequence)


class FairQueue:
    """Requests on their way to the devices.

    Args:
        max_queue_tokens: What may be in the queue; the rest stands in line. An empty queue takes any one prompt.
        max_batch_tokens: Size of a packet, the piece in which a large request is served.
        refill_tokens: Up to where the queue is filled with later slices of a request, to leave room for newcomers
            where those cannot wait in line; `max_queue_tokens` where they can. A request of which nothing is in the
            queue gets its next slice in any case, so that newcomers cannot keep it out.
    """

    def __init__(
        self, *, max_queue_tokens: int, max_batch_tokens: int, refill_tokens: int | None = None
    ) -> None:
        self.queued_tokens = 0
        self._max_queue_tokens = max_queue_tokens
        self._max_batch_tokens = max_batch_tokens
        self._refill_tokens = refill_tokens
        self._slice_tokens = max(1, min(max_queue_tokens // 4, max_batch_tokens // 2))
        self._line: deque[Request] = deque()
        self._ready: list[tuple[float, int, Request]] = []  # a heap, with entries of removed requests left in
        self._contenders: set[Request] = set()  # those that compete for batches: ready and open
        self._deadlines: dict[Request, float] = {}
        self._clock = 0.0

    @property
    def num_queued(self) -> int:
        """Requests of which something is in the queue."""
        return len(self._contenders)

    @property
    def num_waiting(self) -> int:
        """Requests of which something stands in line."""
        return len(self._line)

    def has_room_for(self, request: Request) -> bool:
        """Whether it could enter at once: it fits, or nothing is queued."""
        return self.queued_tokens == 0 or self.queued_tokens + request.tokens_left <= self._max_queue_tokens

    def add(self, request: Request) -> None:
        """Let it enter, or stand in line behind the others."""
        self._watch(request)
        self._line.append(request)
        self._admit()

    def add_at_once(self, request: Request) -> None:
        """Let it pass the line: all of it if `has_room_for` it and it is below the limit, else in slices."""
        self._watch(request)
        if request.tokens_left <= self._max_queue_tokens:
            self._enter(request, len(request.order), request.tokens_left)
        else:
            self._line.appendleft(request)
            self._admit()

    def remove(self, request: Request) -> None:
        """Take out what is left of it; nothing happens if it is gone already."""
        request.is_open = False
        self._deadlines.pop(request, None)
        if not request.is_wholly_admitted and request in self._line:
            self._line.remove(request)
        if request in self._contenders:
            self._contenders.remove(request)
            self.queued_tokens -= request.queued_tokens
        self._admit()

    def take(self, budget: int) -> list[Item]:
        """Fill a batch with what is due, up to `budget` tokens; one prompt fits in any case."""
        batch = _Batch(budget)
        passed: list[Request] = []
        self._admit(extra=budget)  # those in line compete for the room that this batch makes
        while batch.room > 0 and len(passed) < _MAX_MISSES and (request := self._next_due(batch.room)):
            if self._take_packet(request, batch):
                self._schedule(request)
            else:
                passed.append(request)
        for request in passed:
            heapq.heappush(self._ready, (request.due, request.number, request))
        self._admit()
        return batch.items

    def expired(self, now: float) -> list[Request]:
        """Requests whose deadline has passed; they stay until they are removed."""
        return [request for request, deadline in self._deadlines.items() if deadline <= now]

    def next_deadline(self) -> float | None:
        """The earliest deadline, whether what it belongs to waits or is being computed."""
        return min(self._deadlines.values(), default=None)

    def _watch(self, request: Request) -> None:
        if request.deadline is not None:
            self._deadlines[request] = request.deadline

    def _admit(self, extra: int = 0) -> None:
        """Let the line move up while the first slice fits in what is free, plus `extra` tokens."""
        while self._line:
            request = self._line[0]
            end, tokens = request.slice_end(self._slice_tokens)
            if not self._may_enter(request, tokens, extra):
                return
            self._line.popleft()
            self._enter(request, end, tokens)
            if not request.is_wholly_admitted:
                self._line.append(request)

    def _may_enter(self, request: Request, tokens: int, extra: int) -> bool:
        limit = self._max_queue_tokens
        if request.num_admitted and self._refill_tokens is not None:
            if not request.is_ready:
                return True
            limit = self._refill_tokens
        return self.queued_tokens == 0 or self.queued_tokens + tokens <= limit + extra

    def _enter(self, request: Request, end: int, tokens: int) -> None:
        was_ready = request.is_ready
        request.num_admitted = end
        self.queued_tokens += tokens
        if not was_ready:
            self._contenders.add(request)
            self._schedule(request)

    def _schedule(self, request: Request) -> None:
        """Give a ready request its next packet if it needs one, and its place among those that are due."""
        if not request.is_ready:
            return
        if request.packet_left <= 0:
            request.packet_left = min(request.tokens_left, self._max_batch_tokens)
            request.due = max(self._clock, request.due) + request.packet_left
        heapq.heappush(self._ready, (request.due, request.number, request))

    def _next_due(self, room: int) -> Request | None:
        """Take the request that is due first off the heap; None when nothing is left, even in line."""
        if not self._ready:
            self._admit(extra=room)
        while self._ready:
            request = heapq.heappop(self._ready)[2]
            if request.is_open:
                return request
        return None

    def _take_packet(self, request: Request, batch: _Batch) -> bool:
        """Move prompts of the current packet into the batch; False if the next one does not fit."""
        while request.is_ready:
            if batch.try_add(Item(request, request.order[request.num_taken])) is None:
                return False
            self._count_taken(request)
            if request.packet_left <= 0:
                break
        return True

    def _count_taken(self, request: Request) -> None:
        cost = request.costs[request.num_taken]
        self._clock += cost / len(self._contenders)
        request.num_taken += 1
        request.tokens_left -= cost
        request.packet_left -= cost
        self.queued_tokens -= cost
        if not request.is_ready:
            self._contenders.remove(request)
