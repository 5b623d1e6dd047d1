from __future__ import annotations

import concurrent.futures
import ctypes
import gc
import logging
import math
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest

from qwen_rerank_plugins.core.scheduler.futures import ScoreFuture
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import (
    ClosedError,
    DeadlineExceededError,
    DeviceLostError,
    EngineError,
    EngineOutOfMemoryError,
    NonFiniteScoreError,
    WorkerDiedError,
)
from tests.core.scheduler.helpers import SAFETY_S, FakeEngine, answer, make_scheduler, prompts
from tests.laws.sources import plain_environment

POISON = 666


def deadly(error: type[BaseException]) -> FakeEngine:
    """An engine that fails on a certain prompt, once its gate is open."""

    def fault(sequences: Sequence[Segment]) -> None:
        if POISON in map(answer, sequences):
            raise error

    return FakeEngine(fault=fault, blocked=True)


# ------------------------------------------------------------------------------------------- failing batches


def test_a_poisoned_request_fails_alone_in_a_merged_batch() -> None:
    engine = deadly(ValueError)
    with make_scheduler(engine, batch=1000) as scheduler:
        first = scheduler.submit(prompts([1]))
        engine.wait_until_busy()
        futures = [scheduler.submit(prompts(values)) for values in ([2, 3], [4, POISON], [5])]
        engine.gate.set()
        assert [first.result(SAFETY_S), futures[0].result(SAFETY_S)] == [[1.0], [2.0, 3.0]]
        assert futures[2].result(SAFETY_S) == [5.0]
        with pytest.raises(EngineError, match="ValueError") as failed:
            futures[1].result(SAFETY_S)
        assert isinstance(failed.value.__cause__, ValueError)
        assert scheduler.stats().failed == 1
    assert len(engine.batches[1]) == 5, "they were in one batch"


def test_what_is_left_of_a_failed_request_is_not_computed() -> None:
    engine = deadly(ValueError)
    engine.gate.set()
    with make_scheduler(engine, batch=50) as scheduler:
        with pytest.raises(EngineError):
            scheduler.submit([*prompts([POISON], length=5), *prompts(range(100))]).result(SAFETY_S)
        assert scheduler.submit(prompts([7])).result(SAFETY_S) == [7.0]
    assert len(engine.batches) == 2


def test_not_a_number_fails_its_own_request() -> None:
    engine = FakeEngine(fault=lambda batch: [math.nan if answer(s) == POISON else answer(s) for s in batch])
    with make_scheduler(engine) as scheduler:
        with pytest.raises(NonFiniteScoreError):
            scheduler.submit(prompts([1, POISON])).result(SAFETY_S)
        assert scheduler.submit(prompts([2])).result(SAFETY_S) == [2.0]


@pytest.mark.parametrize(("overlaps", "part"), [(False, 3), (True, 2)])
def test_out_of_memory_is_met_with_smaller_batches(overlaps: bool, part: int) -> None:
    """Two batches in flight fail together: they are prepared with one budget."""
    engine = FakeEngine(oom_above=60, overlaps=overlaps)
    with make_scheduler(engine, batch=500) as scheduler:
        assert scheduler.submit(prompts(range(200))).result(SAFETY_S) == [float(v) for v in range(200)]
        stats = scheduler.stats()
        assert stats.oom_splits > 0
        assert stats.devices[0].budget_tokens < 500
        with pytest.raises(EngineOutOfMemoryError):
            scheduler.submit(prompts([1], length=80)).result(SAFETY_S)
    assert sum(tokens > 60 for tokens in engine.tokens) < len(engine.tokens) / part, (
        "the lesson is remembered"
    )


