"""The HTTP service under load: the overhead of HTTP, the effect of merging, and behaviour under overload.

    python benchmarks/service.py [--parts throughput,overhead,overload] [--seconds 8] [--model DIR]

The service is a separate process, `qwen-rerank serve`, with the demo model, with the weightless scorer, and, for the
overhead, with the 0.6B shape (`--model`, random weights by default). Clients run in this process on the same machine, each
with one request at a time on an open connection; texts never repeat and the score cache is off. The last line of
standard output is one JSON document. Exit code 1 means that a goal was not reached or a request was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - the repository's root comes first
from rich.table import Table  # noqa: E402

from benchmarks import machine as machines  # noqa: E402
from benchmarks.core import random_checkpoint, say  # noqa: E402
from benchmarks.wire import Answer, Connection  # noqa: E402
from benchmarks.workloads import WORDS  # noqa: E402

PARTS = ("throughput", "overhead", "overload")
CLIENTS = (1, 8, 64)
NUM_DOCUMENTS = {"small": 2, "list": 20}
"""Documents of a request, by kind: a single question's check, and a usual list."""

NUM_WORDS = 24
START_S = 300.0

MAX_OVERHEAD = 0.10
MIN_MERGED_GAIN = 3.0
OVERLOAD_TIMES = 4.0
MAX_P99_TIMES = 3.0
MAX_REJECTION_S = 0.050

OK, BUSY = 200, 429


@dataclass(slots=True)
class Load:
    """Result of a load.

    Attributes:
        seconds: From the first request to the last answer.
        answers: Every answer.
        sent: Number of requests sent.
    """

    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    sent: int = 0

    def times(self, status: int = OK) -> list[float]:
        """Return the seconds of the answers with a status."""
        return [answer.seconds for answer in self.answers if answer.status == status]

    def figures(self) -> dict[str, Any]:
        """Return rates and latencies of successful requests."""
        times = self.times()
        return {
            "requests_per_s": round(len(times) / self.seconds, 2),
            "p50_ms": round(1000 * percentile(times, 0.50), 2),
            "p99_ms": round(1000 * percentile(times, 0.99), 2),
            "sent": self.sent,
            "served": len(times),
            "other": len(self.answers) - len(times),
            "lost": self.sent - len(self.answers),
        }


def percentile(values: Sequence[float], part: float) -> float:
    """Return the nearest-rank percentile; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def bodies(num_documents: int, seed: int) -> Iterator[bytes]:
    """Yield request bodies without end, none repeated."""
    chance = random.Random(seed)
    for number in itertools.count():
        texts = [" ".join(chance.choices(WORDS, k=NUM_WORDS)) for _ in range(num_documents)]
        query = f"{' '.join(chance.choices(WORDS, k=6))} {seed} {number}"
        yield json.dumps({"query": query, "documents": texts, "return_documents": False}).encode()


@contextmanager
def service(arguments: Sequence[str], settings: Mapping[str, str]) -> Iterator[int]:
    """Run the service as a process until the block ends; yields its port.

    Raises:
        RuntimeError: The service did not start, or did not end cleanly.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QWEN_RERANK_")}
    environment |= {"QWEN_RERANK_CACHE_ENTRIES": "0", "PYTHONUNBUFFERED": "1", **settings}
    command = [sys.executable, "-m", "qwen_rerank_plugins", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        port = read_port(process)
        wait_until_ready(port, process)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    if status != 0:
        raise RuntimeError(f"the service ended with {status}")


def read_port(process: subprocess.Popen[str]) -> int:
    """Return the port that the service reports; later output is discarded."""
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"listening on port (\d+)", line):
            drain(process.stderr)
            return int(match[1])
    raise RuntimeError(f"the service did not start: {process.wait(10)}")


def drain(stream: Any) -> None:
    """Keep the pipe empty, so that the service never blocks on its log."""

    def read() -> None:
        with stream:
            for _ in stream:
                pass

    threading.Thread(target=read, daemon=True).start()


def wait_until_ready(port: int, process: subprocess.Popen[str]) -> None:
    """Poll until the service is ready."""
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
                if answer.status == OK:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the service did not become ready; see its log")


