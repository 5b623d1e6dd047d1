"""Priorities: interactive requests come first, and background requests finish under any load."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.core.scheduler.queue import (
    BACKGROUND_INTERVAL,
    PriorityQueue,
    QueuedPrompt,
    Request,
    count_tokens,
)
from qwen_rerank_plugins.core.scheduler.scheduler import Scheduler
from qwen_rerank_plugins.core.scheduler.worker import Worker
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import OverloadedError
from qwen_rerank_plugins.types import Priority
from tests.core.scheduler.helpers import SAFETY_S, FakeEngine, prompts, take_once

BATCH, BACKGROUND_BATCH = 200, 60


def make_scheduler(engine: FakeEngine, *, reject: bool = False) -> Scheduler:
    return Scheduler(
        [engine],
        max_batch_tokens=BATCH,
        max_queue_tokens=400,
        background_batch_tokens=BACKGROUND_BATCH,
        admission="reject" if reject else "wait",
    )


def make_queue(max_queue_tokens: int = 1_000_000) -> PriorityQueue:
    return PriorityQueue(
        max_queue_tokens=max_queue_tokens,
        max_batch_tokens=BATCH,
        background_batch_tokens=BACKGROUND_BATCH,
        admission="wait",
    )


def request_of(number: int, priority: Priority, count: int, length: int = 10) -> Request:
    return Request(number, prompts(range(count), length, head=number), priority=priority)


def priority_of(batch: list[QueuedPrompt]) -> Priority:
    (priority,) = {item.request.priority for item in batch}
    return priority


def new_tokens(batch: list[QueuedPrompt]) -> int:
    """Count the tokens of a batch that its requests' earlier batches did not have."""
    return sum(item.request.costs[item.request.order.index(item.index)] for item in batch)


def test_a_waiting_interactive_request_lets_only_the_running_background_batch_go_first() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine) as scheduler:
        job = scheduler.submit(prompts(range(100, 200)), priority="background")
        engine.wait_until_busy()  # a background batch runs, and cannot be interrupted
        waiting = [scheduler.submit(prompts([value], head=value)) for value in range(1, 6)]
        engine.gate.set()
        assert [future.result(SAFETY_S) for future in waiting] == [[float(value)] for value in range(1, 6)]
        assert job.result(SAFETY_S) == [float(value) for value in range(100, 200)]
    first, second, *rest = engine.batches
    assert min(first) >= 100
    assert second == [1.0, 2.0, 3.0, 4.0, 5.0], "the second batch has every interactive request, and no other"
    assert min(value for batch in rest for value in batch) >= 100
    background = [
        tokens for tokens, batch in zip(engine.tokens, engine.batches, strict=True) if batch != second
    ]
    assert max(background) <= BACKGROUND_BATCH + 6, "root and head of six tokens are in every batch"


def test_a_background_request_never_makes_an_interactive_one_be_rejected() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine, reject=True) as scheduler:
        jobs = [scheduler.submit(prompts(range(100)), priority="background") for _ in range(3)]
        engine.wait_until_busy()
        assert scheduler.stats().waiting_requests > 0, "the background queue is full"
        served = scheduler.submit(prompts(range(10, 35)))
        with pytest.raises(OverloadedError):
            scheduler.submit(prompts(range(10, 35), head=1))
        jobs.append(scheduler.submit(prompts([7]), priority="background"))
        engine.gate.set()
        for future in (served, *jobs):
            future.result(SAFETY_S)


def test_a_background_request_can_be_cancelled_and_can_expire() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine) as scheduler:
        running = scheduler.submit(prompts([1]))
        engine.wait_until_busy()
        cancelled = scheduler.submit(prompts([2]), priority="background")
        expired = scheduler.submit(prompts([3]), priority="background", deadline_s=1000.0)
        cancelled.cancel()
        scheduler.expire(expired)
        engine.gate.set()
        assert running.result(SAFETY_S) == [1.0]
        stats = scheduler.stats()
        assert (stats.cancelled, stats.expired, stats.queued_tokens, stats.pending_requests) == (1, 1, 0, 0)
    assert engine.computed == [1.0]