# --------------------------------------------------------------------------------------------- dying workers


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit])
def test_a_worker_that_dies_answers_for_its_batch_and_is_replaced(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    engine = deadly(error)
    with make_scheduler(engine, batch=40) as scheduler:
        failing = scheduler.submit(prompts([POISON, 1, 2, 3, 4]))
        engine.wait_until_busy()
        queued = scheduler.submit(prompts([5]))
        engine.gate.set()
        with pytest.raises(WorkerDiedError, match=error.__name__) as died:
            failing.result(SAFETY_S)
        assert isinstance(died.value.__cause__, error)
        assert queued.result(SAFETY_S) == [5.0]
        assert scheduler.stats().worker_restarts == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_worker_that_dies_fails_no_request_whose_batch_was_done() -> None:
    """The rest of that request is still queued, and the next thread computes it."""
    engine = deadly(SystemExit)
    with make_scheduler(engine, batch=16) as scheduler:
        begun = scheduler.submit(prompts([1, 2]))
        engine.wait_until_busy()
        failing = scheduler.submit(prompts([POISON], length=3))
        engine.gate.set()
        with pytest.raises(WorkerDiedError):
            failing.result(SAFETY_S)
        assert begun.result(SAFETY_S) == [1.0, 2.0]
    assert engine.batches == [[1.0], [POISON], [2.0]]


def test_a_worker_killed_from_outside_answers_for_its_batch() -> None:
    """The exception is thrown into the thread, as a debugger or a timeout library does."""
    spinning = threading.Event()
    release = threading.Event()

    def fault(sequences: Sequence[Segment]) -> None:
        spinning.set()
        while not release.wait(0.001):
            pass

    with make_scheduler(FakeEngine(fault=fault)) as scheduler:
        failing = scheduler.submit(prompts([1]))
        assert spinning.wait(SAFETY_S)
        [worker] = [thread for thread in threading.enumerate() if thread.name == "qwen-rerank-fake:0"]
        assert worker.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(SystemExit))
        with pytest.raises(WorkerDiedError):
            failing.result(SAFETY_S)
        release.set()
        assert scheduler.submit(prompts([2])).result(SAFETY_S) == [2.0]


def test_a_worker_that_dies_again_and_again_is_given_up_and_nobody_waits_for_it() -> None:
    engine = deadly(SystemExit)
    engine.gate.set()
    with make_scheduler(engine, batch=16) as scheduler:
        for _ in range(3):
            with pytest.raises(WorkerDiedError):
                scheduler.submit(prompts([POISON])).result(SAFETY_S)
        engine.gate.clear()
        futures = [scheduler.submit(prompts([value])) for value in (POISON, 1, 2)]
        engine.gate.set()
        for future in futures:
            with pytest.raises(WorkerDiedError):
                future.result(SAFETY_S)
        with pytest.raises(WorkerDiedError, match="out of service"):
            scheduler.submit(prompts([3]))
        stats = scheduler.stats()
        assert (stats.worker_restarts, stats.devices[0].is_alive, stats.pending_requests) == (3, False, 0)


def test_the_other_devices_go_on_when_one_is_given_up() -> None:
    def die(sequences: Sequence[Segment]) -> None:
        raise SystemExit

    bad, good = FakeEngine("bad", fault=die), FakeEngine("good", blocked=True)
    with make_scheduler(bad, good, batch=16) as scheduler:
        keeps_good_busy = scheduler.submit(prompts([1]))
        others = []
        while scheduler.stats().devices[0].is_alive:
            others.append(scheduler.submit(prompts([2])))
            concurrent.futures.wait([others[-1]], timeout=0.05)
        good.gate.set()
        outcomes = [type(future.exception(SAFETY_S)) for future in (keeps_good_busy, *others)]
        assert outcomes.count(WorkerDiedError) == 4
        assert set(outcomes) <= {WorkerDiedError, type(None)}
        assert scheduler.submit(prompts(range(50))).result(SAFETY_S) == [float(v) for v in range(50)]


def test_a_lost_device_fails_all_that_waits_at_once_and_nothing_is_taken_any_more() -> None:
    """A sticky CUDA error: every later call would fail too, so no request is tried alone and no worker replaced."""

    def lose(sequences: Sequence[Segment]) -> None:
        raise DeviceLostError("cuda:0 is lost")

    first, second = FakeEngine("cuda:0", fault=lose, blocked=True), FakeEngine("cuda:1", blocked=True)
    with make_scheduler(first, second, batch=16) as scheduler:
        futures = [scheduler.submit(prompts([value])) for value in range(8)]
        for engine in (first, second):
            engine.wait_until_busy()
        first.gate.set()
        failed = concurrent.futures.wait(futures, timeout=SAFETY_S).done
        assert len(failed) == 8
        assert {type(future.exception()) for future in failed} == {DeviceLostError}
        with pytest.raises(DeviceLostError, match="cuda:0 is lost"):
            scheduler.submit(prompts([1]))
        second.gate.set()
        stats = scheduler.stats()
        assert [device.is_alive for device in stats.devices] == [False, False]
        assert (stats.worker_restarts, stats.failed, len(first.batches)) == (0, 8, 1)


def test_a_thread_that_cannot_start_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    scheduler = make_scheduler(FakeEngine())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        future = scheduler.submit(prompts([1]), deadline_s=SAFETY_S)
    assert isinstance(future.exception(SAFETY_S), WorkerDiedError)


