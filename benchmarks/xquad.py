"""Convert questions and paragraphs in SQuAD's format into a BEIR folder, for `qwen-rerank evaluate`.

    python benchmarks/xquad.py --data DIR/xquad.en.json --out xquad-en --sample 200
    qwen-rerank evaluate --dataset xquad-en --model demo --depth 20

A question's own paragraph is relevant, and no other is. The project has no copy of such data and never trains on
it: XQuAD is google-deepmind/xquad, CC BY-SA 4.0.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def paragraphs_of(data: Path) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield every paragraph's id, text and questions."""
    for place, article in enumerate(json.loads(data.read_text(encoding="utf-8"))["data"], start=1):
        for number, paragraph in enumerate(article["paragraphs"], start=1):
            yield f"{place}-{number}", paragraph["context"], paragraph["qas"]


def convert(data: Path, out: Path, *, sample: int, seed: int) -> tuple[int, int]:
    """Write corpus, queries and judgements, and return the numbers of paragraphs and questions.

    Args:
        data: A file in SQuAD's format.
        out: The folder, created if missing.
        sample: Number of questions; 0 selects all. The same for every language with the same ids.
        seed: Seed of the sample.
    """
    paragraphs = list(paragraphs_of(data))
    asked = [(str(one["id"]), one["question"], doc_id) for doc_id, _, rows in paragraphs for one in rows]
    if sample:
        chosen = set(random.Random(seed).sample(sorted(row[0] for row in asked), min(sample, len(asked))))
        asked = [row for row in asked if row[0] in chosen]
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    _write(
        out / "corpus.jsonl", ({"_id": doc_id, "title": "", "text": text} for doc_id, text, _ in paragraphs)
    )
    _write(out / "queries.jsonl", ({"_id": query_id, "text": text} for query_id, text, _ in asked))
    lines = [f"{query_id}\t{doc_id}\t1\n" for query_id, _, doc_id in asked]
    (out / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    return len(paragraphs), len(asked)


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def main() -> None:
    """Convert one file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="for example xquad.en.json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--sample", type=int, default=0, help="questions to take; 0 takes all")
    parser.add_argument("--seed", type=int, default=5, help="of the sample")
    arguments = parser.parse_args()
    paragraphs, questions = convert(
        arguments.data, arguments.out, sample=arguments.sample, seed=arguments.seed
    )
    print(json.dumps({"paragraphs": paragraphs, "questions": questions, "out": str(arguments.out)}))


if __name__ == "__main__":
    main()
