"""Checks and measures the CUDA path; run it through run.sh, which describes it.

Each section prints its figures and adds them to results.json at once, so that a section that fails, or a machine
that is taken away, loses nothing of the others.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import os
import pstats
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qwen_rerank_plugins import RerankConfig, Reranker
from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.runtime import load_runtime
from qwen_rerank_plugins.core.scheduler.scheduler import Scheduler
from qwen_rerank_plugins.types import PairScore, ScoreRequest
from scripts.gpu.models import SHAPES, TINY, make_prompts, random_decoder

REQUESTS_IN_FLIGHT, PAIRS_PER_REQUEST, DOCUMENT_TOKENS = 16, 64, 93
LATENCY_TOKENS = 128


@dataclass(frozen=True)
class Run:
    """What the sections share."""

    device: torch.device
    out: Path
    work: Path

    @property
    def is_cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def shapes(self) -> Mapping[str, Mapping[str, int]]:
        """The shapes that are measured."""
        return SHAPES if self.is_cuda else {"tiny": TINY}

    @property
    def first_shape(self) -> Mapping[str, int]:
        """The shape of the checkpoint that is written and loaded."""
        return next(iter(self.shapes.values()))

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the speeds."""
        return torch.bfloat16 if self.is_cuda else torch.float32

    @property
    def seconds(self) -> float:
        """How long a throughput is measured."""
        return 4.0 if self.is_cuda else 1.0

    @property
    def checkpoint(self) -> Path:
        """A random checkpoint with Qwen's tokenizer; made by the first section that needs it."""
        from benchmarks.checkpoint import make

        folder = self.work / "checkpoint"
        if not (folder / "complete").exists():
            make(folder, self.first_shape, str(self.device))
        return folder


def machine(run: Run) -> dict[str, Any]:
    """Versions, the GPU, and its ceilings: a copy in GB/s and a bf16 product in TFLOP/s."""
    import transformers

    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(run.device) if run.is_cuda else "cpu",
    }
    if run.is_cuda:
        import triton

        from scripts.gpu.kernels import microseconds

        x = torch.randn(1 << 29, device=run.device)
        a, b = (torch.randn(8192, 8192, device=run.device, dtype=torch.bfloat16) for _ in range(2))
        facts |= {
            "triton": triton.__version__,
            "copy, GB/s": 2 * x.nbytes / microseconds(x.clone) / 1e3,
            "product, TFLOP/s": 2 * 8192**3 / microseconds(lambda: a @ b) / 1e6,
        }
    return facts


def tests(run: Run) -> dict[str, Any]:
    """The tests that are marked `gpu`, on the device."""
    arguments = ["tests/core/model", "-m", "gpu"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--override-ini",
        "filterwarnings=",
    ]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    (run.out / "tests.log").write_text(result.stdout + result.stderr, encoding="utf-8")
    return {"exit code": result.returncode, "last line": result.stdout.strip().splitlines()[-1:]}


def parity(run: Run) -> dict[str, Any]:
    """Largest difference from the official recipe in fp32, per number format: log-odds, and P(yes)."""
    from transformers import AutoTokenizer

    from benchmarks.workloads import make_workloads
    from tests.core.oracle import OfficialModel, Recipes

    folder = run.checkpoint
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    workload = make_workloads(lambda text: len(tokenizer.tokenize(text)), {"mixed": 24})[0]
    pairs = [
        *workload.pairs,
        ("怎样安全地给猫洗澡", "水温要低于36℃。"),
        ("", ""),
        ("long", "A cat 医院. " * 400),
    ]
    answers = tokenizer.convert_tokens_to_ids("yes"), tokenizer.convert_tokens_to_ids("no")
    prompts = [Recipes(tokenizer).qwen3(pair) for pair in pairs]

    def official(dtype: torch.dtype) -> list[float]:
        model = OfficialModel(folder, dtype=dtype, device=str(run.device))
        return model.log_odds(prompts, answers, batch_size=1)

    wanted = official(torch.float32)
    figures: dict[str, Any] = {"pairs": len(pairs), "spread of log-odds": statistics.pstdev(wanted)}
    figures["the recipe itself in bfloat16"] = _differences(official(torch.bfloat16), wanted)
    for dtype in ("float32", "bfloat16", "float16") if run.is_cuda else ("float32", "bfloat16"):
        config = RerankConfig(model=str(folder), device=str(run.device), dtype=dtype, cache_entries=0)
        scorer = LocalScorer.from_config(config)
        log_odds = [_log_odds(score) for score in scorer.score([ScoreRequest(*pair) for pair in pairs])]
        info = scorer.info()
        scorer.close()
        figures[dtype] = _differences(log_odds, wanted) | {
            "self-check": info["self_check"],
            "load_s": info["load_s"],
        }
    return figures


