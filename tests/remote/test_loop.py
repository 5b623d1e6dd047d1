"""Threads, event loops, forks and the end of a process: nothing is shared by mistake, lost or leaked, and nothing warns."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qwen_rerank_plugins import ClosedError, RerankConfig, ScoreRequest
from qwen_rerank_plugins.remote import RemoteScorer
from tests.laws.sources import ROOT, plain_environment
from tests.remote import servers
from tests.remote.servers import Service, serving

pytestmark = pytest.mark.loopback

ONE = [ScoreRequest("q", "0.5")]
THREAD = "qwen-rerank-remote"


@pytest.fixture
def service() -> Iterator[Service]:
    with serving("qwen") as running:
        yield running


@pytest.fixture
def scorer(service: Service) -> Iterator[RemoteScorer]:
    made = scorer_of(service)
    yield made
    made.close()


def scorer_of(service: Service, *, max_concurrency: int = 8) -> RemoteScorer:
    return RemoteScorer(
        RerankConfig(
            backend="remote",
            base_url=service.url,
            retries=0,
            max_batch_documents=1,
            max_concurrency=max_concurrency,
        )
    )


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD]


def open_sockets() -> int:
    return sum(stat.S_ISSOCK(_mode(entry.name)) for entry in Path("/proc/self/fd").iterdir())


def _mode(descriptor: str) -> int:
    try:
        return os.fstat(int(descriptor)).st_mode
    except OSError:  # the descriptor of the listing itself
        return 0


def eventually(condition: Callable[[], bool], *, within_s: float = 3.0) -> bool:
    until = time.monotonic() + within_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


# Threads and event loops.


def test_nothing_is_started_before_it_is_needed(service: Service) -> None:
    scorer = scorer_of(service)
    assert loop_threads() == []
    scorer.score(ONE)
    assert loop_threads() == [THREAD]
    scorer.close()
    assert loop_threads() == []


def test_many_threads_share_one_loop_and_get_their_own_scores(scorer: RemoteScorer, service: Service) -> None:
    def ask(number: int) -> bool:
        texts = [f"0.{number:02}{other}1" for other in range(3)]
        scores = scorer.score([ScoreRequest("q", text) for text in texts])
        return [one.relevance_score for one in scores] == [float(text) for text in texts]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(40)))
    assert (len(service.seen), loop_threads()) == (120, [THREAD])


def test_calls_from_many_event_loops_leave_nothing_on_them(scorer: RemoteScorer, service: Service) -> None:
    """Warnings are errors here: a connection that outlived its loop would be one."""

    async def ask() -> float:
        scores = await asyncio.gather(*(scorer.ascore(ONE) for _ in range(3)))
        return scores[0][0].relevance_score

    before = open_sockets()
    assert [asyncio.run(ask()) for _ in range(20)] == [0.5] * 20
    gc.collect()
    assert service.connections <= 4, "connections outlive the loops that asked"
    assert open_sockets() - before <= 2 * service.connections + 3  # both ends are here


def test_loops_in_several_threads_ask_at_the_same_time(scorer: RemoteScorer) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: asyncio.run(scorer.ascore(ONE)), range(24)))
    assert [scores[0].relevance_score for scores in results] == [0.5] * 24


def test_an_event_loop_is_not_blocked_while_a_service_thinks(scorer: RemoteScorer, service: Service) -> None:
    service.delay_s = 0.3

    async def ticks() -> int:
        call = asyncio.create_task(scorer.ascore(ONE))
        count = 0
        while not call.done():
            await asyncio.sleep(0.01)
            count += 1
        await call
        return count

    assert asyncio.run(ticks()) >= 10


def test_a_blocking_call_inside_an_event_loop_works(scorer: RemoteScorer) -> None:
    async def ask() -> float:
        return scorer.score(ONE)[0].relevance_score  # as code does that knows nothing of the loop it runs in

    assert asyncio.run(ask()) == 0.5


@pytest.mark.parametrize("max_concurrency", [1, 3])
def test_no_more_calls_are_open_than_allowed_whoever_makes_them(
    service: Service, max_concurrency: int
) -> None:
    service.delay_s = 0.03
    scorer = scorer_of(service, max_concurrency=max_concurrency)
    requests = [ScoreRequest("q", f"0.{number}1") for number in range(1, 7)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: scorer.score(requests), range(3)))
    scorer.close()
    assert service.most_at_once == max_concurrency
    assert service.connections <= max_concurrency


def test_waiting_for_a_turn_does_not_count_as_the_service_s_time(service: Service) -> None:
    """Six calls of 0.3 s, one after the other, are longer than the timeout of each."""
    service.delay_s = 0.3
    settings = {"backend": "remote", "base_url": service.url, "timeout_s": 1.2, "retries": 0}
    config = RerankConfig.model_validate({**settings, "max_batch_documents": 1, "max_concurrency": 1})
    scorer = RemoteScorer(config)
    assert len(scorer.score([ScoreRequest("q", f"0.{number}1") for number in range(1, 7)])) == 6
    scorer.close()


# Cancelling and closing.


def test_a_cancelled_call_ends_at_once_and_harms_no_other(scorer: RemoteScorer, service: Service) -> None:
    service.faults.append(servers.hang)

    async def ask() -> float:
        call = asyncio.create_task(scorer.ascore(ONE))
        await asyncio.to_thread(service.arrived.wait, 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return (await scorer.ascore(ONE))[0].relevance_score

    started = time.perf_counter()
    assert asyncio.run(ask()) == 0.5
    assert time.perf_counter() - started < 10


def test_an_interrupt_ends_a_blocking_call_and_its_request(service: Service) -> None:
    """The request's place is free again: with one place, the next call would wait for ever."""
    scorer = scorer_of(service, max_concurrency=1)
    service.faults.append(servers.hang)
    main = threading.get_ident()

    def interrupt() -> None:
        service.arrived.wait(5)
        signal.pthread_kill(main, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        scorer.score(ONE)
    interrupter.join()
    assert scorer.score(ONE, deadline_s=10)[0].relevance_score == 0.5
    scorer.close()


@pytest.mark.parametrize("blocking", [True, False])
def test_closing_ends_the_calls_that_are_under_way(service: Service, blocking: bool) -> None:
    scorer = scorer_of(service)
    service.always = servers.hang
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            if blocking:
                scorer.score(ONE)
            else:
                asyncio.run(scorer.ascore(ONE))
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is looked at)
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(service.seen) == 4)
    started = time.perf_counter()
    scorer.close()
    for thread in threads:
        thread.join(5)
    assert time.perf_counter() - started < 10
    assert [type(error) for error in errors] == [ClosedError] * 4
    assert "closed during the call" in str(errors[0])
    assert loop_threads() == []