def test_a_callback_that_misbehaves_does_not_keep_others_from_their_answers() -> None:
    def misbehave(future: concurrent.futures.Future[list[float]]) -> None:
        raise SystemExit

    engine = FakeEngine(blocked=True)
    with make_scheduler(engine, batch=1000) as scheduler:
        first = scheduler.submit(prompts([1]))
        engine.wait_until_busy()
        futures = [scheduler.submit(prompts([value])) for value in (2, 3)]
        futures[0].add_done_callback(misbehave)
        engine.gate.set()
        assert [future.result(SAFETY_S) for future in (first, *futures)] == [[1.0], [2.0], [3.0]]
        assert scheduler.submit(prompts([4])).result(SAFETY_S) == [4.0]
        assert scheduler.stats().worker_restarts == 0


def test_an_interrupt_of_the_main_thread_is_raised_when_all_have_their_answers() -> None:
    def interrupt(_: concurrent.futures.Future[list[float]]) -> None:
        raise KeyboardInterrupt

    engine = FakeEngine(blocked=True)
    scheduler = make_scheduler(engine)
    first, second = scheduler.submit(prompts([1])), scheduler.submit(prompts([2]))
    first.add_done_callback(interrupt)
    engine.wait_until_busy()
    with pytest.raises(KeyboardInterrupt):
        scheduler.close(timeout_s=0.0)
    assert isinstance(first.exception(0), ClosedError)
    assert isinstance(second.exception(0), ClosedError)
    engine.gate.set()
    scheduler.close()


def test_a_future_that_is_done_keeps_its_result_when_it_is_abandoned() -> None:
    done, pending = ScoreFuture(), ScoreFuture()
    done.set_result([1.0])
    for future in (done, pending):
        future.abandon(ClosedError("forked"))
    assert done.result(0) == [1.0]
    assert isinstance(pending.exception(0), ClosedError)


def test_requests_are_counted_by_their_outcome() -> None:
    engine = FakeEngine(fault=lambda batch: [math.nan if answer(one) == 2 else answer(one) for one in batch])
    with make_scheduler(engine) as scheduler:
        assert scheduler.submit(prompts([1])).result(SAFETY_S) == [1.0]
        assert scheduler.submit([]).result(0) == []
        assert isinstance(scheduler.submit(prompts([2])).exception(SAFETY_S), NonFiniteScoreError)
        assert isinstance(scheduler.submit(prompts([3]), deadline_s=0.0).exception(0), DeadlineExceededError)
        stats = scheduler.stats()
        assert (stats.completed, stats.failed, stats.expired, stats.cancelled) == (2, 1, 1, 0)


def test_a_callback_may_submit_again() -> None:
    done: concurrent.futures.Future[list[float]] = concurrent.futures.Future()
    with make_scheduler(FakeEngine()) as scheduler:

        def again(_: concurrent.futures.Future[list[float]]) -> None:
            scheduler.submit(prompts([2])).add_done_callback(lambda future: done.set_result(future.result()))

        scheduler.submit(prompts([1])).add_done_callback(again)
        assert done.result(SAFETY_S) == [2.0]


# -------------------------------------------------------------------------------------------------- the end


def _own_threads(others: set[threading.Thread]) -> list[threading.Thread]:
    """Schedulers' threads that were not there before; other tests' models may have theirs."""
    names = "qwen-rerank-"
    return [thread for thread in set(threading.enumerate()) - others if thread.name.startswith(names)]


def test_closing_fails_what_is_pending_and_refuses_what_comes_later() -> None:
    others = set(threading.enumerate())
    engine = FakeEngine(blocked=True)
    scheduler = make_scheduler(engine, batch=16)
    futures = [scheduler.submit(prompts([value]), deadline_s=SAFETY_S) for value in range(5)]
    engine.wait_until_busy()
    scheduler.close(timeout_s=0.0)
    for future in futures:
        with pytest.raises(ClosedError):
            future.result(SAFETY_S)
    with pytest.raises(ClosedError):
        scheduler.submit(prompts([1]))
    with pytest.raises(ClosedError):
        scheduler.submit([])
    engine.gate.set()
    scheduler.close()
    assert len(engine.batches) == 1, "workers stop after the batch that was running"
    assert not _own_threads(others)


def test_closing_from_a_workers_own_callback_does_not_hang() -> None:
    scheduler = make_scheduler(FakeEngine())
    closed = threading.Event()

    def close(_: concurrent.futures.Future[list[float]]) -> None:
        scheduler.close()
        closed.set()

    scheduler.submit(prompts([1])).add_done_callback(close)
    assert closed.wait(SAFETY_S)