async def closed_loop(port: int, clients: int, num_documents: int, seconds: float) -> Load:
    """Run clients that send the next request when the last one is answered."""
    load = Load()
    start = time.perf_counter()

    async def client(number: int) -> None:
        async with Connection(port) as connection:
            for body in bodies(num_documents, number):
                if time.perf_counter() - start > seconds:
                    return
                load.sent += 1
                load.answers.append(await connection.post(body))

    await asyncio.gather(*map(client, range(clients)))
    load.seconds = time.perf_counter() - start
    return load


async def open_loop(port: int, rate: float, num_documents: int, seconds: float) -> Load:
    """Send requests at a rate, whether or not earlier ones were answered."""
    load = Load()
    ready = list(
        itertools.islice(bodies(num_documents, 10_000), int(rate * seconds) + 1)
    )  # created before the measurement
    idle: list[Connection] = []
    running: set[asyncio.Task[None]] = set()
    start = time.perf_counter()

    async def send(body: bytes) -> None:
        connection = idle.pop() if idle else Connection(port)
        load.answers.append(await connection.post(body))
        idle.append(connection)

    for number, body in enumerate(ready):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        load.sent += 1
        task = asyncio.create_task(send(body))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    load.seconds = time.perf_counter() - start
    for connection in idle:
        connection.close()
    return load


SCORERS = {"demo": ("--model", "demo"), "weightless": ("--backend", "lexical")}


def measure_throughput(seconds: float) -> dict[str, Any]:
    """Return requests per second and latencies, by scorer, request size and number of clients."""
    figures: dict[str, Any] = {}
    for name, arguments in SCORERS.items():
        with service(arguments, {}) as port:
            asyncio.run(closed_loop(port, 4, 4, 1.0))  # warm
            figures[name] = {
                kind: {str(n): run(closed_loop(port, n, count, seconds)) for n in CLIENTS}
                for kind, count in NUM_DOCUMENTS.items()
            }
        say(f"throughput, {name}: done")
    small = figures["demo"]["small"]
    figures["merged_gain"] = round(small["64"]["requests_per_s"] / small["1"]["requests_per_s"], 2)
    return figures


def run(load: Any) -> dict[str, Any]:
    """Run a load, and return its figures."""
    figures: dict[str, Any] = asyncio.run(load).figures()
    return figures


def measure_overhead(model: str, repeat: int) -> dict[str, Any]:
    """Measure a request of 20 documents over HTTP and in a process without HTTP, on the same texts.

    The machine's memory holds one model at a time: the two processes alternate.
    """
    texts = [json.loads(body) for body in itertools.islice(bodies(NUM_DOCUMENTS["list"], 1), repeat)]
    over_http, in_process = [], []
    for turn in range(2):
        with service(("--model", model), {}) as port:
            over_http += asyncio.run(one_by_one(port, texts))
        in_process += rank_here(model, texts)
        say(f"overhead, turn {turn + 1} of 2: done")
    http_s, core_s = statistics.median(over_http), statistics.median(in_process)
    return {"http_s": round(http_s, 4), "core_s": round(core_s, 4), "overhead": round(http_s / core_s - 1, 4)}