def test_closing_closes_the_connections(service: Service) -> None:
    before = open_sockets()
    scorer = scorer_of(service)
    scorer.score([ScoreRequest("q", f"0.{number}1") for number in range(1, 5)])
    assert open_sockets() > before
    scorer.close()
    assert eventually(lambda: open_sockets() == before)


def test_a_garbage_collected_scorer_stops_its_thread(service: Service) -> None:
    scorer = scorer_of(service)
    scorer.score(ONE)
    assert loop_threads() == [THREAD]
    del scorer
    gc.collect()
    assert eventually(lambda: loop_threads() == [])


# Processes.


def in_child(work: Callable[[], bool]) -> int:
    """Run work in a forked child; its exit status is 0 if the work returned true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        except BaseException:  # noqa: BLE001 (the child must not go on as a test run)
            traceback.print_exc()
        finally:
            os._exit(code)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(scorer: RemoteScorer, service: Service) -> None:
    scorer.score(ONE)

    def work() -> bool:
        scores = scorer.score(ONE) + asyncio.run(scorer.ascore(ONE))
        scorer.close()
        return [one.relevance_score for one in scores] == [0.5, 0.5]

    assert in_child(work) == 0
    assert scorer.score(ONE)[0].relevance_score == 0.5
    parents, child = {service.seen[0].connection, service.seen[-1].connection}, service.seen[1].connection
    assert child not in parents
    assert len(parents) == 1, "the parent's connection is as it was"


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_forked_in_the_middle_of_calls_is_not_stuck(scorer: RemoteScorer, service: Service) -> None:
    service.delay_s = 0.02
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            scorer.score(ONE)

    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_child(lambda: scorer.score(ONE)[0].relevance_score == 0.5) for _ in range(8)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 8


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_of_a_closed_scorer_finds_it_closed(scorer: RemoteScorer) -> None:
    scorer.score(ONE)
    scorer.close()

    def work() -> bool:
        with pytest.raises(ClosedError):
            scorer.score(ONE)
        return True

    assert in_child(work) == 0


@pytest.mark.parametrize("end", ["pass", "scorer.close()", "sys.exit(0)", "del scorer"])
def test_a_process_ends_quietly_and_at_once(service: Service, end: str) -> None:
    script = f"""
import asyncio, sys
from qwen_rerank_plugins import RerankConfig, ScoreRequest
from qwen_rerank_plugins.remote import RemoteScorer
scorer = RemoteScorer(RerankConfig(backend="remote", base_url={service.url.replace("127.0.0.1", "localhost")!r}))
one = [ScoreRequest("q", "0.5")]
print(scorer.score(one)[0].relevance_score, asyncio.run(scorer.ascore(one))[0].relevance_score)
{end}
"""
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0.5 0.5\n", "")
    assert time.perf_counter() - started < 20


def test_a_call_at_the_very_end_of_a_process_says_that_it_is_too_late(service: Service) -> None:
    """Handlers that were registered before the scorer was made run after it has ended."""
    script = f"""
import atexit
def late():
    try:
        scorer.score(one)
    except ClosedError as error:
        print(error)
atexit.register(late)
from qwen_rerank_plugins import ClosedError, RerankConfig, ScoreRequest
from qwen_rerank_plugins.remote import RemoteScorer
scorer = RemoteScorer(RerankConfig(backend="remote", base_url={service.url!r}))
one = [ScoreRequest("q", "0.5")]
scorer.score(one)
"""
    command = [sys.executable, "-W", "error", "-c", script]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "the interpreter is shutting down\n", "")


def test_a_call_that_is_under_way_does_not_keep_a_process_alive(service: Service) -> None:
    service.always = servers.hang
    script = f"""
import threading, time
from qwen_rerank_plugins import RerankConfig, ScoreRequest
from qwen_rerank_plugins.remote import RemoteScorer
scorer = RemoteScorer(RerankConfig(backend="remote", base_url={service.url!r}))
asking = threading.Thread(target=lambda: scorer.score([ScoreRequest("q", "0.5")]), daemon=True)
asking.start()
time.sleep(0.5)
"""
    started = time.perf_counter()
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=ROOT, env=plain_environment(), check=False, timeout=60)
    assert ran.returncode == 0
    assert time.perf_counter() - started < 15
