from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
import time
from typing import Any

import pytest

from qwen_rerank_plugins.core.scheduler.scheduler import Scheduler
from qwen_rerank_plugins.errors import ConfigurationError, DeadlineExceededError, OverloadedError
from tests.core.scheduler.helpers import SAFETY_S, FakeEngine, make_scheduler, prompts

# -------------------------------------------------------------------------------------------------- results


def test_results_come_in_the_callers_order_whatever_order_they_are_computed_in() -> None:
    engine = FakeEngine()
    with make_scheduler(engine) as scheduler:
        sequences = [
            *prompts([3, 1], length=20),
            *prompts([2], length=5),
            *prompts([9, 8], length=30, head=4),
        ]
        assert scheduler.submit(sequences).result(SAFETY_S) == [3.0, 1.0, 2.0, 9.0, 8.0]
    assert engine.computed[0] == 2.0, "the shortest of its group is computed first"


def test_no_prompts_give_a_future_that_is_done() -> None:
    with make_scheduler(FakeEngine(blocked=True)) as scheduler:
        future = scheduler.submit([])
        assert future.done()
        assert future.result() == []


@pytest.mark.parametrize("overlaps", [False, True])
def test_no_batch_exceeds_its_budget_and_every_prompt_is_computed_once(overlaps: bool) -> None:
    engine = FakeEngine(overlaps=overlaps)
    with make_scheduler(engine, batch=106) as scheduler:
        assert scheduler.submit(prompts(range(95))).result(SAFETY_S) == [float(v) for v in range(95)]
    assert sorted(engine.computed) == [float(v) for v in range(95)]
    assert max(engine.tokens) == 106
    assert len(engine.batches) == 10


def test_requests_that_meet_in_the_queue_are_merged_into_one_batch() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine, batch=1000) as scheduler:
        first = scheduler.submit(prompts([1]))
        engine.wait_until_busy()
        others = [scheduler.submit(prompts([value], head=value)) for value in (2, 3, 4)]
        engine.gate.set()
        assert [future.result(SAFETY_S) for future in (first, *others)] == [[1.0], [2.0], [3.0], [4.0]]
    assert engine.batches == [[1.0], [2.0, 3.0, 4.0]]
    assert engine.tokens[1] == 2 + 3 * 14, "their common root is counted once"


@pytest.mark.parametrize("overlaps", [False, True])
def test_many_threads_each_get_their_own_scores(overlaps: bool) -> None:
    engines = FakeEngine("fake:0", overlaps=overlaps), FakeEngine("fake:1", overlaps=overlaps)
    wrong: list[object] = []
    with make_scheduler(*engines, batch=200) as scheduler:

        def ask(thread: int) -> None:
            for number in range(20):
                values = [thread * 1000 + number * 10 + k for k in range(number % 7)]
                got = scheduler.submit(prompts(values, head=thread), deadline_s=SAFETY_S).result(SAFETY_S)
                if got != values:
                    wrong.append((values, got))

        threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SAFETY_S)
        stats = scheduler.stats()
    assert not wrong
    assert (stats.completed, stats.pending_requests, stats.queued_tokens) == (240, 0, 0)
    assert stats.sequences == sum(len(engine.computed) for engine in engines)


def test_event_loops_wait_without_blocking() -> None:
    async def main(scheduler: Scheduler) -> list[list[float]]:
        futures = [asyncio.wrap_future(scheduler.submit(prompts([value]))) for value in range(50)]
        return await asyncio.wait_for(asyncio.gather(*futures), SAFETY_S)

    with make_scheduler(FakeEngine()) as scheduler:
        assert asyncio.run(main(scheduler)) == [[float(value)] for value in range(50)]


def test_two_devices_serve_one_queue_at_the_same_time() -> None:
    """Each device's engine waits for the other's: served one after the other, both would wait forever."""
    both = threading.Barrier(2, timeout=SAFETY_S)

    def meet(sequences: Any) -> None:
        both.wait()

    engines = [FakeEngine(f"fake:{number}", fault=meet) for number in range(2)]
    with make_scheduler(*engines, batch=100) as scheduler:
        futures = [scheduler.submit(prompts([value], length=94)) for value in (1, 2)]
        assert [future.result(SAFETY_S) for future in futures] == [[1.0], [2.0]]
        assert [device.sequences for device in scheduler.stats().devices] == [1, 1]
    assert [
        thread.name for thread in threading.enumerate() if thread.name.startswith("qwen-rerank-fake")
    ] == []


# ------------------------------------------------------------------------------------------------- fairness


