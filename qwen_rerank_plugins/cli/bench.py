"""The command `bench`: latency of short lists, throughput of a mixed workload, load time and memory on this machine.

The workload is synthetic and the same in every run, so that runs can be compared. The repository's `benchmarks/`
compare with other software.
"""

# ruff: noqa: D301, FBT002 (a \b in a docstring keeps lines apart; typer declares flags as defaults)

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_rerank_plugins.cli.console import Config, Debug, make_console, show_status
from qwen_rerank_plugins.cli.machine import peak_memory_mb
from qwen_rerank_plugins.cli.options import (
    Adapters,
    Backend,
    Device,
    Dtype,
    Hub,
    Model,
    Quantization,
    announce_demo,
    load,
    model_overrides,
    report_errors,
)
from qwen_rerank_plugins.errors import InputError

if TYPE_CHECKING:
    from qwen_rerank_plugins.config import RerankConfig
    from qwen_rerank_plugins.reranker import Reranker

__all__ = ["bench", "describe_figures", "run_benchmark"]

LATENCY_SIZES = (10, 100)
SHORT_WORDS = 24
WORDS = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "is",
    "was",
    "for",
    "on",
    "with",
    "as",
    "by",
    "at",
    "from",
    "it",
    "an",
    "be",
    "are",
    "this",
    "that",
    "which",
    "or",
    "have",
    "not",
    "rank",
    "search",
    "document",
    "query",
    "model",
    "water",
    "light",
    "house",
    "river",
    "plant",
    "city",
    "north",
    "train",
    "music",
    "paper",
    "market",
    "doctor",
    "garden",
    "北京",
    "医院",
    "植物",
    "电话",
]


