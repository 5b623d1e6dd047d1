"""Interactive calls beside a background job: their latency, and what small batches cost the job.

    python benchmarks/priority.py [--model DIR] [--rounds 3] [--calls 40]

latency: seconds of interactive calls of ten documents, one at a time with pauses, without other work, beside a background
job that is never done, and beside the same job with interactive priority. throughput: pairs per second of a job alone,
in background batches and in full ones. All in one process, alternating; texts never repeat and the score cache is off.
The last line of standard output is one JSON document. Exit code 1 means that a goal was not reached.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - the repository's root comes first
from rich.table import Table  # noqa: E402

from benchmarks import machine as machines  # noqa: E402
from benchmarks.core import say  # noqa: E402
from benchmarks.workloads import WORDS  # noqa: E402
from qwen_rerank_plugins import ClosedError, Reranker  # noqa: E402
from qwen_rerank_plugins.types import Priority  # noqa: E402

NUM_DOCUMENTS = 10
NUM_WORDS = 60
JOB_PAIRS = 64  # of one call of the job; two calls are in flight, as in a job of the service
PAUSE_S = 0.05
MAX_LOST = 0.10
QUERY = "which of these harbours has a lighthouse"

Texts = Iterator[list[str]]


def texts(seed: int, count: int) -> Texts:
    """Yield lists of texts that never repeat."""
    rng = random.Random(seed)
    while True:
        yield [" ".join(rng.choices(WORDS, k=NUM_WORDS)) for _ in range(count)]


@contextmanager
def job(reranker: Reranker, priority: Priority) -> Iterator[None]:
    """Run two callers that score without a pause until the block ends."""
    stop = threading.Event()

    def call(seed: int) -> None:
        documents = texts(seed, JOB_PAIRS)
        try:
            while not stop.is_set():
                reranker.rank(f"job {seed}", next(documents), priority=priority)
        except ClosedError:
            pass

    callers = [threading.Thread(target=call, args=(seed,)) for seed in (1, 2)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def call_times(reranker: Reranker, documents: Texts, num_calls: int) -> list[float]:
    """Return the seconds of interactive calls, one after another."""
    times = []
    for _ in range(num_calls):
        given = next(documents)
        start = time.perf_counter()
        reranker.rank(QUERY, given)
        times.append(time.perf_counter() - start)
        time.sleep(PAUSE_S)
    return times


def pairs_per_s(reranker: Reranker, documents: Texts, priority: Priority, seconds: float) -> float:
    """Return the speed of a job that is alone."""
    done, threads = [0, 0], []
    end = time.perf_counter() + seconds
    lock = threading.Lock()

    def call(index: int) -> None:
        while time.perf_counter() < end:
            with lock:
                given = next(documents)
            reranker.rank(f"job {index}", given, priority=priority)
            done[index] += len(given)

    start = time.perf_counter()
    for index in range(2):
        threads.append(threading.Thread(target=call, args=(index,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile, in seconds."""
    return {"p50_s": statistics.median(times), "p99_s": statistics.quantiles(times, n=100)[98]}


def measure(reranker: Reranker, options: argparse.Namespace) -> dict[str, Any]:
    """Return latencies by situation, and speeds by priority."""
    interactive, jobs = texts(10, NUM_DOCUMENTS), texts(20, JOB_PAIRS)
    times: dict[str, list[float]] = {"alone": [], "beside background": [], "beside interactive": []}
    speeds: dict[Priority, list[float]] = {"background": [], "interactive": []}
    call_times(reranker, interactive, 5)
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        times["alone"] += call_times(reranker, interactive, options.calls)
        for priority in speeds:
            with job(reranker, priority):
                times[f"beside {priority}"] += call_times(reranker, interactive, options.calls)
        for priority, found in speeds.items():
            found.append(pairs_per_s(reranker, jobs, priority, options.seconds))
    best = {priority: max(found) for priority, found in speeds.items()}
    return {
        "latency": {name: summary(found) for name, found in times.items()},
        "pairs_per_s": best,
        "lost": 1 - best["background"] / best["interactive"],
    }


def main(arguments: list[str] | None = None) -> int:
    """Print a table for people, and a last line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a checkpoint; default: the demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=40, help="interactive calls per round and situation")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measured job")
    options = parser.parse_args(arguments)
    with Reranker(model=options.model, dtype="float32", cache_entries=0) as reranker:
        machine = machines.describe()
        figures = measure(reranker, options)
    table = Table("situation", "p50 ms", "p99 ms")
    for name, found in figures["latency"].items():
        table.add_row(name, f"{found['p50_s'] * 1e3:.1f}", f"{found['p99_s'] * 1e3:.1f}")
    console = Console()
    console.print(table)
    speeds = figures["pairs_per_s"]
    console.print(
        f"job alone: {speeds['background']:.1f} pairs/s in background batches, {speeds['interactive']:.1f} in full "
        f"ones: {figures['lost']:.1%} lost"
    )
    print(json.dumps({"machine": machine, "model": str(options.model), **figures}))
    return 0 if figures["lost"] <= MAX_LOST else 1


if __name__ == "__main__":
    sys.exit(main())