def test_a_small_request_finishes_long_before_a_huge_one_that_came_first() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine, batch=100) as scheduler:
        huge = scheduler.submit(prompts(range(10, 2000)))
        engine.wait_until_busy()
        small = scheduler.submit(prompts([1, 2], head=1))
        engine.gate.set()
        assert small.result(SAFETY_S) == [1.0, 2.0]
        assert len(huge.result(SAFETY_S)) == 1990
    assert {1.0, 2.0} <= set(engine.batches[1])
    assert len(engine.batches) > 200


# ------------------------------------------------------------------------------------------------ admission


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine, batch=100, queue=200, reject=True) as scheduler:
        running = scheduler.submit(prompts([1]))
        engine.wait_until_busy()
        queued = scheduler.submit(prompts(range(15)))  # 156 tokens
        with pytest.raises(OverloadedError, match="156 tokens") as refused:
            scheduler.submit(prompts(range(5)))
        assert 0 < refused.value.retry_after_s <= 60
        fits = scheduler.submit(prompts([7], length=30))
        assert scheduler.submit([]).result() == []
        stats = scheduler.stats()
        assert (stats.rejected, stats.pending_requests) == (1, 3)
        engine.gate.set()
        assert [len(future.result(SAFETY_S)) for future in (running, queued, fits)] == [1, 15, 1]


def test_a_dead_device_makes_no_room_in_the_queue() -> None:
    """The wait that a refusal names comes from the devices that still compute."""
    engines = [FakeEngine(name, blocked=True) for name in ("fake:0", "fake:1")]
    with make_scheduler(*engines, batch=16, queue=200, reject=True) as scheduler:
        for value in range(2):
            scheduler.submit(prompts([value]))  # 16 tokens: a batch of its own, for whichever worker is first
        for engine in engines:
            engine.wait_until_busy()
        dead, alive = scheduler._workers
        dead.is_alive, dead.tokens_per_s, alive.tokens_per_s = False, 1e6, 10.0
        scheduler.submit(prompts(range(15)))  # 156 tokens
        with pytest.raises(OverloadedError) as refused:
            scheduler.submit(prompts(range(8)))  # 86 tokens, 42 above the limit
        dead.is_alive = True
        assert refused.value.retry_after_s == pytest.approx(4.2)
        for engine in engines:
            engine.gate.set()


def test_an_idle_queue_takes_any_request_even_above_the_limit() -> None:
    engine = FakeEngine()
    with make_scheduler(engine, batch=100, queue=50, reject=True) as scheduler:
        assert len(scheduler.submit(prompts(range(300))).result(SAFETY_S)) == 300
        assert len(scheduler.submit(prompts(range(300))).result(SAFETY_S)) == 300


def test_who_waits_in_line_is_served_in_the_end() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine, batch=100, queue=150) as scheduler:
        futures = [scheduler.submit(prompts(range(20), head=number)) for number in range(10)]
        engine.wait_until_busy()
        stats = scheduler.stats()
        assert stats.queued_tokens <= 150
        assert stats.waiting_requests > 5
        engine.gate.set()
        assert all(len(future.result(SAFETY_S)) == 20 for future in futures)


# ------------------------------------------------------------------------------- deadlines and cancellation


def test_a_deadline_is_kept_while_every_worker_is_busy_and_the_request_is_never_computed() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine) as scheduler:
        running = scheduler.submit(prompts([1]))
        engine.wait_until_busy()
        late = scheduler.submit(prompts([2]), deadline_s=0.02)
        patient = scheduler.submit(prompts([3]), deadline_s=math.inf)
        scheduler.expire(late)  # as its waiter does
        with pytest.raises(DeadlineExceededError):
            late.result(0)
        assert not running.done()
        engine.gate.set()
        assert patient.result(SAFETY_S) == [3.0]
        assert scheduler.stats().expired == 1
    assert 2.0 not in engine.computed


def test_a_deadline_passes_for_what_is_being_computed_too() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine) as scheduler:
        late = scheduler.submit(prompts([1]), deadline_s=0.02)
        engine.wait_until_busy()
        scheduler.expire(late)
        with pytest.raises(DeadlineExceededError):
            late.result(0)
        engine.gate.set()
        assert scheduler.submit(prompts([2])).result(SAFETY_S) == [2.0]


def test_only_a_pending_request_expires() -> None:
    with make_scheduler(FakeEngine()) as scheduler:
        done = scheduler.submit(prompts([1]), deadline_s=1000.0)
        assert done.result(SAFETY_S) == [1.0]
        scheduler.expire(done)
        assert done.result(0) == [1.0]
        assert scheduler.stats().expired == 0


