"""The Data pipeline for real: workers as processes, the demo model, files of every kind, and a worker that is killed."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import pytest
import ray
from ray import exceptions as ray_errors
from ray.data import DataContext

from qwen_rerank_plugins import RerankConfig, Reranker
from qwen_rerank_plugins.batch import BatchOptions, run_batch
from qwen_rerank_plugins.errors import ConfigurationError, InputError, WorkerDiedError
from qwen_rerank_plugins.ray import Pool, files, rerank_dataset, rerank_file
from tests.ray.clusters import kill, processes, wait_for

pytestmark = [
    pytest.mark.loopback,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
    ),
]

WORKERS = "ray::MapWorker(MapBatches(_Worker))"
COMPUTING = f"{WORKERS}.submit"
CONFIG = RerankConfig(model="demo", device="cpu", dtype="float32", num_threads=1)
POOL = Pool(num_workers=1, num_partitions=2)

ROWS = [
    {
        "id": f"{number:03d}",  # a text, whatever it looks like
        "query": f"blue whale {number % 5}",
        "document": f'the "{number}" sings,\nof whales' if number % 3 else "=1+1 fox",
        "note": "" if number % 2 else "2024-01-01",
    }
    for number in range(60)
]


@pytest.fixture(autouse=True)
def quiet(cluster: None) -> None:
    """No bars; Ray's own messages stay in its logs."""
    DataContext.get_current().enable_progress_bars = False


@pytest.fixture(scope="module")
def reranker() -> Iterator[Reranker]:
    with Reranker(CONFIG) as one:
        yield one


def write_rows(path: Path, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=16)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {**row, "relevance_score": float(row["relevance_score"]), "rank": int(row["rank"])}
                for row in csv.DictReader(file)
            ]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_score(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "relevance_score"} for row in rows]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Columns in their order, rows in theirs, every value; scores up to the last bits, which differ with a call's company."""
    assert [list(row) for row in found] == [list(row) for row in expected]
    assert without_score(found) == without_score(expected)
    scores = [row["relevance_score"] for row in expected]
    assert [row["relevance_score"] for row in found] == pytest.approx(scores, abs=1e-5)


# Lines of JSON are read and written by the test with the killed worker too.
@pytest.mark.parametrize(
    "suffix", [".csv", *(pytest.param(suffix, marks=pytest.mark.long) for suffix in (".jsonl", ".parquet"))]
)
def test_a_file_becomes_what_the_pipeline_of_one_machine_makes_of_it(
    suffix: str, tmp_path: Path, reranker: Reranker
) -> None:
    source = write_rows(tmp_path / f"in{suffix}")
    here, there = tmp_path / f"here{suffix}", tmp_path / f"there{suffix}"
    run_batch(source, here, reranker=reranker)
    assert rerank_file(source, there, config=CONFIG, pool=POOL) == len(ROWS)
    assert_same(read_rows(there), read_rows(here))
    assert {path.name for path in tmp_path.iterdir()} == {source.name, here.name, there.name}


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(tmp_path: Path, reranker: Reranker) -> None:
    rows = [{"query": f"whale {n % 40}", "document": f"{n} sings " + "of whales " * 40} for n in range(600)]
    source, target = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    killed: list[int] = []  # the process

    def computes() -> bool:
        killed.extend(processes(COMPUTING)[:1])
        return bool(killed)

    def kill_one() -> None:
        wait_for(computes, timeout_s=300, every_s=0.02)
        kill(killed[0])

    thread = threading.Thread(target=kill_one)
    thread.start()
    written = rerank_file(source, target, config=CONFIG, pool=Pool(num_workers=2, num_partitions=6))
    thread.join()
    assert killed
    assert written == len(rows)
    found = read_rows(target)
    assert [{"query": row["query"], "document": row["document"]} for row in found] == rows
    expected = reranker.score_pairs([(row["query"], row["document"]) for row in rows])
    assert [row["relevance_score"] for row in found] == pytest.approx(expected, abs=1e-5)
    ranks: dict[str, list[int]] = {}
    for row in found:
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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param({"query": "  ", "document": "a"}, "query is blank", marks=pytest.mark.long),
        ({"query": "a", "document": 7}, "document has the wrong type"),
    ],
)
def test_a_row_that_cannot_be_ranked_is_an_input_error_and_leaves_no_file(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"query": "a", "document": "b"}, row])
    with pytest.raises(InputError, match=message):
        rerank_file(source, tmp_path / "out.jsonl", config=CONFIG, pool=Pool(num_partitions=1))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv")
    target = tmp_path / "out.csv"
    with pytest.raises(InputError, match="there is no column 'text'; there are 'id', 'query'"):
        rerank_file(source, target, config=CONFIG, options=BatchOptions(document_column="text"))
    with pytest.raises(InputError, match="there already is a column 'note'"):
        rerank_file(source, target, config=CONFIG, options=BatchOptions(score_column="note"))
    with pytest.raises(InputError, match="source cannot be read"):
        rerank_file(tmp_path / "none.csv", target, config=CONFIG)
    with pytest.raises(InputError, match="target is there"):
        rerank_file(source, source, config=CONFIG)
    with pytest.raises(InputError, match="of unknown kind"):
        rerank_file(source, tmp_path / "out.xls", config=CONFIG)
    with pytest.raises(ConfigurationError, match="on_bad_row"):
        rerank_file(source, target, config=CONFIG, options=BatchOptions(on_bad_row="set_aside"))
    with pytest.raises(ConfigurationError, match="form is not valid: 'lists'"):
        rerank_file(source, target, config=CONFIG, options=BatchOptions(form="lists"))
    with pytest.raises(ConfigurationError, match="num_workers is not valid: 0"):
        rerank_file(source, target, config=CONFIG, pool=Pool(num_workers=0))


@pytest.mark.parametrize(
    ("raised", "told"),
    [(ray_errors.ActorDiedError(), WorkerDiedError), (ray_errors.OutOfDiskError("full"), WorkerDiedError)],
)
def test_what_ray_cannot_mend_is_an_error_of_ours(
    raised: Exception, told: type[Exception], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(files._READERS, "csv", lambda *_: (_ for _ in ()).throw(raised))
        with pytest.raises(told, match=type(raised).__name__):
            rerank_file(write_rows(tmp_path / "in.csv"), tmp_path / "out.csv", config=CONFIG)