def test_background_requests_get_their_share_under_an_endless_stream() -> None:
    """One background batch for every `BACKGROUND_INTERVAL` times its tokens of interactive ones, not more, not less."""
    queue = make_queue()
    queue.add(request_of(0, "background", 1000))
    tokens = {"interactive": 0, "background": 0}
    for number in range(1, 500):
        queue.add(request_of(number, "interactive", 20))
        batch = queue.take(BATCH, BACKGROUND_BATCH)
        assert batch
        tokens[priority_of(batch)] += count_tokens(batch)
    ratio = tokens["interactive"] / tokens["background"]
    assert 0.9 * BACKGROUND_INTERVAL < ratio < 1.4 * BACKGROUND_INTERVAL


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["interactive", "background"]), st.integers(1, 12), st.integers(1, 80)),
            st.integers(1, 2 * BATCH),
        ),
        max_size=40,
    )
)
def test_any_order_of_arrivals_and_batches_keeps_the_rules(
    steps: list[tuple[Priority, int, int] | int],
) -> None:
    """A batch has one priority and its limit; at most one background batch per interval overtakes a request."""
    queue = make_queue()
    left = {"interactive": 0, "background": 0}
    passed_over = 0  # interactive tokens since a background batch, or since none waited
    number = 0

    def take(budget: int) -> None:
        nonlocal passed_over
        batch = queue.take(budget, BACKGROUND_BATCH)
        if not batch:
            assert left == {"interactive": 0, "background": 0}
            return
        priority = priority_of(batch)
        assert count_tokens(batch) <= budget or len(batch) == 1
        if priority == "background":
            assert new_tokens(batch) <= BACKGROUND_BATCH or len(batch) == 1
        if priority == "background" and left["interactive"]:
            assert passed_over >= BACKGROUND_INTERVAL * BACKGROUND_BATCH
        left[priority] -= len(batch)
        passed_over = passed_over + count_tokens(batch) if priority == "interactive" else 0

    for step in steps:
        if isinstance(step, int):
            take(step)
            continue
        priority, count, length = step
        queue.add(request_of(number, priority, count, length))
        number += 1
        left[priority] += count
    for _ in range(sum(left.values()) + 1):
        take(BATCH)
    assert left == {"interactive": 0, "background": 0}


def test_what_earlier_batches_contained_leaves_room_in_a_background_batch() -> None:
    """Otherwise a query as long as such a batch would make every document a batch of its own."""
    queue = make_queue()
    long_query = [Segment.after(None, (1,) * 150, (value,) * 10) for value in range(20)]
    queue.add(Request(0, long_query, priority="background"))
    sizes = [len(batch) for batch in iter(lambda: queue.take(BATCH, BACKGROUND_BATCH), [])]
    assert sizes == [1, 5, 5, 5, 4], "200 - 150 tokens leave room for five documents"


def test_a_fast_device_takes_larger_background_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least `background_batch_tokens`, and as many as it computes in `background_batch_s` at its recent speed."""
    worker = Worker(FakeEngine(), BATCH, BACKGROUND_BATCH, background_batch_s=0.5)
    clock = iter([0.0, 1.0, 10.0, 10.01])
    monkeypatch.setattr("qwen_rerank_plugins.core.scheduler.worker.time.perf_counter", lambda: next(clock))
    assert worker.background_tokens == BACKGROUND_BATCH
    for request, wanted in (
        (request_of(0, "background", 5), BACKGROUND_BATCH),
        (request_of(1, "background", 5), None),
    ):
        batch = [QueuedPrompt(request, index, prompt) for index, prompt in enumerate(request.prompts)]
        list(worker.run(take_once(batch)))
        assert worker.background_tokens == (wanted or int(0.5 * worker.tokens_per_s))
    assert worker.background_tokens > 2 * BACKGROUND_BATCH


def test_a_background_request_that_is_gone_when_its_turn_comes_holds_nobody_up() -> None:
    queue = make_queue()
    gone = request_of(0, "background", 1)
    queue.add(gone)
    queue.add(request_of(1, "interactive", 2000))
    for _ in range(BACKGROUND_INTERVAL * BACKGROUND_BATCH // BATCH + 1):
        assert priority_of(queue.take(BATCH, BACKGROUND_BATCH)) == "interactive"
    assert gone.queue is not None
    gone.queue.remove(gone)
    assert priority_of(queue.take(BATCH, BACKGROUND_BATCH)) == "interactive"
