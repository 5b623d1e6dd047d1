from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from qwen_rerank_plugins.core.scheduler.queue import FairQueue, QueuedPrompt, Request, count_tokens
from qwen_rerank_plugins.core.sequences import Segment
from tests.core.forests import num_tokens
from tests.core.scheduler.helpers import prompt, prompts

BATCH, QUEUE = 60, 200


def make_queue(*, batch: int = 100, queue: int = 100_000, refill: int | None = None) -> FairQueue:
    return FairQueue(max_queue_tokens=queue, max_batch_tokens=batch, refill_tokens=refill)


def drain(queue: FairQueue, budget: int = 100, most: int = 10_000) -> list[list[QueuedPrompt]]:
    batches = []
    while batch := queue.take(budget):
        batches.append(batch)
        assert len(batches) < most
    return batches


def owners(batch: list[QueuedPrompt]) -> set[int]:
    return {item.request.number for item in batch}


def last_batch_of(batches: list[list[QueuedPrompt]], request: Request) -> int:
    return max(place for place, batch in enumerate(batches) if request.number in owners(batch))


# ----------------------------------------------------------------------------------- order within a request


def test_prompts_with_a_common_head_are_neighbours_and_shorter_ones_come_first() -> None:
    request = Request(
        0, [prompt(1, 9, head=7), prompt(2, 5, head=8), prompt(3, 4, head=7), prompt(4, 3, head=8)]
    )
    assert request.order == [2, 0, 3, 1]


def test_a_request_counts_what_its_prompts_share_once() -> None:
    request = Request(0, prompts(range(5), length=10))
    assert request.tokens_left == 2 + 4 + 5 * 10
    assert request.costs == [16, 10, 10, 10, 10]


# --------------------------------------------------------------------------------------------------- batches


def test_a_batch_merges_requests_and_counts_their_common_root_once() -> None:
    queue = make_queue(batch=100)
    requests = [Request(number, prompts([number], length=10, head=number)) for number in range(7)]
    for request in requests:
        queue.add(request)
    batch = queue.take(100)
    assert owners(batch) == set(range(7)), "2 for the root and 14 for each of seven is exactly 100"
    assert count_tokens(batch) == 100
    assert queue.take(100) == []


def test_a_prompt_longer_than_the_budget_has_a_batch_to_itself() -> None:
    queue = make_queue(batch=50)
    queue.add(Request(0, [prompt(1, 500), prompt(2, 5)]))
    batches = drain(queue, 50)
    assert [[item.index for item in batch] for batch in batches] == [[1], [0]]


def test_a_request_alone_fills_every_batch() -> None:
    queue = make_queue(batch=106)
    queue.add(Request(0, prompts(range(100), length=10)))
    assert [len(batch) for batch in drain(queue, 106)] == [10] * 10


# -------------------------------------------------------------------------------------------------- fairness


@pytest.mark.parametrize("limit", [100_000, 400])
def test_a_small_request_gets_into_the_next_batch_beside_a_huge_one(limit: int) -> None:
    """Also when the queue is full of the huge one, and the small one has to stand in line first."""
    queue = make_queue(batch=100, queue=limit)
    queue.add(Request(0, prompts(range(10_000), length=10)))
    queue.take(100)
    queue.add(Request(1, prompts([1, 2], length=10, head=9)))
    batch = queue.take(100)
    assert sum(item.request.number == 1 for item in batch) == 2
    assert len(batch) > 2, "the rest of the batch goes to the huge one"


def test_several_huge_requests_do_not_keep_a_small_one_waiting() -> None:
    queue = make_queue(batch=100)
    for number in range(8):
        queue.add(Request(number, prompts(range(1000), length=10, head=number)))
    for _ in range(20):
        queue.take(100)
    queue.add(Request(99, prompts([1, 2], length=10, head=99)))
    assert 99 in owners(queue.take(100))


def test_huge_requests_share_the_device_equally() -> None:
    queue = make_queue(batch=100)
    requests = [Request(number, prompts(range(300), length=10, head=number)) for number in range(3)]
    for request in requests:
        queue.add(request)
    for _ in range(30):
        queue.take(100)
    taken = [request.num_taken for request in requests]
    assert max(taken) - min(taken) <= 10, taken


def test_requests_of_equal_size_finish_in_the_order_they_came() -> None:
    """Shared equally, ten such requests would all finish at the end; in turn, half of them wait half as long."""
    queue = make_queue(batch=100)
    requests = [Request(number, prompts(range(8), length=10, head=number)) for number in range(10)]
    for request in requests:
        queue.add(request)
    batches = drain(queue)
    ends = [last_batch_of(batches, request) for request in requests]
    assert ends == sorted(ends)
    assert ends[0] == 0


def test_an_endless_stream_of_small_requests_does_not_starve_a_large_one() -> None:
    """Each batch's time, as many small tokens arrive as a batch takes."""
    queue = make_queue(batch=100)
    large = Request(0, prompts(range(50), length=10))
    queue.add(large)
    for number in range(1, 1000):
        queue.add(Request(2 * number, prompts([1, 2, 3], length=14, head=1)))
        queue.add(Request(2 * number + 1, prompts([1, 2, 3], length=14, head=2)))
        queue.take(100)
        if large.num_taken == 50:
            break
    assert number < 200


# ------------------------------------------------------------------------------------------------- admission


def test_what_does_not_fit_stands_in_line_and_enters_as_tokens_become_free() -> None:
    queue = make_queue(batch=100, queue=200)
    for number in range(5):
        queue.add(Request(number, prompts(range(10), length=10, head=number)))
    assert queue.queued_tokens <= 200
    assert queue.num_waiting >= 3
    batches = drain(queue)
    assert sum(map(len, batches)) == 50
    assert (queue.queued_tokens, queue.num_waiting, queue.num_queued) == (0, 0, 0)


