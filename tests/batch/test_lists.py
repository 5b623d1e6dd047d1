from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen_rerank_plugins import InputError
from tests.batch.files import PAIRS, read_csv, read_jsonl, run, write_csv, write_jsonl

ROWS: list[dict[str, Any]] = [
    {"id": 1, "query": "blue whale", "documents": ["a fox", {"text": "the blue whale", "page": 3}, "blue"]},
    {"id": 2, "query": "blue whale", "documents": []},
    {"id": 3, "query": "fox", "documents": ["fox", "fox"]},
]
INDICES = [[1, 2, 0], [], [0, 1]]


def places(row: dict[str, Any]) -> list[int]:
    return [one["index"] for one in row["results"]]


def test_a_list_gets_its_ranked_results(tmp_path: Path) -> None:
    report = run(write_jsonl(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", call_pairs=2)
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [places(row) for row in rows] == INDICES
    assert [{name: row[name] for name in ("id", "query", "documents")} for row in rows] == ROWS
    assert [one["rank"] for one in rows[0]["results"]] == [1, 2, 3]
    assert (report.num_rows, report.num_pairs, report.num_written) == (3, 5, 3)


def test_lists_of_one_query_are_ranked_apart_and_pairs_together(tmp_path: Path) -> None:
    rows = [{"query": "q", "documents": ["q"]}, {"query": "q", "documents": ["q", "x"]}]
    run(write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    assert [[one["rank"] for one in row["results"]] for row in read_jsonl(tmp_path / "out.jsonl")] == [
        [1],
        [1, 2],
    ]


def test_exploded_lists_give_a_row_a_document(tmp_path: Path) -> None:
    run(write_jsonl(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", explode=True, top_n=2)
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert list(rows[0]) == ["id", "query", "index", "document", "relevance_score", "rank"]
    assert [(row["id"], row["index"], row["rank"]) for row in rows] == [
        (1, 1, 1),
        (1, 2, 2),
        (3, 0, 1),
        (3, 1, 2),
    ]
    assert rows[0]["document"] == {"text": "the blue whale", "page": 3}


def test_cells_of_csv_hold_lists_as_json(tmp_path: Path) -> None:
    source = write_csv(
        tmp_path / "in.csv", [{**row, "documents": json.dumps(row["documents"])} for row in ROWS]
    )
    run(source, tmp_path / "out.csv")
    assert [
        places({"results": json.loads(row["results"])}) for row in read_csv(tmp_path / "out.csv")
    ] == INDICES
    run(source, tmp_path / "each.csv", explode=True)
    assert json.loads(read_csv(tmp_path / "each.csv")[0]["document"]) == ROWS[0]["documents"][1]


@pytest.mark.parametrize("explode", [False, True])
def test_parquet_lists_keep_their_types(tmp_path: Path, explode: bool) -> None:
    kind = pa.list_(pa.struct([("text", pa.string()), ("page", pa.int32())]))
    documents = [[{"text": "a fox", "page": 1}, {"text": "blue whale", "page": 2}], []]
    table = pa.table({"query": ["blue whale", "x"], "documents": pa.array(documents, kind)})
    pq.write_table(table, tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", tmp_path / "out.parquet", explode=explode)
    out = pq.read_table(tmp_path / "out.parquet")
    if explode:
        assert out.column("document").to_pylist() == [documents[0][1], documents[0][0]]
        assert out.schema.field("document").type == kind.value_type
    else:
        assert out.select(["query", "documents"]).equals(table)
        assert [places(row) for row in out.to_pylist()] == [[1, 0], []]


def test_json_lists_can_become_parquet(tmp_path: Path) -> None:
    run(write_jsonl(tmp_path / "in.jsonl", ROWS), tmp_path / "out.parquet", details=True)
    out = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [places(row) for row in out] == INDICES
    assert json.loads(out[0]["documents"]) == ROWS[0]["documents"]


def test_threshold_and_cut_hold_for_every_list(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    run(source, tmp_path / "out.jsonl", top_n=1)
    assert [places(row) for row in read_jsonl(tmp_path / "out.jsonl")] == [[1], [], [0]]
    run(source, tmp_path / "high.jsonl", min_score=0.9)
    assert [places(row) for row in read_jsonl(tmp_path / "high.jsonl")] == [[1], [], [0, 1]]


def test_pairs_cannot_be_exploded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="explode is for lists"):
        run(write_csv(tmp_path / "in.csv", PAIRS), tmp_path / "out.csv", explode=True)
