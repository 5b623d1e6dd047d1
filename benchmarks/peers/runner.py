"""The common part of all runners: load, warm up, score each workload once per batch size, write the figures.

Runners are started as modules from the repository's root, each in its own environment, so this file imports the
standard library alone:

    python -m benchmarks.peers.NAME JOB.json RESULT.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["INSTRUCTION", "PREFIX", "SUFFIX", "Job", "PairList", "Scorer", "Task", "body", "main", "peak_mb"]

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "optimum-intel",
    "openvino",
    "nncf",
    "xllamacpp",
)

PairList = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Task:
    """A workload and its batch sizes, run in turn."""

    workload: str
    pairs: PairList
    batch_sizes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Job:
    """The task of a runner.

    Attributes:
        model: Folder of the checkpoint.
        converted: Where a peer stores its own form of the checkpoint.
        mode: "measure"; "prepare" converts and stops; "reference" scores exactly, at any cost.
        dtype: "auto" (if the runner can choose), "float32" or "bfloat16".
        quantization: "none" or "int8".
    """

    model: Path
    converted: Path
    mode: str
    dtype: str
    quantization: str
    num_threads: int
    warm_up: PairList
    tasks: Sequence[Task]

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job from its file."""
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tasks = [Task(**{**task, "pairs": _pairs(task["pairs"])}) for task in fields.pop("tasks")]
        model, converted = Path(fields.pop("model")), Path(fields.pop("converted"))
        warm_up = _pairs(fields.pop("warm_up"))
        return cls(model=model, converted=converted, warm_up=warm_up, tasks=tasks, **fields)


class Scorer:
    """One loaded peer."""

    def score(self, pairs: PairList, batch_size: int) -> list[float]:
        """Return P(yes) of each pair, in input order."""
        raise NotImplementedError

    def details(self) -> dict[str, Any]:
        """Return further results; called after all timing and the memory measurement."""
        return {}


def main(load: Callable[[Job], Scorer], prepare: Callable[[Job], None] | None = None) -> None:
    """Run the job that the command line names, and write its result."""
    job = Job.read(Path(sys.argv[1]))
    if job.mode == "prepare":
        result: dict[str, Any] = {}
        if prepare is not None:
            prepare(job)
    else:
        result = measure(job, load)
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


def measure(job: Job, load: Callable[[Job], Scorer]) -> dict[str, Any]:
    """Load, warm up, and time every task."""
    start = time.perf_counter()
    scorer = load(job)
    load_s = time.perf_counter() - start
    load_peak_mb = peak_mb()
    scorer.score(job.warm_up, 2)
    runs = [
        _timed(scorer, task.workload, task.pairs, size) for task in job.tasks for size in task.batch_sizes
    ]
    return {
        "load_s": load_s,
        "load_peak_mb": load_peak_mb,
        "peak_mb": peak_mb(),
        "dtype": job.dtype,
        "quantization": job.quantization,
        "runs": runs,
        "versions": _versions(),
        **scorer.details(),
    }


def _timed(scorer: Scorer, workload: str, pairs: PairList, batch_size: int) -> dict[str, Any]:
    start = time.perf_counter()
    probabilities = scorer.score(pairs, batch_size)
    seconds = time.perf_counter() - start
    return {
        "workload": workload,
        "batch_size": batch_size,
        "seconds": seconds,
        "probabilities": [float(one) for one in probabilities],
        "peak_mb": peak_mb(),
    }


def body(query: str, document: str) -> str:
    """Return the text between prefix and suffix."""
    return f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"


def peak_mb() -> float | None:
    """Return the peak resident memory of this process in MB (10**6); None where Linux does not report it.

    Read from the memory's own high-water mark: getrusage would also count the parent before the program was started.
    """
    status = Path(f"/proc/{os.getpid()}/status")
    if not status.exists():
        return None
    for line in status.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def _pairs(rows: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    return [(query, document) for query, document in rows]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