def test_an_idle_queue_takes_a_request_above_the_limit_in_slices() -> None:
    queue = make_queue(batch=100, queue=200, refill=100)
    large = Request(0, prompts(range(500), length=10))
    assert queue.has_room_for(large)
    queue.add_without_waiting(large)
    assert queue.queued_tokens <= 100, "room is left for newcomers that cannot wait in line"
    small = Request(1, prompts(range(5), length=10, head=1))
    assert queue.has_room_for(small)
    queue.add_without_waiting(small)
    assert not queue.has_room_for(Request(2, prompts(range(20), length=10)))
    assert sum(map(len, drain(queue))) == 505


def test_newcomers_that_pass_the_line_cannot_keep_a_sliced_request_out() -> None:
    queue = make_queue(batch=100, queue=200, refill=100)
    large = Request(0, prompts(range(60), length=10))
    queue.add_without_waiting(large)
    number = 0
    for _ in range(100):
        while queue.has_room_for(newcomer := Request(number + 1, prompts([1, 2, 3], 14, number + 1))):
            queue.add_without_waiting(newcomer)
            number += 1
        queue.take(100)
    assert number > 100
    assert large.num_taken == 60


def test_what_is_removed_is_not_computed_and_frees_its_tokens() -> None:
    queue = make_queue(batch=100, queue=300)
    gone = Request(0, prompts(range(100), length=10))
    stays = Request(1, prompts(range(3), length=10, head=1))
    queue.add(gone)
    queue.add(stays)
    queue.remove(gone)
    queue.remove(gone)
    batches = drain(queue)
    assert [owners(batch) for batch in batches] == [{1}]
    assert (queue.queued_tokens, queue.num_waiting, queue.num_queued) == (0, 0, 0)


# ----------------------------------------------------------------------------------------- the whole, by model


@dataclass(eq=False)
class Expected:
    """The results that a request still owes."""

    request: Request
    left: set[int] = field(default_factory=set)


class QueueLaws(RuleBasedStateMachine):
    """Any mixture of arrivals, removals and batches preserves the queue's invariants."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.queue = make_queue(batch=BATCH, queue=QUEUE)
        self.expected: dict[Request, Expected] = {}
        self.number = 0

    @rule(
        target=requests,
        lengths=st.lists(st.tuples(st.integers(1, 90), st.integers(0, 3)), min_size=1, max_size=40),
        same=st.booleans(),
    )
    def add(self, lengths: list[tuple[int, int]], same: bool) -> Request:
        values = [0] * len(lengths) if same else range(len(lengths))
        sequences = [prompt(v, length, head) for v, (length, head) in zip(values, lengths, strict=True)]
        request = Request(self.number, sequences)
        self.number += 1
        self.queue.add(request)
        self.expected[request] = Expected(request, set(range(len(sequences))))
        return request

    @rule(request=consumes(requests))
    def remove(self, request: Request) -> None:
        self.queue.remove(request)
        self.expected.pop(request, None)

    @rule(budget=st.integers(1, 2 * BATCH))
    def take(self, budget: int) -> None:
        batch = self.queue.take(budget)
        assert batch or not any(expected.left for expected in self.expected.values()), "work is left undone"
        self.check_batch(batch, budget)

    def check_batch(self, batch: list[QueuedPrompt], budget: int) -> None:
        assert count_tokens(batch) <= budget or len(batch) == 1
        for item in batch:
            self.expected[item.request].left.remove(item.index)  # KeyError: computed twice, or after removal

    @invariant()
    def the_books_are_right(self) -> None:
        left = sum(sum(e.request.costs[e.request.num_taken :]) for e in self.expected.values())
        assert (
            self.queue.queued_tokens == sum(e.request.queued_tokens for e in self.expected.values()) <= left
        )
        assert self.queue.num_queued == sum(e.request.is_ready for e in self.expected.values())
        assert self.queue.num_waiting == sum(not e.request.is_fully_admitted for e in self.expected.values())

    @invariant()
    def the_queue_is_bounded(self) -> None:
        """By its limit, a batch that was filled with fewer tokens than planned, and one prompt."""
        assert self.queue.queued_tokens <= QUEUE + 2 * BATCH + 96

    def teardown(self) -> None:
        for _ in range(10_000):
            batch = self.queue.take(BATCH)
            if not batch:
                break
            self.check_batch(batch, BATCH)
        assert not any(expected.left for expected in self.expected.values()), "a prompt was lost"


QueueLaws.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestQueueLaws = QueueLaws.TestCase


def test_the_helper_counts_as_the_queue_does() -> None:
    sequences: list[Segment] = [*prompts([1, 2, 3]), prompt(4, head=5)]
    request = Request(0, sequences)
    assert (
        num_tokens(sequences)
        == count_tokens(QueuedPrompt(request, index, sequences[index]) for index in range(4))
        == 50
    )


def test_a_request_that_exactly_fits_has_room() -> None:
    queue = make_queue(queue=100, batch=100)
    queue.add(Request(0, [prompt(1, 34)]))  # 2 for the root, 4 for the head
    fits, does_not = Request(1, [prompt(2, 54, head=1)]), Request(2, [prompt(2, 55, head=1)])
    assert queue.queued_tokens == 40
    assert (fits.tokens_left, does_not.tokens_left) == (60, 61)
    assert (queue.has_room_for(fits), queue.has_room_for(does_not)) == (True, False)
