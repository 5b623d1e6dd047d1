"""Ranks documents for a question, in English and in Chinese: the smallest whole use of the library.

python examples/rank_documents.py                                  # the bundled demo checkpoint, no download
python examples/rank_documents.py --model Qwen/Qwen3-Reranker-0.6B
python examples/rank_documents.py --query "..." --file mine.jsonl  # your own lines: {"text": ..., "title": ...}
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from qwen_rerank_plugins import Reranker, RerankResult

DATA = Path(__file__).resolve().parent / "data"
SHIPPED = (
    ("How do I remove limescale from a kettle?", DATA / "english.jsonl"),
    ("怎样清除电热水壶里的水垢？", DATA / "chinese.jsonl"),
)


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a JSON Lines file: `text` is scored, every other key travels along."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def print_result(result: RerankResult) -> None:
    """Print a ranked list, best first."""
    print(f"\n{result.query}   [{result.model}]")
    for rank, ranked in enumerate(result.results, start=1):
        document = ranked.document
        shown = document if isinstance(document, str) else document.get("title") or document["text"]
        score = "      " if ranked.relevance_score is None else f"{ranked.relevance_score:.4f}"
        print(f"{rank:>3}  {score}  #{ranked.index:<3} {shown[:90]}")


def argument_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(description="Rank documents for a question.")
    parser.add_argument(
        "--model", default="demo", help="a hub id, a folder, or demo: the bundled demo checkpoint"
    )
    parser.add_argument("--query", help="your own question; needs --file")
    parser.add_argument("--file", type=Path, help="your own documents, JSON Lines with a `text` in each line")
    parser.add_argument("--top-n", type=int, default=5, help="how many to show (default: %(default)s)")
    return parser


def rank(options: argparse.Namespace) -> None:
    """Rank the documents of `--file` for `--query`, or the shipped ones for the shipped questions."""
    tasks = SHIPPED if options.query is None else ((options.query, options.file),)
    reranker = Reranker(model=options.model)
    for query, path in tasks:
        print_result(reranker.rank(query, read_documents(path), top_n=options.top_n))


def main(arguments: list[str] | None = None) -> None:
    """Rank as the command line says."""
    parser = argument_parser()
    options = parser.parse_args(arguments)
    if (options.query is None) != (options.file is None):
        parser.error("--query and --file go together")
    rank(options)


if __name__ == "__main__":
    main()
