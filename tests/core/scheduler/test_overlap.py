"""Batches of an engine that overlaps: one is prepared and launched while another runs, with the same guarantees."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.core.scheduler.queue import QueuedPrompt, Request
from qwen_rerank_plugins.core.scheduler.worker import Worker
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import (
    CheckpointError,
    ClosedError,
    DeadlineExceededError,
    DeviceLostError,
    EngineError,
    EngineOutOfMemoryError,
    NonFiniteScoreError,
    RerankError,
    WorkerDiedError,
)
from tests.core.scheduler.helpers import SAFETY_S, FakeEngine, answer, make_scheduler, prompts, take_once

Hook = Callable[[str, list[float]], object]
STEPS = ("prepare", "launch", "collect")


def batch_of(*values: int) -> list[QueuedPrompt]:
    """A batch of one request per value."""
    return [QueuedPrompt(Request(value, prompts([value])), 0, prompts([value])[0]) for value in values]


def steps_of(
    *batches: Sequence[QueuedPrompt], overlaps: bool = True, hook: Hook = lambda step, answers: None
) -> str:
    """What a worker does with batches that wait in its queue, such as "wait, prepare 1, launch 1, take, ..."."""
    log: list[str] = []

    def record(step: str, answers: list[float]) -> object:
        if step != "is_done":
            log.append(f"{step} {'+'.join(f'{one:g}' for one in answers)}")
        return hook(step, answers)

    def take(*, wait: bool) -> Sequence[QueuedPrompt]:
        log.append("wait" if wait else "take")
        return next(left, ())

    left = iter(batches)
    engine = FakeEngine(overlaps=overlaps, hook=record)
    for results in Worker(engine, 1000).run(take):
        for item, result in results:
            log.append(f"{'fail' if isinstance(result, RerankError) else 'deliver'} {item.request.number}")
    assert not engine.in_flight
    return ", ".join(log)


def failing(value: int, step: str, error: Exception) -> Hook:
    """A hook that raises at a step of each batch that contains a value."""

    def hook(at: str, answers: list[float]) -> None:
        if at == step and value in answers:
            raise error

    return hook


# ------------------------------------------------------------------------------------------------------ order


def test_a_batch_is_launched_before_the_results_of_the_one_ahead_are_awaited() -> None:
    assert steps_of(batch_of(1), batch_of(2), batch_of(3)) == (
        "wait, prepare 1, launch 1, "
        "take, prepare 2, launch 2, collect 1, deliver 1, "
        "take, prepare 3, launch 3, collect 2, deliver 2, "
        "take, collect 3, deliver 3, wait"
    )


def test_without_overlap_results_never_wait_for_the_next_batch() -> None:
    assert steps_of(batch_of(1), batch_of(2), overlaps=False) == (
        "wait, prepare 1, launch 1, collect 1, deliver 1, wait, prepare 2, launch 2, collect 2, deliver 2, wait"
    )


def test_a_lone_batch_is_collected_at_once() -> None:
    assert steps_of(batch_of(1), (), batch_of(2)) == (
        "wait, prepare 1, launch 1, take, collect 1, deliver 1, wait, prepare 2, launch 2, take, collect 2, deliver 2, wait"
    )


def test_results_that_are_there_are_delivered_before_the_next_launch() -> None:
    assert steps_of(batch_of(1), batch_of(2), hook=lambda step, answers: step == "is_done") == (
        "wait, prepare 1, launch 1, take, prepare 2, collect 1, deliver 1, launch 2, take, collect 2, deliver 2, wait"
    )


def test_a_batch_that_nobody_waits_for_is_neither_prepared_nor_launched() -> None:
    gone = batch_of(2)
    gone[0].request.is_open = False
    assert steps_of(batch_of(1), gone, batch_of(3)) == (
        "wait, prepare 1, launch 1, take, collect 1, deliver 1, wait, prepare 3, launch 3, take, collect 3, deliver 3, wait"
    )


@pytest.mark.parametrize("step", ["prepare", "launch"])
def test_a_batch_that_fails_before_it_runs_is_retried_when_the_device_is_free(step: str) -> None:
    """The retries of two requests do not overlap with each other either."""
    steps = steps_of(batch_of(1), batch_of(2, 3), batch_of(4), hook=failing(2, step, ValueError("no")))
    begun = "prepare 2+3" if step == "prepare" else "prepare 2+3, launch 2+3"
    retried = "prepare 2" if step == "prepare" else "prepare 2, launch 2"
    assert steps == (
        f"wait, prepare 1, launch 1, take, {begun}, collect 1, deliver 1, "
        f"{retried}, fail 2, prepare 3, launch 3, collect 3, deliver 3, "
        "wait, prepare 4, launch 4, take, collect 4, deliver 4, wait"
    )


def test_a_batch_that_fails_while_the_next_one_runs_is_retried_behind_it() -> None:
    assert steps_of(batch_of(1, 2), batch_of(3), hook=failing(1, "collect", ValueError("no"))) == (
        "wait, prepare 1+2, launch 1+2, take, prepare 3, launch 3, collect 1+2, collect 3, deliver 3, "
        "prepare 1, launch 1, collect 1, fail 1, prepare 2, launch 2, collect 2, deliver 2, wait"
    )


def test_a_batch_that_has_failed_by_the_next_launch_is_retried_before_it() -> None:
    def hook(step: str, answers: list[float]) -> bool:
        failing(1, "collect", ValueError("no"))(step, answers)
        return step == "is_done"

    assert steps_of(batch_of(1, 2), batch_of(3), hook=hook) == (
        "wait, prepare 1+2, launch 1+2, take, prepare 3, collect 1+2, "
        "prepare 1, launch 1, collect 1, fail 1, prepare 2, launch 2, collect 2, deliver 2, "
        "launch 3, take, collect 3, deliver 3, wait"
    )


# --------------------------------------------------------------------------------------------- memory and time


@pytest.mark.parametrize("step", STEPS)
def test_out_of_memory_splits_its_own_batch_only(step: str) -> None:
    seen: list[list[float]] = []

    def hook(at: str, answers: list[float]) -> None:
        if at == step:
            seen.append(answers)
            if {5.0, 6.0} <= set(answers):
                raise EngineOutOfMemoryError("too many")

    worker = Worker(FakeEngine(overlaps=True, hook=hook), 1000)
    batches = batch_of(1, 2, 3), batch_of(5, 6, 7), batch_of(8, 9)
    results = [
        (item.request.number, result) for part in worker.run(take_once(*batches)) for item, result in part
    ]
    assert sorted(results, key=lambda one: one[0]) == [
        (value, float(value)) for value in (1, 2, 3, 5, 6, 7, 8, 9)
    ]
    assert [len(answers) for answers in seen if set(answers) & {1.0, 8.0}] == [3, 2]
    assert worker.stats().oom_splits == 2, "5+6+7, then 5+6"


def test_time_of_two_batches_in_flight_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 80 s, of which the second is launched 5 s after the first, and the third when the device is idle."""
    now = 0.0
    ends = {1.0: 80.0, 2.0: 160.0, 3.0: 1080.0}

    def hook(step: str, answers: list[float]) -> None:
        nonlocal now
        if step == "prepare":
            now = {1.0: 0.0, 2.0: 5.0, 3.0: 1000.0}[answers[0]]
        elif step == "collect":
            now = ends[answers[0]]

    monkeypatch.setattr("qwen_rerank_plugins.core.scheduler.worker.time.perf_counter", lambda: now)
    worker = Worker(FakeEngine(overlaps=True, hook=hook), 1000)
    for _ in worker.run(take_once(batch_of(1), batch_of(2), (), batch_of(3))):
        pass
    assert worker.stats().compute_s == 3 * 80
    assert worker.tokens_per_s == pytest.approx(16 / 80)


