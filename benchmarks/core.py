"""This core against the official recipe, sentence-transformers, OpenVINO and llama.cpp on this machine: speed, memory, scores.

    python benchmarks/core.py                    # all peers, all workloads: a quarter of an hour on two cores
    python benchmarks/core.py --search           # find and keep each peer's best number format and batch sizes
    python benchmarks/core.py --workloads short --peers openvino --repeat 4

Processes alternate (ours, a peer, another, ours, ...) on the same work, one at a time. Tables go to standard output,
and one line of JSON last. Exit code 1 means that a peer failed or that scores differ from the official recipe. What is
compared, and why that is fair, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - the repository's root comes first
from tokenizers import Tokenizer  # noqa: E402

from benchmarks import machine as machines  # noqa: E402
from benchmarks import report  # noqa: E402
from benchmarks.contenders import (  # noqa: E402
    CONTENDERS,
    DTYPES,
    Contender,
    Settings,
    best_settings,
    search,
    write_best,
)
from benchmarks.peers.runner import PREFIX, SUFFIX, body  # noqa: E402
from benchmarks.processes import RunnerError, environment, python_of, run_module, run_runner  # noqa: E402
from benchmarks.workloads import DEFAULT_SIZES, Pair, Workload, make_warm_up, make_workloads  # noqa: E402

PEERS = [contender.name for contender in CONTENDERS if not contender.is_ours]


def say(text: str) -> None:
    """Report progress on standard error."""
    print(f"==> {text}", file=sys.stderr, flush=True)


@dataclass(slots=True)
class Bench:
    """One run of the benchmark: workloads, contenders and settings.

    Attributes:
        tokens: Workload → tokens of its prompts, nothing shared.
        failures: Contender → why it returned no result.
    """

    model: Path
    work: Path
    num_threads: int
    dtype: str
    timeout_s: float
    machine: dict[str, Any]
    workloads: list[Workload]
    warm_up: list[Pair]
    tokens: dict[str, int]
    failures: dict[str, str] = field(default_factory=dict)

    def references(self) -> dict[str, list[float]]:
        """Return P(yes) of every pair by the official recipe in float32; cached, because it is slow."""
        found: dict[str, list[float]] = {}
        files = {one.name: self.work / f"reference-{self._digest(one)}.json" for one in self.workloads}
        missing = [one for one in self.workloads if not files[one.name].exists()]
        if missing:
            say("scoring by the official recipe in float32, for reference")
            result = self._run(official(), "reference", Settings("float32"), [(one, [1]) for one in missing])
            for run in result["runs"]:
                files[run["workload"]].write_text(json.dumps(run["probabilities"]), encoding="utf-8")
        for name, file in files.items():
            found[name] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def prepare(self, contenders: Sequence[Contender]) -> list[Contender]:
        """Create environments and conversions, and return the contenders that are ready."""
        ready = []
        for contender in contenders:
            try:
                python_of(contender.requirements, self.work, say)
                if contender.is_converted and not self._converted(contender).exists():
                    say(f"converting the checkpoint for {contender.name}")
                    self._run(contender, "prepare", Settings("float32"), [])
                ready.append(contender)
            except RunnerError as error:
                self._failed(contender, error)
        return ready

    def measure(self, contenders: Sequence[Contender], repeat: int) -> dict[str, list[dict[str, Any]]]:
        """Run all contenders in turn, `repeat` times; the slow ones once."""
        results: dict[str, list[dict[str, Any]]] = {}
        for number in range(repeat):
            for contender in contenders:
                if contender.name in self.failures or (contender.is_slow and number):
                    continue
                try:
                    results.setdefault(contender.name, []).append(self._measured(contender, number, repeat))
                except RunnerError as error:
                    results.pop(contender.name, None)
                    self._failed(contender, error)
        return results

    def search(self, contenders: Sequence[Contender]) -> dict[str, Settings]:
        """Find the best number format and batch sizes of each peer."""
        dtypes = DTYPES if self.dtype == "auto" else (self.dtype,)
        documents = {one.name: len(one.pairs) for one in self.workloads}
        found = {}
        for contender in contenders:
            if not contender.is_ours:
                found[contender.name] = search(contender, documents, dtypes, self._tried)
                say(f"{contender.name}: {found[contender.name]}")
        return found

    def _tried(
        self, contender: Contender, dtype: str, sizes: Mapping[str, Sequence[int]]
    ) -> Sequence[Mapping[str, Any]]:
        say(f"searching: {contender.name} in {dtype}, batch sizes {dict(sizes)}")
        tasks = [(one, sizes[one.name]) for one in self.workloads if one.name in sizes]
        runs: list[dict[str, Any]] = self._run(contender, "measure", Settings(dtype), tasks)["runs"]
        return runs

    def _measured(self, contender: Contender, number: int, repeat: int) -> dict[str, Any]:
        settings = best_settings(contender, self.machine, self.dtype)
        tasks = [(one, [settings.batch_size(one.name)]) for one in self.workloads]
        start = time.perf_counter()
        result = self._run(contender, "measure", settings, tasks)
        times = ", ".join(f"{run['workload']} {run['seconds']:.2f} s" for run in result["runs"])
        say(
            f"round {number + 1} of {repeat}: {contender.name}: {times} ({time.perf_counter() - start:.0f} s in all)"
        )
        return {**result, "was_searched": settings.was_searched}

    def _run(
        self,
        contender: Contender,
        mode: str,
        settings: Settings,
        tasks: Sequence[tuple[Workload, Sequence[int]]],
    ) -> dict[str, Any]:
        job = {
            "model": str(self.model),
            "converted": str(self._converted(contender)),
            "mode": mode,
            "dtype": settings.dtype,
            "quantization": contender.quantization,
            "num_threads": self.num_threads,
            "warm_up": self.warm_up,
            "tasks": [
                {"workload": one.name, "pairs": one.pairs, "batch_sizes": list(sizes)} for one, sizes in tasks
            ],
        }
        python = python_of(contender.requirements, self.work, say)
        return run_runner(contender.module, python, job, self.work, timeout_s=self.timeout_s)

    def _converted(self, contender: Contender) -> Path:
        return self.work / f"{contender.name}-{self._digest()}"

    def _digest(self, workload: Workload | None = None) -> str:
        """Return a digest of the checkpoint's files and of the pairs."""
        files = [(path.name, path.stat()) for path in sorted(self.model.iterdir()) if path.is_file()]
        parts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
        pairs = workload.pairs if workload else ()
        return hashlib.sha256(json.dumps([parts, pairs]).encode()).hexdigest()[:16]

    def _failed(self, contender: Contender, error: RunnerError) -> None:
        say(f"{contender.name} FAILED: {error}")
        self.failures[contender.name] = str(error).partition("\n")[0]


