"""Small files for batch jobs, and a short way to run one."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen_rerank_plugins import Reranker, Scorer
from qwen_rerank_plugins.batch import BatchOptions, BatchReport, run_batch

PAIRS = [
    {"id": "1", "query": "blue whale", "document": "the blue whale sings"},
    {"id": "2", "query": "red fox", "document": "blue"},
    {"id": "3", "query": "blue whale", "document": "=1+1"},
    {"id": "4", "query": "red fox", "document": 'a red fox,\nquoted "twice"'},
    {"id": "5", "query": "blue whale", "document": "blue sky"},
]
RANKS = [1, 2, 3, 1, 2]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], *, encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_csv(path: Path, *, encoding: str = "utf-8") -> list[dict[str, str]]:
    with path.open(encoding=encoding, newline="") as file:
        return list(csv.DictReader(file))


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def run(
    source: Path,
    target: Path,
    *,
    scorer: Scorer | None = None,
    resume: bool = False,
    overwrite: bool = False,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> BatchReport:
    """Run a job with the lexical scorer, or another."""
    settings = {"backend": "lexical", **(config or {})}
    reranker = Reranker(**settings) if scorer is None else Reranker(scorer=scorer)
    with reranker:
        return run_batch(
            source,
            target,
            reranker=reranker,
            options=BatchOptions(**options),
            resume=resume,
            overwrite=overwrite,
        )


def many_rows(count: int, *, per_query: int = 7) -> list[dict[str, str]]:
    """Rows whose queries recur throughout the file."""
    num_queries = max(1, count // per_query)
    return [
        {
            "id": str(number),
            "query": f"word{number % num_queries} blue whale",
            "document": f"the {'blue' if number % 3 else 'red'} word{number % 11} text {number}",
        }
        for number in range(count)
    ]