def _log_odds(score: PairScore) -> float:
    return math.nan if score.log_odds is None else score.log_odds


def _differences(found: list[float], wanted: list[float]) -> dict[str, float]:
    """Return the largest difference of log-odds and of P(yes)."""
    first, second = torch.tensor([found, wanted], dtype=torch.float64)
    return {
        "log-odds": (first - second).abs().max().item(),
        "P(yes)": (first.sigmoid() - second.sigmoid()).abs().max().item(),
    }


def serve(run: Run, engine: Engine, documents_per_query: int) -> float:
    """Return pairs per second with requests of 64 new pairs, 16 in flight."""
    rng = random.Random(documents_per_query)
    in_flight = REQUESTS_IN_FLIGHT if run.is_cuda else 4
    requests = [
        make_prompts(PAIRS_PER_REQUEST, documents_per_query, DOCUMENT_TOKENS, rng)
        for _ in range(in_flight * (4 if run.is_cuda else 1))
    ]
    with (
        Scheduler([engine], max_batch_tokens=32768, max_queue_tokens=1 << 30) as scheduler,
        ThreadPoolExecutor(in_flight) as pool,
    ):
        deadline = time.perf_counter() + 1.0

        def client(number: int) -> int:
            count = 0
            while time.perf_counter() < deadline:
                request = requests[(number + count * in_flight) % len(requests)]
                scheduler.submit(request).result()
                count += 1
            return count

        list(pool.map(client, range(in_flight)))  # warm
        start = time.perf_counter()
        deadline = start + run.seconds
        finished = sum(pool.map(client, range(in_flight)))
        return finished * PAIRS_PER_REQUEST / (time.perf_counter() - start)


def latency(run: Run, engine: Engine, count: int) -> dict[str, float]:
    """Return milliseconds of one query with documents of 128 tokens, alone: median and 90th percentile."""
    rng = random.Random(3)
    times: list[float] = []
    with Scheduler([engine], max_batch_tokens=32768, max_queue_tokens=1 << 30) as scheduler:
        for _ in range(25 if run.is_cuda else 5):
            prompts = make_prompts(count, count, LATENCY_TOKENS, rng)
            start = time.perf_counter()
            scheduler.submit(prompts).result()
            times.append((time.perf_counter() - start) * 1e3)
    return {"p50": statistics.median(times[5:] or times), "p90": sorted(times)[int(len(times) * 0.9)]}


def host(run: Run, engine: Engine) -> dict[str, float]:
    """Return milliseconds of the steps of a batch of 330 pairs of 33 queries, medians."""
    steps: dict[str, list[float]] = {"prepare": [], "launch": [], "collect": []}
    for number in range(8):
        prompts = make_prompts(330 if run.is_cuda else 33, 10, DOCUMENT_TOKENS, random.Random(number))
        times = [time.perf_counter()]
        prepared = engine.prepare(prompts)
        times.append(time.perf_counter())
        launched = engine.launch(prepared)
        times.append(time.perf_counter())
        launched.collect()
        times.append(time.perf_counter())
        for step, start, end in zip(steps, times, times[1:], strict=False):
            steps[step].append((end - start) * 1e3)
    return {step: statistics.median(values[2:]) for step, values in steps.items()}


def speed(run: Run) -> dict[str, Any]:
    """Throughput, latency, host's share and memory for each shape, with random weights."""
    figures: dict[str, Any] = {}
    for name, shape in run.shapes.items():
        engine = Engine(random_decoder(shape, run.device, run.dtype), prefix_cache_bytes=256 << 20)
        if run.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        figures[name] = {
            "host, ms": host(run, engine),
            "pairs/s, ten documents per query": serve(run, engine, 10),
            "pairs/s, one document per query": serve(run, engine, 1),
            "100 documents of 128 tokens, ms": latency(run, engine, 100 if run.is_cuda else 10),
            "1 document of 128 tokens, ms": latency(run, engine, 1),
            "peak, GB": torch.cuda.max_memory_allocated() / 1e9 if run.is_cuda else None,
        }
        print(name, json.dumps(figures[name]))
        del engine
        if run.is_cuda:
            torch.cuda.empty_cache()
    return figures


