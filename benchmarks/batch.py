"""The batch pipeline on this machine: rows per second against a plain loop and sentence-transformers, cost, memory.

    python benchmarks/batch.py                                # all parts: about twenty minutes on two cores
    python benchmarks/batch.py --parts cost --cost-rows 5000
    python benchmarks/batch.py --parts speed --no-peer --model DIR

speed: one file, a checkpoint of the 0.6B shape (or `--model`): `batch`, a loop over `Reranker.rank` with the csv
module, and sentence-transformers' `predict` on the same pairs without a file.
cost: one file, the demo model: the time of `batch` against that of the same pairs scored from memory in the same calls.
memory: peak memory of the process, for a small and a large file.
Every measurement runs in its own process, one at a time, alternating. Tables go to standard error, one line of JSON to
standard output. Exit code 1 means that a goal was not reached: cost at most 5 %, memory the same within 5 %.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - the repository's root comes first
from rich.table import Table  # noqa: E402

from benchmarks import machine as machines  # noqa: E402
from benchmarks.contenders import CONTENDERS, best_settings  # noqa: E402
from benchmarks.core import random_checkpoint  # noqa: E402
from benchmarks.peers.runner import peak_mb  # noqa: E402
from benchmarks.processes import environment, python_of, run_runner  # noqa: E402
from benchmarks.workloads import WORDS  # noqa: E402
from qwen_rerank_plugins import Reranker  # noqa: E402
from qwen_rerank_plugins.batch import BatchOptions, run_batch  # noqa: E402
from qwen_rerank_plugins.cli.batch import MEMORY  # noqa: E402

PARTS = ("speed", "cost", "memory")
MAX_COST = 0.05
MAX_GROWTH = 0.05
DOCUMENTS_PER_QUERY = 20
CALL_PAIRS = 256


def say(text: str) -> None:
    """Report progress on standard error."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def make_file(folder: Path, num_rows: int, num_words: int) -> Path:
    """Write a CSV of pairs whose texts never repeat, twenty documents per query."""
    path = folder / f"pairs-{num_rows}-{num_words}.csv"
    rng = random.Random(num_rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "query", "document"])
        for number in range(num_rows):
            if number % DOCUMENTS_PER_QUERY == 0:
                query = " ".join(rng.choices(WORDS, k=8))
            writer.writerow([number, query, " ".join(rng.choices(WORDS, k=num_words))])
    return path


# What a child does.


def by_batch(reranker: Reranker, source: Path, target: Path) -> None:
    """Run the batch pipeline."""
    options = BatchOptions(call_pairs=CALL_PAIRS)
    run_batch(source, target, reranker=reranker, options=options, overwrite=True)


def by_loop(reranker: Reranker, source: Path, target: Path) -> None:
    """Run the plain alternative: read, rank query by query, write."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "relevance_score", "rank"])
        writer.writeheader()
        for query, group in groupby(rows, key=lambda row: row["query"]):
            own = list(group)
            for rank, one in enumerate(reranker.rank(query, [row["document"] for row in own]).results, 1):
                writer.writerow({**own[one.index], "relevance_score": one.relevance_score, "rank": rank})


def by_model(reranker: Reranker, source: Path, target: Path) -> float:  # noqa: ARG001 (one signature)
    """Score the same pairs in the same calls, from memory; return seconds without reading."""
    with source.open(encoding="utf-8", newline="") as file:
        pairs = [(row["query"], row["document"]) for row in csv.DictReader(file)]
    start = time.perf_counter()
    for part in _parts(pairs):
        groups = [
            (query, [text for _, text in group]) for query, group in groupby(part, key=lambda one: one[0])
        ]
        reranker.rank_many([query for query, _ in groups], [texts for _, texts in groups], top_n=1)
    return time.perf_counter() - start


def _parts(pairs: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    left = iter(pairs)
    while part := list(islice(left, CALL_PAIRS)):
        yield part


WAYS: dict[str, Callable[[Reranker, Path, Path], float | None]] = {
    "batch": by_batch,
    "loop": by_loop,
    "model": by_model,
}


def child(order: dict[str, Any]) -> None:
    """Load, warm up, measure once, and print seconds and memory."""
    target = Path(order["target"])
    with Reranker(**MEMORY, **order["settings"]) as reranker:
        reranker.score("warm up", ["a document of some words"] * 8)
        start = time.perf_counter()
        own_s = WAYS[order["way"]](reranker, Path(order["source"]), target)
        seconds = time.perf_counter() - start if own_s is None else own_s
    target.unlink(missing_ok=True)
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}))


def measure(way: str, source: Path, settings: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Run a child process."""
    target = options.work / f"{source.stem}-{way}.out.csv"
    order = {"way": way, "source": str(source), "target": str(target), "settings": settings}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(order)]
    env = environment(options.work, options.threads)
    ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    say(f"{way} on {source.name}: {figures['seconds']:.2f} s, peak {figures['peak_mb']:.0f} MB")
    return figures