def bench(  # noqa: PLR0913, PLR0917 (one parameter an option)
    documents: Annotated[int, typer.Option(help="Number of documents of the mixed workload.")] = 64,
    tokens: Annotated[
        int, typer.Option(help="Mean length of a document in words, about as many tokens.")
    ] = 120,
    repeat: Annotated[int, typer.Option(help="Runs of each latency measurement.")] = 5,
    backend: Backend = None,
    model: Model = None,
    hub: Hub = None,
    adapters: Adapters = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Measure latency, throughput and memory of this machine.

    Prints a table on standard error, and the same figures as one line of JSON on standard output.

    \b
    Examples:
      qwen-rerank bench
      qwen-rerank bench --model demo --documents 200 --repeat 20
      qwen-rerank bench --dtype float32 2>/dev/null | jq .throughput.tokens_per_s
    """
    overrides = model_overrides(locals())
    with report_errors(debug=debug):
        from qwen_rerank_plugins.cli.tables import facts_table, to_json

        loaded = load(config, overrides)
        announce_demo(loaded.config)
        with show_status("measuring") as on_step:
            figures = run_benchmark(
                loaded.config, num_documents=documents, num_words=tokens, repeat=repeat, on_step=on_step
            )
        make_console(stderr=True).print(facts_table(describe_figures(figures)))
        typer.echo(to_json(figures))


def run_benchmark(
    config: RerankConfig,
    *,
    num_documents: int = 64,
    num_words: int = 120,
    repeat: int = 5,
    on_step: Callable[[str], object] = str,
    make_reranker: Callable[..., Reranker] | None = None,
) -> dict[str, Any]:
    """Measure load time, latency, throughput and memory, with the score cache off.

    Args:
        config: Settings of the reranker.
        num_documents: Number of documents of the mixed workload, sixteen per query.
        num_words: Mean length of its documents in words; lengths differ by a factor of up to eight.
        repeat: Number of runs of each latency measurement.
        on_step: Called with a description of each step.
        make_reranker: Builds the reranker to measure; None for `Reranker`.

    Returns:
        Plain JSON types: model, load_s, latency, throughput, peak_memory_mb, engine.

    Raises:
        InputError: A number is below 1.
        RerankError: The model cannot be loaded or used.
    """
    from qwen_rerank_plugins.reranker import Reranker

    for name, value in (("documents", num_documents), ("tokens", num_words), ("repeat", repeat)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, got {value!r}")
    on_step("loading the model")
    start = time.perf_counter()
    with (make_reranker or Reranker)(
        config.replace(cache_entries=0, cache_path=None, enabled=True, on_error="raise")
    ) as reranker:
        reranker.info()
        load_s = time.perf_counter() - start
        reranker.score("warm up", ["first document", "second document"])
        return {
            "model": reranker.model,
            "load_s": round(load_s, 3),
            "latency": [_latency(reranker, size, repeat, on_step) for size in LATENCY_SIZES],
            "throughput": _throughput(reranker, num_documents, num_words, on_step),
            "peak_memory_mb": peak_memory_mb(),
            "engine": reranker.info(),
        }


def describe_figures(figures: dict[str, Any]) -> dict[str, str]:
    """Return the figures of `run_benchmark` as name → value with units, for a table."""
    throughput = figures["throughput"]
    rows = {"model": str(figures["model"]), "load": f"{figures['load_s']:.2f} s"}
    for one in figures["latency"]:
        name = f"1 query, {one['num_documents']} short documents"
        rows[name] = f"p50 {one['p50_ms']:.1f} ms, p95 {one['p95_ms']:.1f} ms ({one['repeat']} runs)"
    name = f"{throughput['num_queries']} queries, {throughput['num_pairs']} documents"
    rows[name] = f"{throughput['pairs_per_s']:.1f} pairs/s, {throughput['tokens_per_s']:.0f} tokens/s"
    peak = figures["peak_memory_mb"]
    return {**rows, "peak memory": "unknown" if peak is None else f"{peak:.0f} MB"}


def mixed_workload(num_documents: int, num_words: int) -> tuple[list[str], list[list[str]]]:
    """Return queries with up to sixteen documents each, whose lengths are log-uniform around the mean."""
    source = random.Random(0)  # noqa: S311 (the same in every run)
    documents = [_text(source, _length(source, num_words)) for _ in range(num_documents)]
    lists = [documents[start : start + 16] for start in range(0, num_documents, 16)]
    return [_text(source, 8) for _ in lists], lists


def _latency(
    reranker: Reranker, num_documents: int, repeat: int, on_step: Callable[[str], object]
) -> dict[str, Any]:
    on_step(f"one query, {num_documents} short documents")
    source = random.Random(num_documents)  # noqa: S311 (the same in every run)
    times: list[float] = []
    for _ in range(repeat):
        query, documents = _text(source, 8), [_text(source, SHORT_WORDS) for _ in range(num_documents)]
        start = time.perf_counter()
        reranker.rank(query, documents, top_n=None, min_score=None)
        times.append(time.perf_counter() - start)
    return {
        "num_documents": num_documents,
        "repeat": repeat,
        "p50_ms": round(1e3 * statistics.median(times), 2),
        "p95_ms": round(1e3 * percentile(times, 0.95), 2),
    }


def _throughput(
    reranker: Reranker, num_documents: int, num_words: int, on_step: Callable[[str], object]
) -> dict[str, Any]:
    on_step(f"{num_documents} documents of about {num_words} words")
    queries, lists = mixed_workload(num_documents, num_words)
    start = time.perf_counter()
    results = reranker.rank_many(queries, lists, top_n=None, min_score=None)
    seconds = max(time.perf_counter() - start, 1e-9)
    num_tokens = sum(result.usage.num_tokens for result in results)
    return {
        "num_queries": len(queries),
        "num_pairs": num_documents,
        "num_tokens": num_tokens,
        "seconds": round(seconds, 4),
        "pairs_per_s": round(num_documents / seconds, 2),
        "tokens_per_s": round(num_tokens / seconds, 1),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed (the nearest-rank percentile)."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def _text(source: random.Random, num_words: int) -> str:
    return " ".join(source.choices(WORDS, k=num_words))


def _length(source: random.Random, mean_words: int) -> int:
    """Draw log-uniformly from a quarter of the mean to twice the mean."""
    return max(round(mean_words * 2 ** source.uniform(-2.0, 1.0)), 1)