def test_neither_a_failed_batch_nor_an_error_keeps_memory_of_a_device() -> None:
    """What was launched is released when a batch is retried, and when a thread has died, while its error is kept."""
    alive: list[int] = []

    def hook(step: str, answers: list[float]) -> None:
        if step == "prepare":
            alive.append(len(engine.in_flight))
        if step == "collect" and 1 in answers:
            raise MemoryError if len(answers) == 1 else EngineOutOfMemoryError("too many")

    engine = FakeEngine(overlaps=True, hook=hook)
    worker = Worker(engine, 1000)
    with pytest.raises(MemoryError) as died:
        for _ in worker.run(take_once(batch_of(1, 2), batch_of(3))):
            pass
    error = worker.died_error(died.value)
    assert alive == [0, 1, 0]
    assert isinstance(error.__cause__, MemoryError)
    assert not engine.in_flight


# ------------------------------------------------------------------------------------- faults, with a scheduler


class Pipeline:
    """A scheduler over an engine that overlaps, with the batches 1, 2+3 and 4 of one request per value.

    `hook` is called at each step in the thread of the worker, when all requests are queued.
    """

    def __init__(self, hook: Hook, fault: Callable[[Sequence[Segment]], Any] | None = None) -> None:
        entered, submitted = threading.Event(), threading.Event()

        def wait_for_requests(step: str, answers: list[float]) -> object:
            entered.set()
            assert submitted.wait(SAFETY_S)
            return hook(step, answers)

        self.engine = FakeEngine(overlaps=True, hook=wait_for_requests, fault=fault)
        self.scheduler = make_scheduler(self.engine, batch=16)
        self.futures = {1: self.scheduler.submit(prompts([1]))}
        assert entered.wait(SAFETY_S)
        for value, length in ((2, 5), (3, 5), (4, 10)):
            self.futures[value] = self.scheduler.submit(prompts([value], length))
        self.submit_done = submitted.set

    def outcomes(self) -> dict[int, object]:
        """The score or the type of the error of each request."""
        self.submit_done()
        return {
            value: type(error) if (error := future.exception(SAFETY_S)) else future.result()[0]
            for value, future in self.futures.items()
        }


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EngineOutOfMemoryError("too many"), EngineOutOfMemoryError),
        (EngineError("no"), EngineError),
        (ValueError("no"), EngineError),
        (CheckpointError("gone"), CheckpointError),
    ],
)
def test_a_batch_that_fails_beside_another_one_costs_the_faulty_request_only(
    step: str, error: Exception, expected: type
) -> None:
    pipeline = Pipeline(failing(2, step, error))
    assert pipeline.outcomes() == {1: 1.0, 2: expected, 3: 3.0, 4: 4.0}
    pipeline.scheduler.close()
    assert pipeline.engine.batches[0] == [1.0]
    assert pipeline.scheduler.stats().worker_restarts == 0


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (lambda batch: [math.nan if one == 2 else one for one in batch], NonFiniteScoreError),
        (lambda batch: batch[1:] if 2 in batch else None, EngineError),
        (lambda batch: [*batch, 0.0] if 2 in batch else None, EngineError),
    ],
)
def test_wrong_scores_beside_another_batch_cost_the_faulty_request_only(
    scores: Callable[[list[float]], list[float] | None], expected: type
) -> None:
    pipeline = Pipeline(
        lambda step, answers: None, fault=lambda batch: scores([answer(one) for one in batch])
    )
    assert pipeline.outcomes() == {1: 1.0, 2: expected, 3: 3.0, 4: 4.0}
    pipeline.scheduler.close()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [MemoryError, SystemExit, DeviceLostError])
