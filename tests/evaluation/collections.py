"""Small collections that several test modules use."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.evaluation import Dataset, Query


def tiny() -> Dataset:
    """Two queries in two groups; the first has grades 2, 1 and 0, and the second one relevant document."""
    return Dataset(
        name="tiny",
        corpus={
            "d1": "the blue whale sings",
            "d2": "a red fox runs",
            "d3": "blue sky over a whale of a time",
            "d4": "用白醋清除水壶里的水垢",
            "d5": "怎样挑选电热水壶",
        },
        queries={"q1": Query("blue whale", "English"), "q2": Query("水壶水垢", "Chinese")},
        qrels={"q1": {"d1": 2, "d3": 1, "d2": 0}, "q2": {"d4": 1}},
    )


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write records, and return the path."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_beir(folder: Path, dataset: Dataset) -> Path:
    """Write a collection as BEIR has it."""
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "corpus.jsonl", ({"_id": key, "text": text} for key, text in dataset.corpus.items()))
    queries = (
        {"_id": key, "text": query.text, "metadata": {"group": query.group}}
        for key, query in dataset.queries.items()
    )
    write_jsonl(folder / "queries.jsonl", queries)
    rows = [f"{q}\t{d}\t{g}\n" for q, grades in dataset.qrels.items() for d, g in grades.items()]
    text = "query-id\tcorpus-id\tscore\n" + "".join(rows)
    (folder / "qrels" / "test.tsv").write_text(text, encoding="utf-8")
    return folder