def official() -> Contender:
    """Return the contender that is also the reference."""
    return next(contender for contender in CONTENDERS if contender.name == "official")


def chosen_contenders(peers: Sequence[str]) -> list[Contender]:
    """Return ours and the peers, in the order of the table; ours in int8 where a peer is."""
    return [one for one in CONTENDERS if one.name in peers or one.name == "ours" or _is_rival(one, peers)]


def _is_rival(contender: Contender, peers: Sequence[str]) -> bool:
    rivals = {other.rival for other in CONTENDERS if other.name in peers}
    return contender.is_ours and contender.name in rivals


def open_bench(options: argparse.Namespace) -> Bench:
    """Create work folder, checkpoint and workloads."""
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    model = options.model.resolve() if options.model else random_checkpoint(work)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    sizes = {name: options.documents.get(name, DEFAULT_SIZES[name]) for name in options.workloads}
    workloads = make_workloads(count, sizes)
    return Bench(
        model=model,
        work=work,
        num_threads=options.threads,
        dtype=options.dtype,
        timeout_s=options.timeout,
        machine=machines.describe(),
        workloads=workloads,
        warm_up=make_warm_up(count),
        tokens={
            one.name: sum(count(f"{PREFIX}{body(*pair)}{SUFFIX}") for pair in one.pairs) for one in workloads
        },
    )


