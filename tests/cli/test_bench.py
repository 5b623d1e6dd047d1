from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from qwen_rerank_plugins import PairScore, RerankConfig, Reranker
from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.cli.bench import mixed_workload, percentile, run_benchmark
from tests.doubles import FakeScorer


def _slow_fake(seen: list[RerankConfig]) -> Any:
    def make(config: RerankConfig) -> Reranker:
        seen.append(config)
        scorer = FakeScorer(lambda request: PairScore(0.5, num_tokens=10), delay_s=0.02)
        return Reranker(config, scorer=scorer)

    return make


def test_it_measures_latency_throughput_load_and_memory() -> None:
    seen: list[RerankConfig] = []
    steps: list[str] = []
    figures = run_benchmark(
        RerankConfig(), num_documents=40, repeat=2, on_step=steps.append, make_reranker=_slow_fake(seen)
    )
    assert [one["num_documents"] for one in figures["latency"]] == [10, 100]
    assert all(20 <= one["p50_ms"] <= one["p95_ms"] < 2000 for one in figures["latency"])
    throughput = figures["throughput"]
    assert (throughput["num_queries"], throughput["num_pairs"], throughput["num_tokens"]) == (3, 40, 400)
    assert throughput["pairs_per_s"] == pytest.approx(40 / throughput["seconds"], rel=0.01)
    assert figures["peak_memory_mb"] > 1
    assert len(steps) == 4
    json.dumps(figures)


def test_the_cache_is_off_and_failures_are_not_hidden() -> None:
    seen: list[RerankConfig] = []
    run_benchmark(
        RerankConfig(enabled=False, on_error="keep_order"),
        num_documents=1,
        repeat=1,
        make_reranker=_slow_fake(seen),
    )
    assert (seen[0].cache_entries, seen[0].enabled, seen[0].on_error) == (0, True, "raise")


def test_the_workload_is_the_same_in_every_run_and_mixed_in_length() -> None:
    queries, lists = mixed_workload(40, 100)
    assert (queries, lists) == mixed_workload(40, 100)
    assert [len(documents) for documents in lists] == [16, 16, 8]
    lengths = [len(text.split()) for documents in lists for text in documents]
    assert min(lengths) < 50
    assert max(lengths) > 150
    assert all(25 <= length <= 200 for length in lengths)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0], 0.95, 1.0),
        (list(range(1, 101)), 0.95, 95),
        ([1.0, 2.0], 0.95, 2.0),
    ],
)
def test_percentiles_are_values_that_occurred(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_the_command_prints_a_table_and_one_json_line_last() -> None:
    result = CliRunner().invoke(app, ["bench", "--backend", "lexical", "--documents", "5", "--repeat", "1"])
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["throughput"]["num_pairs"] == 5
    assert "1 query, 100 short documents" in result.stderr
    assert "peak memory" in result.stderr