def test_what_is_late_is_not_computed_even_if_nobody_calls_expire() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine, batch=16) as scheduler:
        running = scheduler.submit(prompts([1]))
        engine.wait_until_busy()
        late = scheduler.submit(prompts([2]), deadline_s=1e-9)
        after = scheduler.submit(prompts([3]))
        engine.gate.set()
        assert (running.result(SAFETY_S), after.result(SAFETY_S)) == ([1.0], [3.0])
        assert isinstance(late.exception(SAFETY_S), DeadlineExceededError)
    assert 2.0 not in engine.computed


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, math.nan, -math.inf])
def test_a_deadline_that_has_passed_is_answered_at_once(deadline_s: float) -> None:
    engine = FakeEngine()
    with make_scheduler(engine) as scheduler:
        future = scheduler.submit(prompts([1]), deadline_s=deadline_s)
        assert future.done()
        assert isinstance(future.exception(), DeadlineExceededError)
    assert engine.computed == []


def test_a_cancelled_request_leaves_the_queue() -> None:
    engine = FakeEngine(blocked=True)
    with make_scheduler(engine, batch=100) as scheduler:
        running = scheduler.submit(prompts(range(10, 60)))
        engine.wait_until_busy()
        waiting = scheduler.submit(prompts([2]))
        assert waiting.cancel()
        assert running.cancel()
        assert concurrent.futures.wait([waiting, running], timeout=SAFETY_S).not_done == set()
        stats = scheduler.stats()
        assert (stats.cancelled, stats.pending_requests, stats.queued_tokens) == (2, 0, 0)
        engine.gate.set()
        assert scheduler.submit(prompts([3])).result(SAFETY_S) == [3.0]
    assert len(engine.batches) == 2, "the batch that was running and the last request"


def test_a_cancelled_task_leaves_the_queue() -> None:
    engine = FakeEngine(blocked=True)

    async def main(scheduler: Scheduler) -> None:
        running = scheduler.submit(prompts([1]))
        await asyncio.to_thread(engine.wait_until_busy)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(scheduler.submit(prompts([2]))), 0.01)
        engine.gate.set()
        await asyncio.wait_for(asyncio.wrap_future(running), SAFETY_S)

    with make_scheduler(engine) as scheduler:
        asyncio.run(main(scheduler))
        assert scheduler.stats().cancelled == 1
    assert engine.computed == [1.0]


@pytest.mark.parametrize("overlaps", [False, True])
def test_requests_cancelled_at_random_never_harm_the_others(overlaps: bool) -> None:
    engine = FakeEngine(overlaps=overlaps)
    with make_scheduler(engine, batch=60, queue=300) as scheduler:

        def ask(thread: int) -> list[concurrent.futures.Future[list[float]]]:
            futures = [scheduler.submit(prompts(range(number % 5 + 1), head=thread)) for number in range(60)]
            for future in futures[thread % 2 :: 3]:
                future.cancel()
            return futures

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            futures = [future for batch in pool.map(ask, range(6)) for future in batch]
        done = concurrent.futures.wait(futures, timeout=SAFETY_S)
        assert not done.not_done
        stats = scheduler.stats()
    finished = [future for future in futures if not future.cancelled()]
    assert all(future.result() == [float(v) for v in range(len(future.result()))] for future in finished)
    assert stats.completed + stats.cancelled == len(futures)
    assert stats.completed >= len(finished), (
        "one cancelled while its answer is on its way counts as completed"
    )
    assert (stats.queued_tokens, stats.queued_requests, stats.waiting_requests) == (0, 0, 0)


# ------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("engines", "changes", "message"),
    [
        ([], {}, "at least one"),
        ([FakeEngine()], {"max_batch_tokens": 0}, "max_batch_tokens is 0"),
        ([FakeEngine()], {"max_queue_tokens": -5}, "max_queue_tokens is -5"),
        ([FakeEngine()], {"admission": "maybe"}, "'maybe'"),
    ],
)
def test_impossible_settings_are_refused(
    engines: list[FakeEngine], changes: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {"max_batch_tokens": 10, "max_queue_tokens": 10} | changes
    with pytest.raises(ConfigurationError, match=message):
        Scheduler(engines, **settings)


def test_waiting_and_computing_are_timed() -> None:
    """While one request is computed, the next one waits as long; its wait is counted once, however many batches it has."""
    engine = FakeEngine(blocked=True)
    with Scheduler([engine], max_batch_tokens=20, max_queue_tokens=10_000) as scheduler:
        first = scheduler.submit(prompts([1]))
        assert engine.entered.acquire(timeout=SAFETY_S)
        second = scheduler.submit(prompts([2, 3, 4]))
        time.sleep(0.2)
        engine.gate.set()
        assert (first.result(SAFETY_S), second.result(SAFETY_S)) == ([1.0], [2.0, 3.0, 4.0])
        stats = scheduler.stats()
    assert 0.2 <= stats.compute_s == stats.devices[0].compute_s < SAFETY_S
    assert 0.2 <= stats.queue_s < 2 * stats.compute_s
