"""The Data pipeline on a running Ray: workers as processes, the demo model, and a worker that is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.data import DataContext

from qwen_rerank_plugins import PairScore, RerankConfig, Reranker
from qwen_rerank_plugins.batch import BatchOptions
from qwen_rerank_plugins.errors import ConfigurationError, InputError
from qwen_rerank_plugins.lexical import LexicalScorer
from qwen_rerank_plugins.ray import ActorPoolSettings, rerank_dataset
from tests.ray.clusters import OF_RAY, killing_one
from tests.ray.lost_devices import LosingDataWorker, LostError

pytestmark = [
    pytest.mark.loopback,
    pytest.mark.timeout(900),
    OF_RAY,
]

WORKERS = "ray::MapWorker(MapBatches(_Worker))"
COMPUTING = f"{WORKERS}.submit"
CONFIG = RerankConfig(model="demo", device="cpu", dtype="float32", num_threads=1)
POOL = ActorPoolSettings(num_workers=1, num_partitions=2)


@pytest.fixture(autouse=True)
def quiet(cluster: None) -> None:
    """No progress bars; Ray's own messages stay in its logs."""
    DataContext.get_current().enable_progress_bars = False


@pytest.fixture(scope="module")
def reranker() -> Iterator[Reranker]:
    with Reranker(CONFIG) as one:
        yield one


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(tmp_path: Path, reranker: Reranker) -> None:
    rows = [{"query": f"whale {n % 40}", "document": f"{n} sings " + "of whales " * 40} for n in range(600)]
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    with killing_one(COMPUTING, timeout_s=300):
        ranked = rerank_dataset(
            ray.data.read_parquet(str(source)),
            config=CONFIG,
            pool=ActorPoolSettings(num_workers=2, num_partitions=6),
        )
        ranked.write_parquet(str(tmp_path / "out"))
    found = {row["document"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    assert found.keys() == {row["document"] for row in rows}
    expected = reranker.score_pairs([(row["query"], row["document"]) for row in rows])
    scores = [found[row["document"]]["relevance_score"] for row in rows]
    assert scores == pytest.approx(expected, abs=1e-5)
    ranks: dict[str, list[int]] = {}
    for row in found.values():
        ranks.setdefault(row["query"], []).append(row["rank"])
    assert all(sorted(some) == list(range(1, 16)) for some in ranks.values())


def test_a_dataset_gets_columns_by_any_name_cuts_and_instructions(reranker: Reranker) -> None:
    rows = [
        {"q": "whale", "d": text, "i": instruction}
        for instruction in ("", "Find songs")
        for text in ("a whale sings", "a fox", "whales", "a hen")
    ]
    options = BatchOptions(
        query_column="q",
        document_column="d",
        instruction_column="i",
        score_column="score",
        rank_column="place",
        details=True,
        top_n=2,
    )
    dataset = rerank_dataset(ray.data.from_items(rows), config=CONFIG, options=options, pool=POOL)
    found = sorted(dataset.take_all(), key=lambda row: (row["i"], row["place"]))
    assert [(row["i"], row["place"]) for row in found] == [
        ("", 1),
        ("", 2),
        ("Find songs", 1),
        ("Find songs", 2),
    ]
    for instruction in ("", "Find songs"):
        texts = [row["d"] for row in rows[:4]]
        result = reranker.rank("whale", texts, top_n=2, instruction=instruction or None)
        own = [row for row in found if row["i"] == instruction]
        assert [row["d"] for row in own] == [one.document for one in result.results]
        assert [row["score"] for row in own] == pytest.approx(
            [one.relevance_score for one in result.results], abs=1e-5
        )
        assert [row["log_odds"] for row in own] == pytest.approx(
            [one.log_odds for one in result.results], abs=1e-3
        )
    assert set(found[0]) == {"q", "d", "i", "score", "place", "log_odds", "truncated", "query_truncated"}


def test_no_instruction_and_an_empty_one_are_the_same(reranker: Reranker) -> None:
    """Rows with either are ranked together, wherever they are in the file."""
    rows = [
        {"query": "whale", "document": f"{number} sings", "instruction": instruction}
        for number, instruction in enumerate([None, "", "Find songs", None, " "])
    ]
    options = BatchOptions(instruction_column="instruction")
    found = rerank_dataset(ray.data.from_items(rows), config=CONFIG, options=options, pool=POOL).take_all()
    usual = [row["rank"] for row in found if row["instruction"] != "Find songs"]
    assert sorted(usual) == [1, 2, 3, 4]
    assert len(found) == 5


def test_a_row_that_cannot_be_ranked_is_an_input_error() -> None:
    rows = [{"query": "a", "document": "b"}, {"query": "  ", "document": "a"}]
    dataset = rerank_dataset(
        ray.data.from_items(rows), config=CONFIG, pool=ActorPoolSettings(num_partitions=1)
    )
    with pytest.raises(InputError, match="'query' is blank"):
        dataset.take_all()


def test_wrong_options_are_reported_before_anything_runs() -> None:
    dataset = ray.data.from_items([{"query": "a", "document": "b", "note": "c"}])
    with pytest.raises(InputError, match="has no column 'text', only 'query', 'document', 'note'"):
        rerank_dataset(dataset, config=CONFIG, options=BatchOptions(document_column="text"))
    with pytest.raises(InputError, match="already has 'note'"):
        rerank_dataset(dataset, config=CONFIG, options=BatchOptions(score_column="note"))
    with pytest.raises(ConfigurationError, match="a dataset of lists is not supported: form='lists'"):
        rerank_dataset(dataset, config=CONFIG, options=BatchOptions(form="lists"))
    with pytest.raises(ConfigurationError, match="num_workers is not valid: 0"):
        ActorPoolSettings(num_workers=0)
    with pytest.raises(ConfigurationError, match=r"num_workers is not valid: \(3, 2\)"):
        ActorPoolSettings(num_workers=(3, 2))


def test_a_worker_whose_engine_is_lost_is_replaced_and_its_partition_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_rerank_plugins.ray.data._Worker", LosingDataWorker)
    rows = [{"query": f"whale {n % 40}", "document": f"{n} sings"} for n in range(120)]
    marker = tmp_path / "lost"
    config = RerankConfig(backend="lexical", model=str(marker))
    found = rerank_dataset(
        ray.data.from_items(rows), config=config, pool=ActorPoolSettings(num_partitions=4)
    ).take_all()
    assert sorted(row["document"] for row in found) == sorted(row["document"] for row in rows)
    assert marker.exists()


def test_a_partition_that_costs_a_new_worker_its_engine_ends_the_pipeline() -> None:
    """Replacing that worker would repeat the failure forever."""
    worker = LosingDataWorker(RerankConfig(backend="lexical", model="unused"), BatchOptions())

    class Lost(LexicalScorer):
        def score(
            self, requests: object, *, deadline_s: float | None = None, priority: str = "interactive"
        ) -> list[PairScore]:
            raise LostError("device")

    worker._scorer = Lost()
    rows = pa.Table.from_pylist([{"query": "a", "document": "b", "__row": 0}])
    with pytest.raises(LostError, match="device"):
        worker(rows)