async def one_by_one(port: int, texts: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the seconds of each request, after one that is not timed."""
    async with Connection(port) as connection:
        await connection.post(next(bodies(NUM_DOCUMENTS["list"], 2)))
        answers = [await connection.post(json.dumps(text).encode()) for text in texts]
    if any(answer.status != OK for answer in answers):
        raise RuntimeError(f"the service answered {[answer.status for answer in answers]}")
    return [answer.seconds for answer in answers]


def rank_here(model: str, texts: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the seconds of each list, ranked by a process without HTTP."""
    code = (
        "import json, sys, time\n"
        "from qwen_rerank_plugins import Reranker\n"
        "texts = json.load(sys.stdin)\n"
        "reranker = Reranker(model=sys.argv[1], cache_entries=0)\n"
        "reranker.rank('warm up', texts[0]['documents'])\n"
        "times = []\n"
        "for text in texts:\n"
        "    start = time.perf_counter()\n"
        "    reranker.rank(text['query'], text['documents'])\n"
        "    times.append(time.perf_counter() - start)\n"
        "print(json.dumps(times))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, model],
        cwd=ROOT,
        input=json.dumps(list(texts)),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    times: list[float] = json.loads(ran.stdout.splitlines()[-1])
    return times


def measure_overload(seconds: float) -> dict[str, Any]:
    """Compare four times the service's capacity with its capacity."""
    kind = NUM_DOCUMENTS["list"]
    with service(SCORERS["demo"], {}) as port:
        asyncio.run(closed_loop(port, 4, 4, 1.0))
        capacity = run(closed_loop(port, CLIENTS[-1], kind, seconds))
    # As an operator configures it for short latencies: reject requests that would wait longer than usual at capacity.
    wait_s = max(0.05, capacity["p99_ms"] / 1000)
    with service(SCORERS["demo"], {"QWEN_RERANK_SERVICE_MAX_WAIT_S": f"{wait_s:.3f}"}) as port:
        rate = OVERLOAD_TIMES * capacity["requests_per_s"]
        asyncio.run(open_loop(port, rate, kind, 2.0))  # warm: connections, threads, memory
        load = asyncio.run(open_loop(port, rate, kind, seconds))
        counters = read_counters(port)
    busy = load.times(BUSY)
    return {
        "capacity": capacity,
        "max_wait_s": round(wait_s, 3),
        "overload": load.figures(),
        "rejected": len(busy),
        "rejected_p50_ms": round(1000 * percentile(busy, 0.5), 2),
        "rejected_p99_ms": round(1000 * percentile(busy, 0.99), 2),
        "failed": len(load.answers) - len(busy) - len(load.times()),
        "p99_times": round(percentile(load.times(), 0.99) / (capacity["p99_ms"] / 1000), 2),
        "counters": counters,
    }


def read_counters(port: int) -> dict[str, float]:
    """Return the service's own counters: accepted requests and their outcomes."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.findall(r"^rerank_(accepted|answered|cancelled)\w*(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
    counters: dict[str, float] = {}
    for name, value in found:
        counters[name] = counters.get(name, 0.0) + float(value)
    return counters


def judge(figures: Mapping[str, Any]) -> list[str]:
    """Return the goals that were not reached."""
    missed = []
    if (part := figures.get("throughput")) and part["merged_gain"] < MIN_MERGED_GAIN:
        missed.append(
            f"64 clients get {part['merged_gain']} × one client's throughput, not {MIN_MERGED_GAIN}"
        )
    if (part := figures.get("overhead")) and part["overhead"] > MAX_OVERHEAD:
        missed.append(f"HTTP adds {part['overhead']:.1%}, not less than {MAX_OVERHEAD:.0%}")
    if part := figures.get("overload"):
        if part["p99_times"] > MAX_P99_TIMES:
            missed.append(
                f"under overload p99 is {part['p99_times']} × that at capacity, not {MAX_P99_TIMES}"
            )
        if part["rejected_p99_ms"] > 1000 * MAX_REJECTION_S:
            missed.append(f"rejections take {part['rejected_p99_ms']} ms, not {1000 * MAX_REJECTION_S:.0f}")
        if part["overload"]["lost"] or part["failed"]:
            missed.append(f"{part['overload']['lost']} requests lost, {part['failed']} failed under overload")
    return missed


def print_throughput(console: Console, figures: Mapping[str, Any]) -> None:
    """Print a table."""
    table = Table("scorer", "documents", "clients", "requests/s", "p50 ms", "p99 ms", title="throughput")
    for scorer in SCORERS:
        for kind, count in NUM_DOCUMENTS.items():
            for clients, row in figures[scorer][kind].items():
                cells = (row["requests_per_s"], row["p50_ms"], row["p99_ms"])
                table.add_row(scorer, str(count), clients, *map(str, cells))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts; return 1 if a goal was not reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="requests a turn of the overhead")
    parser.add_argument("--model", metavar="DIR", help="default: random weights of the 0.6B shape")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work", metavar="DIR")
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)!r}; use {', '.join(PARTS)}")
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "throughput": lambda: measure_throughput(options.seconds),
        "overhead": lambda: measure_overhead(
            options.model or str(random_checkpoint(options.work)), options.repeat
        ),
        "overload": lambda: measure_overload(options.seconds),
    }
    figures: dict[str, Any] = {"machine": machines.describe()}
    figures |= {part: steps[part]() for part in PARTS if part in parts}
    console = Console(stderr=True)
    if "throughput" in figures:
        print_throughput(console, figures["throughput"])
    missed = judge(figures)
    for line in missed:
        console.print(f"MISSED: {line}", style="bold red", markup=False)
    print(json.dumps(figures | {"missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
