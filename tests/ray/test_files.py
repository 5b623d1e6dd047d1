"""Batch jobs with the scores of a cluster's workers: the same files as on one machine, whatever happens to a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from qwen_rerank_plugins import PairScore, RerankConfig, Reranker, ScoreRequest
from qwen_rerank_plugins.batch import BatchOptions, run_batch
from qwen_rerank_plugins.errors import (
    CheckpointNotFoundError,
    ClosedError,
    ConfigurationError,
    DeadlineExceededError,
    InputError,
    WorkerDiedError,
)
from qwen_rerank_plugins.ray import ActorPoolScorer, ActorPoolSettings, rerank_file
from tests.ray.clusters import OF_RAY, killing_one, processes, wait_for
from tests.ray.lost_devices import LosingWorker

pytestmark = [
    pytest.mark.loopback,
    pytest.mark.timeout(900),
    OF_RAY,
]

WORKERS = "ray::ScoringWorker"
CONFIG = RerankConfig(
    model="demo",
    device="cpu",
    dtype="float32",
    num_threads=1,
    # What was computed before would change the last bits of what comes after.
    prefix_cache_mb=0,
    cache_entries=0,
)
TWO = ActorPoolSettings(num_workers=2, num_cpus=0.5)


@pytest.fixture(autouse=True)
def ray_runs(cluster: None) -> None:
    """Every test of this module uses the cluster."""


@pytest.fixture(scope="module")
def reranker() -> Iterator[Reranker]:
    with Reranker(CONFIG) as one:
        yield one


@pytest.fixture(scope="module")
def scorer(cluster: None) -> Iterator[ActorPoolScorer]:
    """Two workers that have loaded the model."""
    with ActorPoolScorer(CONFIG, TWO) as one:
        yield one


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs(num: int, *, words: int = 4) -> list[ScoreRequest]:
    return [ScoreRequest("blue whale", f"document {number} " + "sings " * words) for number in range(num)]


def scores_of(found: list[PairScore]) -> list[float]:
    return [one.relevance_score for one in found]


def test_pairs_come_back_in_their_order_from_several_workers(
    scorer: ActorPoolScorer, reranker: Reranker
) -> None:
    """More tokens than one call holds, so that both workers have a part."""
    requests = pairs(1500, words=60)
    expected = reranker.score("blue whale", [request.document for request in requests])
    assert scores_of(scorer.score(requests)) == pytest.approx(expected, abs=1e-5)
    wait_for(lambda: len(processes(WORKERS)) == 2)


def test_a_reranker_over_it_ranks_as_one_on_this_machine(scorer: ActorPoolScorer, reranker: Reranker) -> None:
    documents = ["a red fox", "the blue whale sings", ""]
    with Reranker(CONFIG, scorer=scorer) as over:
        assert over.rank("blue whale", documents) == reranker.rank("blue whale", documents)
        assert over.info()["fingerprint"] == reranker.info()["fingerprint"]


def test_errors_are_those_of_the_worker(scorer: ActorPoolScorer) -> None:
    with pytest.raises(InputError, match="instruction"):
        scorer.score([ScoreRequest("q", "d", "long " * 20_000)])
    with pytest.raises(DeadlineExceededError):
        scorer.score(pairs(64, words=500), deadline_s=0.05)
    assert len(scorer.score(pairs(1))) == 1


def test_a_missing_model_is_reported_as_on_this_machine(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"query": "a", "document": "b"}])
    with pytest.raises(CheckpointNotFoundError, match="nowhere"):
        rerank_file(source, tmp_path / "out.jsonl", config=CONFIG.replace(model=str(tmp_path / "nowhere")))


ROWS: list[dict[str, Any]] = [
    {"id": 1, "query": "blue whale", "documents": ["a red fox", {"text": "the blue whale sings", "page": 7}]},
    {"id": 2, "query": "  ", "documents": ["a"], "note": "rejected"},
    {"id": 3, "query": "red fox", "documents": []},
    {"query": "鲸", "documents": ["鲸在唱歌", "狐狸", ""], "own": {"kept": True}},
]


@pytest.mark.parametrize("output", ["jsonl", "csv", "parquet"])
def test_lists_bad_rows_and_every_format_are_those_of_one_machine(
    output: str, tmp_path: Path, reranker: Reranker
) -> None:
    """Byte for byte, in each format; rows of JSON have columns of their own."""
    source = write_lines(tmp_path / "in.jsonl", ROWS)
    options = BatchOptions(on_bad_row="reject", top_n=2, details=True)
    here, there = tmp_path / f"here.{output}", tmp_path / f"there.{output}"
    expected = run_batch(source, here, reranker=reranker, options=options)
    found = rerank_file(source, there, config=CONFIG, options=options)
    assert there.read_bytes() == here.read_bytes()
    assert Path(f"{there}.rejected.jsonl").read_bytes() == Path(f"{here}.rejected.jsonl").read_bytes()
    fields = ("status", "num_rows", "num_pairs", "num_written", "num_rejected", "model")
    assert [getattr(found, name) for name in fields] == [getattr(expected, name) for name in fields]


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(tmp_path: Path, reranker: Reranker) -> None:
    rows = [{"query": f"whale {n % 40}", "document": f"{n} sings " + "of whales " * 40} for n in range(1200)]
    source, target = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with killing_one(f"{WORKERS}.score"):
        report = rerank_file(source, target, config=CONFIG, pool=TWO, options=BatchOptions(call_pairs=64))
    assert (report.status, report.num_written) == ("complete", len(rows))
    found = read_lines(target)
    assert [{"query": row["query"], "document": row["document"]} for row in found] == rows
    expected = reranker.score_pairs([(row["query"], row["document"]) for row in rows])
    assert [row["relevance_score"] for row in found] == pytest.approx(expected, abs=1e-5)


def test_a_job_of_one_machine_goes_on_on_a_cluster(tmp_path: Path, reranker: Reranker) -> None:
    rows = [{"query": f"whale {n % 4}", "document": f"{n} sings"} for n in range(64)]
    source, target = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    options = BatchOptions(call_pairs=8, concurrency=1)
    looks = iter(range(100))
    stopped = run_batch(source, target, reranker=reranker, options=options, stop=lambda: next(looks) > 3)
    assert (stopped.status, 0 < stopped.num_pairs < 64) == ("stopped", True)
    report = rerank_file(source, target, config=CONFIG, options=options, resume=True)
    assert (report.status, report.num_resumed_pairs) == ("complete", stopped.num_pairs)
    assert len(read_lines(target)) == 64


def test_wrong_options_are_reported_before_any_worker_starts(tmp_path: Path) -> None:
    before = set(processes(WORKERS))  # those of tests before may still be on their way out
    source = write_lines(tmp_path / "in.jsonl", [{"query": "a", "text": "b"}])
    with pytest.raises(InputError, match="has no column 'document'"):
        rerank_file(source, tmp_path / "out.jsonl", config=CONFIG)
    with pytest.raises(InputError, match=r"in\.xls"):
        rerank_file(tmp_path / "in.xls", tmp_path / "out.jsonl", config=CONFIG)
    with pytest.raises(ConfigurationError, match="num_workers is not valid: 0"):
        rerank_file(source, tmp_path / "out.jsonl", config=CONFIG, pool=ActorPoolSettings(num_workers=0))
    assert set(processes(WORKERS)) - before == set()


def test_a_call_that_kills_every_worker_that_gets_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_rerank_plugins.ray.actor_pool.ScoringWorker", Deadly)
    monkeypatch.setattr("qwen_rerank_plugins.ray.actor_pool.CALL_ATTEMPTS", 2)
    with (
        ActorPoolScorer(CONFIG) as scorer,
        pytest.raises(WorkerDiedError, match="a worker was lost at each of 2 attempts"),
    ):
        scorer.score(pairs(1))


def test_a_worker_whose_engine_is_lost_in_the_middle_of_a_job_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of the lost engine ends, and every row has its score."""
    monkeypatch.setattr("qwen_rerank_plugins.ray.actor_pool.ScoringWorker", LosingWorker)
    rows = [{"query": f"whale {n % 4}", "document": f"{n} sings of whales"} for n in range(64)]
    source = write_lines(tmp_path / "in.jsonl", rows)
    marker = tmp_path / "lost"
    config = RerankConfig(backend="lexical", model=str(marker))
    options = BatchOptions(call_pairs=8)
    report = rerank_file(source, tmp_path / "out.jsonl", config=config, options=options)
    assert (report.status, report.num_written) == ("complete", 64)
    pid = int(marker.read_text(encoding="ascii"))
    wait_for(lambda: not psutil.pid_exists(pid))
    with Reranker(backend="lexical") as reranker:
        expected = reranker.score_pairs([(row["query"], row["document"]) for row in rows])
    assert [row["relevance_score"] for row in read_lines(tmp_path / "out.jsonl")] == expected


def test_after_its_end_it_says_so(scorer: ActorPoolScorer) -> None:
    with ActorPoolScorer(CONFIG) as closed:
        pass
    with pytest.raises(ClosedError, match="was closed"):
        closed.score(pairs(1))


class Deadly:
    """Exits its process on any pair."""

    def __init__(self, config: RerankConfig) -> None:
        self.config = config

    def ready(self) -> None:
        """Return nothing; a call shows that the worker has started."""

    def score(self, requests: object, deadline_s: object, priority: object) -> None:
        import os

        os._exit(1)