def test_a_thread_that_dies_answers_for_both_batches_in_flight(step: str, error: type[BaseException]) -> None:
    def hook(at: str, answers: list[float]) -> None:
        if at == step and 2 in answers:
            raise error("gone")

    pipeline = Pipeline(hook)
    lost = error is DeviceLostError
    failed = DeviceLostError if lost else WorkerDiedError
    ahead, behind = (1.0, failed) if step == "collect" else (failed, failed if lost else 4.0)
    assert pipeline.outcomes() == {1: ahead, 2: failed, 3: failed, 4: behind}
    if not lost:
        assert pipeline.scheduler.submit(prompts([7])).result(SAFETY_S) == [7.0]
    stats = pipeline.scheduler.stats()
    assert (stats.worker_restarts, stats.pending_requests) == (0 if lost else 1, 0)
    pipeline.scheduler.close()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", ["cancel", "expire"])
def test_a_request_may_leave_between_any_two_steps(step: str, how: str) -> None:
    def leave(at: str, answers: list[float]) -> None:
        if at == step and 2 in answers:
            future = pipeline.futures[2]
            future.cancel() if how == "cancel" else pipeline.scheduler.expire(future)

    pipeline = Pipeline(leave)
    pipeline.submit_done()
    assert [pipeline.futures[value].result(SAFETY_S) for value in (1, 3, 4)] == [[1.0], [3.0], [4.0]]
    assert (
        pipeline.futures[2].cancelled()
        if how == "cancel"
        else isinstance(pipeline.futures[2].exception(0), DeadlineExceededError)
    )
    stats = pipeline.scheduler.stats()
    assert (stats.cancelled, stats.expired, stats.completed) == (how == "cancel", how == "expire", 3)
    pipeline.scheduler.close()


