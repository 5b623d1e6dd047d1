"""The service on Ray Serve: two replicas against one, the plain service beside them, and a new version under load.

    python benchmarks/ray_serve.py [--parts throughput,redeploy] [--seconds 8] [--model demo] [--clients 16]
    python benchmarks/ray_serve.py --parts throughput --model DIR --documents 4 --clients 4 --seconds 60

Ray runs on this machine only. Every replica computes with one thread, and so does the plain service, so that two replicas
have twice the processors of one. With the demo model a request is so little work that Ray's own processes need the second
processor too; with the 0.6B shape (the second line) the replicas dominate. Clients run in this process, each with one
request at a time; texts never repeat and the score cache is off. The last line of standard output is one JSON document.
Exit code 1 means that a request was lost or scores differ.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray  # noqa: E402 - its variables come first
from ray import serve  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import machine as machines  # noqa: E402
from benchmarks.core import say  # noqa: E402
from benchmarks.service import OK, Load, closed_loop, service  # noqa: E402
from qwen_rerank_plugins.ray import build_app  # noqa: E402

PARTS = ("throughput", "redeploy")
NAME = "rerank"
MAX_DIFFERENCE = 1e-4
QUESTION = {"query": "blue whale", "documents": ["a red fox", "the blue whale sings", "whales and foxes"]}


def deploy(model: str, num_replicas: int, **changes: Any) -> None:
    """Deploy the application, or its new version."""
    arguments = {
        "model": model,
        "num_replicas": num_replicas,
        "num_cpus": 1,
        "gateway_num_cpus": 0.1,
        "num_threads": 1,
        "cache_entries": 0,
        **changes,
    }
    serve.run(build_app(arguments), name=NAME, route_prefix="/")


def scores(port: int) -> list[float]:
    """Return the scores of one fixed request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/rerank",
        json.dumps(QUESTION).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (the same)
        found: list[float] = json.load(answer)["scores"]
        return found


def measured(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return rates and latencies under load, after an uncounted warm-up."""
    asyncio.run(closed_loop(port, options.clients, options.documents, min(2.0, options.seconds)))
    load: Load = asyncio.run(closed_loop(port, options.clients, options.documents, options.seconds))
    return {**load.figures(), "scores": scores(port)}


def measure_throughput(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one replica, two, and the plain service with as many threads as one."""
    figures: dict[str, Any] = {}
    for number in (1, 2):
        deploy(options.model, number)
        figures[f"ray_{number}"] = measured(port, options)
        say(f"throughput, {number} replicas: done")
    serve.delete(NAME)
    with service(("--model", options.model), {"QWEN_RERANK_NUM_THREADS": "1"}) as plain:
        figures["plain"] = measured(plain, options)
    say("throughput, plain service: done")
    rates = {name: row["requests_per_s"] for name, row in figures.items()}
    answers = [row.pop("scores") for row in figures.values()]
    return {
        **figures,
        "two_over_one": round(rates["ray_2"] / rates["ray_1"], 2),
        "one_over_plain": round(rates["ray_1"] / rates["plain"], 2),
        "max_abs_diff": max(abs(a - b) for row in answers for a, b in zip(row, answers[-1], strict=True)),
    }


def measure_redeploy(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run a load during which every replica and the gateway are replaced."""
    deploy(options.model, 2)
    found: list[Load] = []

    def run() -> None:
        found.append(asyncio.run(closed_loop(port, 4, options.documents, options.seconds + 30.0)))

    thread = threading.Thread(target=run)
    thread.start()
    deploy(options.model, 2, batch_wait_s=0.001)
    thread.join()
    serve.delete(NAME)
    say("redeploy: done")
    load = found[0]
    return {**load.figures(), "failed": sum(answer.status != OK for answer in load.answers)}


def judge(figures: dict[str, Any]) -> list[str]:
    """Return the goals that were not reached."""
    missed = []
    redeploy, throughput = figures.get("redeploy"), figures.get("throughput")
    if redeploy is not None and (redeploy["lost"] or redeploy["failed"]):
        missed.append(f"{redeploy['lost']} requests lost, {redeploy['failed']} failed during a new version")
    if throughput is not None and throughput["max_abs_diff"] > MAX_DIFFERENCE:
        missed.append(f"scores differ by {throughput['max_abs_diff']}, more than {MAX_DIFFERENCE}")
    return missed


def show(figures: dict[str, Any], num_documents: int) -> None:
    """Print a table."""
    table = Table("service", "requests/s", "p50 ms", "p99 ms", title=f"{num_documents} documents a request")
    for name in ("ray_1", "ray_2", "plain"):
        row = figures[name]
        table.add_row(name, str(row["requests_per_s"]), str(row["p50_ms"]), str(row["p99_ms"]))
    Console(stderr=True).print(table)


def free_port() -> int:
    """Return a port that is currently free."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 if a request was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="at the same time (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=20, help="of a request (default: %(default)s)")
    parser.add_argument("--model", default="demo", help="default: %(default)s")
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)!r}; use {', '.join(PARTS)}")
    steps: dict[str, Callable[[int, argparse.Namespace], dict[str, Any]]] = {
        "throughput": measure_throughput,
        "redeploy": measure_redeploy,
    }
    port = free_port()
    ray.init(
        address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        figures: dict[str, Any] = {"benchmark": "ray_serve", "machine": machines.describe()}
        figures |= {part: steps[part](port, options) for part in PARTS if part in parts}
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
    if "throughput" in figures:
        show(figures["throughput"], options.documents)
    missed = judge(figures)
    print(json.dumps(figures | {"missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