def random_checkpoint(work: Path) -> Path:
    """Return the checkpoint of the 0.6B shape in the work folder, created if missing."""
    folder = work / "random-0.6b"
    if not (folder / "complete").exists():
        say("making a random checkpoint of the 0.6B shape (1.2 GB)")
        arguments = ["benchmarks.checkpoint", str(folder)]
        run_module(Path(sys.executable), arguments, environment(work, 2), timeout_s=900)
    return folder


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/core.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--workloads", type=_names(list(DEFAULT_SIZES)), default=list(DEFAULT_SIZES))
    parser.add_argument("--peers", type=_names(PEERS), default=PEERS, help=f"of {', '.join(PEERS)}")
    parser.add_argument(
        "--repeat", type=int, default=2, help="rounds; the slow recipe runs in the first alone"
    )
    parser.add_argument(
        "--documents", type=_sizes, default={}, metavar="NAME=N,...", help=f"default: {dict(DEFAULT_SIZES)}"
    )
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, metavar="DIR", help="default: random weights of the 0.6B shape")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work", metavar="DIR")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds that one process may take")
    parser.add_argument("--search", action="store_true", help="find and keep each peer's best, then stop")
    options = parser.parse_args(arguments)
    if options.search and options.model:
        parser.error("--search is for the 0.6B shape, whose best batch sizes are kept; leave out --model")
    return options


def _names(allowed: Sequence[str]) -> Any:
    def names(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        wrong = sorted(set(found) - set(allowed))
        if wrong or not found:
            raise argparse.ArgumentTypeError(f"{text!r}: use {', '.join(allowed)}, separated by commas")
        return found

    return names


def _sizes(text: str) -> dict[str, int]:
    parts = [part.partition("=") for part in text.split(",")]
    if any(name not in DEFAULT_SIZES or not value.isdecimal() or value == "0" for name, _, value in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N,...; use for example mixed=24,short=40")
    return {name: int(value) for name, _, value in parts}


def run(bench: Bench, contenders: Sequence[Contender], repeat: int) -> dict[str, Any]:
    """Measure all contenders, and return the figures."""
    references = bench.references()
    results = bench.measure(contenders, repeat)
    figures = report.assemble(bench.workloads, bench.tokens, references, results)
    return {
        "benchmark": "core",
        "machine": bench.machine,
        "model": bench.model.name,
        "threads": bench.num_threads,
        "searched": sorted(name for name, every in results.items() if every[0]["was_searched"]),
        "failed": bench.failures,
        **figures,
    }


def show(figures: Mapping[str, Any]) -> None:
    """Print tables, then the JSON line."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in report.tables(figures):
        console.print(table)
    guessed = sorted(set(figures["contenders"]) - set(figures["searched"]))
    if guessed:
        console.print(f"Batch sizes not searched on this machine (--search does): {', '.join(guessed)}")
    for one in figures["lost"]:
        console.print(f"LOST: {one['workload']} to {one['to']}, which took {one['times_ours']:g} × our time")
    for one in figures["wrong"]:
        console.print(f"WRONG SCORES: {one['name']} on {one['workload']}, |Δp| {one['max_abs_diff']:g}")
    for name, reason in figures["failed"].items():
        console.print(f"FAILED: {name}: {reason}", markup=False)
    print(json.dumps(figures, ensure_ascii=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or search; return 1 if a contender failed or scores are wrong."""
    options = parse(arguments)
    bench = open_bench(options)
    contenders = bench.prepare(chosen_contenders(options.peers))
    if options.search:
        write_best(bench.search(contenders), bench.machine)
        return 1 if bench.failures else 0
    figures = run(bench, contenders, options.repeat)
    show(figures)
    return 1 if figures["failed"] or figures["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