# The parts.


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Return rows per second by method."""
    model = options.model.resolve() if options.model else random_checkpoint(options.work)
    source = make_file(options.work, options.rows, 100)
    settings = {"model": str(model), "num_threads": options.threads}
    seconds: dict[str, list[float]] = {}
    for _ in range(options.repeat):
        for way in ("batch", "loop"):
            seconds.setdefault(way, []).append(measure(way, source, settings, options)["seconds"])
        if options.peer:
            found = seconds.setdefault("sentence-transformers", [])
            found.append(peer_seconds(model, source, options))
    best = {way: options.rows / min(every) for way, every in seconds.items()}
    return {"model": model.name, "rows": options.rows, "seconds": seconds, "rows_per_s": best, "ok": True}


def peer_seconds(model: Path, source: Path, options: argparse.Namespace) -> float:
    """Return seconds of sentence-transformers' `predict`, with its best settings on this machine."""
    contender = next(one for one in CONTENDERS if one.name == "sentence-transformers")
    settings = best_settings(contender, machines.describe(), "auto")
    with source.open(encoding="utf-8", newline="") as file:
        pairs = [(row["query"], row["document"]) for row in csv.DictReader(file)]
    job = {
        "model": str(model),
        "converted": "",
        "mode": "measure",
        "dtype": settings.dtype,
        "quantization": "none",
        "num_threads": options.threads,
        "warm_up": pairs[:2],
        "tasks": [{"workload": "mixed", "pairs": pairs, "batch_sizes": [settings.batch_size("mixed")]}],
    }
    python = python_of(contender.requirements, options.work, say)
    result = run_runner(contender.module, python, job, options.work, timeout_s=3600)
    seconds = float(result["runs"][0]["seconds"])
    say(f"sentence-transformers: {seconds:.2f} s")
    return seconds


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what reading, writing and bookkeeping add to the model's time."""
    source = make_file(options.work, options.cost_rows, 60)
    settings = {"model": "demo", "num_threads": options.threads}
    seconds: dict[str, list[float]] = {"batch": [], "model": []}
    for _ in range(options.repeat):
        for way, found in seconds.items():
            found.append(measure(way, source, settings, options)["seconds"])
    share = min(seconds["batch"]) / min(seconds["model"]) - 1.0
    return {"rows": options.cost_rows, "seconds": seconds, "share": share, "ok": share <= MAX_COST}


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Return peak memory by number of rows."""
    settings = {"model": "demo", "num_threads": options.threads}
    if options.memory_backend == "lexical":
        settings = {"backend": "lexical"}
    peaks = {
        rows: measure("batch", make_file(options.work, rows, 30), settings, options)["peak_mb"]
        for rows in options.memory_rows
    }
    growth = max(peaks.values()) / peaks[options.memory_rows[0]] - 1.0
    named = {str(rows): peak for rows, peak in peaks.items()}
    return {"backend": options.memory_backend, "peak_mb": named, "growth": growth, "ok": growth <= MAX_GROWTH}


def tables(figures: dict[str, Any]) -> Iterator[Table]:
    """Return one table per part."""
    if "speed" in figures:
        table = Table("way", "rows/s", title=f"Rows per second, {figures['speed']['model']}")
        for way, rows_per_s in figures["speed"]["rows_per_s"].items():
            table.add_row(way, f"{rows_per_s:.2f}")
        yield table
    if "cost" in figures:
        table = Table("way", "seconds", title=f"Cost: {figures['cost']['share']:.1%} of the model's time")
        for way, every in figures["cost"]["seconds"].items():
            table.add_row(way, f"{min(every):.2f}")
        yield table
    if "memory" in figures:
        table = Table("rows", "peak MB", title=f"Memory: {figures['memory']['growth']:+.1%}")
        for rows, peak in figures["memory"]["peak_mb"].items():
            table.add_row(rows, f"{peak:.0f}")
        yield table


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/batch.py", description="What a batch job costs.")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=160, help="of speed (default: %(default)s)")
    parser.add_argument("--cost-rows", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--memory-rows", type=_counts, default=[10_000, 200_000], metavar="N,N")
    parser.add_argument("--memory-backend", choices=["local", "lexical"], default="local")
    parser.add_argument("--repeat", type=int, default=2, help="rounds of speed and cost; the best counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, metavar="DIR", help="of speed; default: random weights, 0.6B")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave the peer out")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work", metavar="DIR")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _counts(text: str) -> list[int]:
    return sorted(int(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print tables and the JSON line; return 1 if a goal was not reached."""
    options = parse(arguments)
    if options.child:
        child(json.loads(options.child))
        return 0
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"benchmark": "batch", "machine": machines.describe()}
    parts = {"speed": speed, "cost": cost, "memory": memory}
    for name in options.parts.split(","):
        figures[name] = parts[name](options)
    console = Console(stderr=True)
    for table in tables(figures):
        console.print(table)
    is_ok = all(figures[name]["ok"] for name in parts if name in figures)
    print(json.dumps({**figures, "ok": is_ok}))
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