def peer(run: Run) -> dict[str, Any]:
    """Pairs per second of sentence-transformers and of this package on the same texts, tokenising included."""
    from sentence_transformers import CrossEncoder

    from benchmarks.peers.runner import PREFIX, SUFFIX, body
    from benchmarks.workloads import WORDS

    rng = random.Random(5)
    count = 1024 if run.is_cuda else 16
    queries = [" ".join(rng.choices(WORDS, k=10)) for _ in range(-(-count // 10))]
    pairs = [(queries[n // 10], " ".join(rng.choices(WORDS, k=84))) for n in range(count)]
    config = RerankConfig(model=str(run.checkpoint), device=str(run.device), cache_entries=0)
    if not run.is_cuda:
        config = config.model_copy(update={"dtype": "float32"})
    with Reranker(config) as reranker:
        ours, scores = _best_rate(pairs, lambda: reranker.score_pairs(pairs))
    model = CrossEncoder(
        str(run.checkpoint),
        device=str(run.device),
        model_kwargs={"dtype": run.dtype},
        processor_kwargs={"padding_side": "left"},
    )
    halves = [(PREFIX + body(query, "").rstrip(" "), f" {document}{SUFFIX}") for query, document in pairs]
    figures: dict[str, Any] = {"ours": ours}

    def score(size: int) -> list[float]:
        scores: list[float] = model.predict(halves, batch_size=size, show_progress_bar=False).tolist()
        return scores

    for size in (32, 128, 512) if run.is_cuda else (8,):
        rate, theirs = _best_rate(pairs, partial(score, size))
        figures[f"sentence-transformers, batches of {size}"] = rate
        figures["largest difference of P(yes)"] = max(abs(a - b) for a, b in zip(scores, theirs, strict=True))
    return figures


def _best_rate(pairs: list[tuple[str, str]], score: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Return pairs per second of the better of two runs, after one that warms up, and the scores."""
    scores = score()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        score()
        times.append(time.perf_counter() - start)
    return len(pairs) / min(times), scores


def profile(run: Run) -> dict[str, Any]:
    """Share of each kernel in one batch of 330 pairs of 33 queries, in percent, and the time on the device."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    engine = Engine(random_decoder(run.first_shape, run.device, run.dtype))
    prompts = make_prompts(330 if run.is_cuda else 33, 10, DOCUMENT_TOKENS, random.Random(1))
    engine.log_odds(prompts)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.is_cuda else [])]
    with record(activities=activities) as recorded:
        engine.log_odds(prompts)
    with cProfile.Profile() as launches:
        engine.log_odds(prompts)
    with (run.out / "host.txt").open("w", encoding="utf-8") as file:
        pstats.Stats(launches, stream=file).sort_stats("tottime").print_stats(40)
    events = recorded.key_averages()
    column = "self_device_time_total" if run.is_cuda else "self_cpu_time_total"
    (run.out / "profile.txt").write_text(events.table(sort_by=column, row_limit=40), encoding="utf-8")
    # On CUDA an operation of torch and its kernel are two events with the same time.
    times = {
        event.key: getattr(event, column)
        for event in events
        if getattr(event, column) and not (run.is_cuda and event.key.startswith(("aten::", "cu")))
    }
    total = sum(times.values())
    top = sorted(times.items(), key=lambda item: -item[1])[:14]
    return {"total, ms": total / 1e3} | {f"{key[:70]}, %": 100 * value / total for key, value in top}


def kernel_times(run: Run) -> dict[str, Any]:
    """Each kernel beside torch's, on the 0.6B and 8B shapes."""
    if not run.is_cuda:
        return {"skipped": "there is no GPU"}
    from scripts.gpu.kernels import time_kernels

    return {name: time_kernels(run.device, name, 330) for name in ("0.6B", "8B")}


def warm_up(run: Run) -> dict[str, Any]:
    """Loading a checkpoint: seconds, and the batch that the memory allows."""
    start = time.perf_counter()
    runtime = load_runtime(RerankConfig(model=str(run.checkpoint), device=str(run.device)))
    try:
        return {"seconds": time.perf_counter() - start, "max_batch_tokens": runtime.max_batch_tokens}
    finally:
        runtime.close()


SECTIONS: Mapping[str, Callable[[Run], dict[str, Any]]] = {
    "machine": machine,
    "parity": parity,
    "speed": speed,
    "kernels": kernel_times,
    "profile": profile,
    "peer": peer,
    "warm_up": warm_up,
    "tests": tests,
}


def main() -> int:
    """Run the sections; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="bash scripts/gpu/run.sh", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".test-results/gpu")))
    parser.add_argument("--sections", default=",".join(SECTIONS), help="default: all")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    has_failed = False
    with tempfile.TemporaryDirectory() as work:
        run = Run(torch.device(options.device), options.out, Path(work))
        for name in options.sections.split(","):
            start = time.perf_counter()
            try:
                results[name] = SECTIONS[name](run)
            except Exception:  # noqa: BLE001 - the other sections are worth running
                has_failed = True
                results[name] = {"failed": traceback.format_exc()}
                print(results[name]["failed"])
            results[name]["section_s"] = time.perf_counter() - start
            print(name, json.dumps(results[name], indent=1, default=str))
            (options.out / "results.json").write_text(
                json.dumps(results, indent=1, default=str), encoding="utf-8"
            )
    return int(has_failed or bool(results.get("tests", {}).get("exit code")))


if __name__ == "__main__":
    sys.exit(main())