@pytest.mark.parametrize("step", STEPS)
def test_closing_with_two_batches_in_flight_fails_both_and_ends_the_thread(step: str) -> None:
    def close(at: str, answers: list[float]) -> None:
        if at == step and 2 in answers:
            pipeline.scheduler.close()

    pipeline = Pipeline(close)
    ahead = 1.0 if step == "collect" else ClosedError
    assert pipeline.outcomes() == {1: ahead, 2: ClosedError, 3: ClosedError, 4: ClosedError}
    pipeline.scheduler.close()
    assert [thread for thread in threading.enumerate() if thread.name == "qwen-rerank-fake:0"] == []
    assert not pipeline.engine.in_flight
    assert pipeline.engine.batches == [[1.0], [2.0, 3.0], [4.0]][: 3 if step == "collect" else 2]


# ----------------------------------------------------------------------------------------------------- at random

RAISED = {"memory": EngineOutOfMemoryError, "engine": EngineError, "value": ValueError, "death": MemoryError}
EXPECTED = RAISED | {"value": EngineError, "nan": NonFiniteScoreError, "count": EngineError}


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    faults=st.dictionaries(
        st.integers(0, 20), st.tuples(st.sampled_from(STEPS), st.sampled_from([*EXPECTED]))
    ),
    done=st.lists(st.booleans(), max_size=20),
    empty=st.lists(st.booleans(), max_size=20),
    overlaps=st.booleans(),
)
def test_any_sequence_of_batches_gives_each_request_its_scores_or_its_error(
    sizes: list[int],
    cuts: list[int],
    faults: dict[int, tuple[str, str]],
    done: list[bool],
    empty: list[bool],
    overlaps: bool,
) -> None:
    """Requests may span batches; each prompt may fail at any step, in any way, each batch be early or late."""
    numbers = iter(range(100))
    requests = [Request(n, prompts([next(numbers) for _ in range(size)])) for n, size in enumerate(sizes)]
    waiting = [
        QueuedPrompt(request, index, one) for request in requests for index, one in enumerate(request.prompts)
    ]
    prepared: set[float] = set()
    overlapping_retries: list[list[float]] = []
    is_done, is_empty, batch_sizes = iter(done), iter(empty), iter(cuts)

    def hook(step: str, answers: list[float]) -> bool:
        if step == "is_done":
            return next(is_done, False)
        if step == "prepare":
            if prepared & {*answers} and engine.in_flight:
                overlapping_retries.append(answers)
            prepared.update(answers)
        for value in answers:
            at, kind = faults.get(int(value), ("", ""))
            if at == step and kind in RAISED:
                raise RAISED[kind]("no")
        return False

    def scores(batch: Sequence[Segment]) -> list[float]:
        kinds = [faults.get(int(answer(one)), ("", ""))[1] for one in batch]
        found = [math.nan if kind == "nan" else answer(one) for one, kind in zip(batch, kinds, strict=True)]
        return found[1:] if "count" in kinds else found

    def take(*, wait: bool) -> list[QueuedPrompt]:
        if not wait and next(is_empty, False):
            return []
        size = next(batch_sizes, 3)
        batch, waiting[:] = waiting[:size], waiting[size:]
        return batch

    engine = FakeEngine(overlaps=overlaps, hook=hook, fault=scores)
    found: dict[int, dict[int, float]] = {request.number: {} for request in requests}
    errors: dict[int, RerankError] = {}
    died = False
    try:
        for results in Worker(engine, 1000).run(take):
            for item, result in results:
                if isinstance(result, RerankError):
                    errors.setdefault(item.request.number, result)
                    item.request.is_open = False
                else:
                    assert item.index not in found[item.request.number], "a prompt has one result"
                    found[item.request.number][item.index] = result
    except MemoryError:
        died = True
    assert overlapping_retries == []
    for request in requests:
        values = [answer(one) for one in request.prompts]
        expected = [EXPECTED[faults[int(value)][1]] for value in values if int(value) in faults]
        if request.number in errors:
            assert type(errors[request.number]) in expected
            assert not isinstance(errors[request.number].__cause__, AssertionError), "the engine's own checks"
        elif not died:
            assert expected == []
            assert [found[request.number][index] for index in range(len(values))] == values
    assert died or not engine.in_flight
    assert not died or any(kind == "death" for _, kind in faults.values())