def test_a_closed_scheduler_holds_nothing_although_a_future_is_kept() -> None:
    """Its threads end, and the engine, whose weights are large, is released with the scheduler."""
    others = set(threading.enumerate())
    engine = FakeEngine()
    scheduler = make_scheduler(engine)
    results = scheduler.submit(prompts([1]), deadline_s=SAFETY_S).result(SAFETY_S)
    assert len(_own_threads(others)) == 1
    scheduler.close()
    assert not _own_threads(others)
    engine_ref = weakref.ref(engine)
    del engine, scheduler
    gc.collect()
    assert engine_ref() is None
    assert results == [1.0]


# ------------------------------------------------------------------------------------ processes: exit and fork

SCRIPT_HEAD = """
import os, sys, threading, time
from tests.core.scheduler.helpers import *
from qwen_rerank_plugins.core.scheduler.scheduler import Scheduler
from qwen_rerank_plugins.errors import ClosedError

class ForkedEngine(FakeEngine):
    forks = 0
    def after_fork(self):
        assert not self.batches or self.batches == self.inherited
        type(self).forks += 1
        self.in_flight.clear()
"""


def run_script(body: str, root: Path, *arguments: str) -> str:
    """Run a script that forks, without coverage: a fork may copy coverage's own lock while another thread holds it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT_HEAD + body, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=root,
        env=plain_environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_interpreter_ends_while_a_batch_is_running(root: Path) -> None:
    """The scheduler is neither closed nor dropped, and its engine never returns."""
    body = """
engine = FakeEngine(blocked=True)
scheduler = make_scheduler(engine)
future = scheduler.submit(prompts([1, 2, 3]), deadline_s=1000)
engine.wait_until_busy()
print("leaving")
"""
    assert run_script(body, root) == "leaving\n"


def test_a_forked_child_has_its_own_workers_and_fails_what_the_parent_began(root: Path) -> None:
    body = """
engine = ForkedEngine(blocked=True)
scheduler = make_scheduler(engine, batch=16)
pending = [scheduler.submit(prompts([value])) for value in (1, 2)]
called = []
pending[0].add_done_callback(lambda future: called.append(os.getpid()))
engine.wait_until_busy()
engine.inherited = list(engine.batches)
pid = os.fork()
if pid == 0:
    assert all(isinstance(future.exception(0), ClosedError) for future in pending)
    assert not called
    engine.gate = threading.Event(); engine.gate.set()
    assert scheduler.stats().pending_requests == 0
    assert scheduler.submit(prompts([7, 8])).result(SAFETY_S) == [7.0, 8.0]
    assert scheduler.submit(prompts([9])).result(SAFETY_S) == [9.0]
    assert ForkedEngine.forks == 1
    scheduler.close()
    os._exit(0)
status = os.waitpid(pid, 0)[1]
engine.gate.set()
print(status, [future.result(SAFETY_S) for future in pending], ForkedEngine.forks)
"""
    assert run_script(body, root) == "0 [[1.0], [2.0]] 0\n"


@pytest.mark.parametrize("overlaps", ["", "overlaps"])
def test_a_fork_in_the_middle_of_anything_leaves_no_lock_behind(root: Path, overlaps: str) -> None:
    """Threads continuously submit, cancel and read statistics while the process forks, and each child works."""
    body = """
engine = ForkedEngine(overlaps=bool(sys.argv[1]))
ForkedEngine.after_fork = lambda self: self.in_flight.clear()
scheduler = make_scheduler(engine, batch=64, queue=400)
stop = threading.Event()
kept = []
def ask():
    while not stop.is_set():
        future = scheduler.submit(prompts(range(5)), deadline_s=SAFETY_S)
        kept.append(future); del kept[:-20]
        if len(kept) % 3: future.cancel()
        else: future.result(SAFETY_S)
        scheduler.stats()
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads: thread.start()
codes = []
for _ in range(15):
    time.sleep(0.01)
    pid = os.fork()
    if pid == 0:
        for future in list(kept):
            try: future.exception(10)
            except BaseException as error:
                if isinstance(error, TimeoutError): os._exit(2)
        os._exit(0 if scheduler.submit(prompts([7])).result(10) == [7.0] else 1)
    codes.append(os.waitpid(pid, 0)[1])
stop.set()
for thread in threads: thread.join(SAFETY_S)
print(codes)
"""
    assert run_script(body, root, overlaps) == f"{[0] * 15}\n"


def test_a_closed_scheduler_stays_closed_in_a_child(root: Path) -> None:
    body = """
scheduler = make_scheduler(FakeEngine())
scheduler.close()
pid = os.fork()
if pid == 0:
    try: scheduler.submit(prompts([1]))
    except ClosedError: os._exit(0)
    os._exit(1)
print(os.waitpid(pid, 0)[1])
"""
    assert run_script(body, root) == "0\n"
