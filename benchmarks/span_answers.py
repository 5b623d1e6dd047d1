"""How often a question's answer is in the most relevant spans of its paragraph, and what compression keeps.

    python benchmarks/span_answers.py --data DIR/xquad.en.json [--model NAME] [--sample 200]

For data in SQuAD's format, which has the place of each answer. Every question is ranked against its own paragraph. The
share of answers is compared with that of random spans, and of the first ones. Compression keeps the best spans and their
neighbours; its share of characters stands beside the share of answers that it keeps. The last line of standard output is
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.core import say  # noqa: E402 - the repository's root comes first
from benchmarks.xquad import paragraphs_of  # noqa: E402
from qwen_rerank_plugins import RankedDocument, Reranker, SpanOptions  # noqa: E402
from qwen_rerank_plugins.adapters import SpanParameters  # noqa: E402

COUNTS = (1, 2, 3)
BATCH = 16

Question = tuple[str, str, tuple[int, int]]
"""Question, paragraph, and the answer's place in it."""


def questions_of(data: Path, *, sample: int, seed: int) -> list[Question]:
    """Return a sample of questions; 0 for all."""
    asked = [
        (one["question"], text, _place(one["answers"][0]))
        for _, text, rows in paragraphs_of(data)
        for one in rows
    ]
    return random.Random(seed).sample(asked, min(sample, len(asked))) if sample else asked


def _place(answer: dict[str, Any]) -> tuple[int, int]:
    return answer["answer_start"], answer["answer_start"] + len(answer["text"])


def ranked(reranker: Reranker, asked: Sequence[Question]) -> Iterator[tuple[Question, RankedDocument]]:
    """Yield each question with its paragraph, whose spans are ranked."""
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        results = reranker.rank_many(
            [one[0] for one in part], [[one[1]] for one in part], spans=SpanOptions(max_spans=None)
        )
        yield from zip(part, (one.results[0] for one in results), strict=True)
        say(f"{min(start + BATCH, len(asked))} of {len(asked)} questions")


def holds(spans: Sequence[tuple[int, int]], place: tuple[int, int]) -> bool:
    """Whether one of the spans has the whole answer."""
    return any(start <= place[0] and place[1] <= end for start, end in spans)


def measure(reranker: Reranker, asked: Sequence[Question], *, seed: int) -> dict[str, Any]:
    """Return the shares of answers in the best, the first and random spans, and in shortened paragraphs."""
    rng = random.Random(seed)
    hits: dict[str, int] = {}
    lengths: dict[str, float] = {}
    num_spans = 0
    for (_, text, place), document in ranked(reranker, asked):
        best = [(span.start, span.end) for span in document.spans]
        num_spans += len(best)
        orders = {"best": best, "first": sorted(best), "random": rng.sample(best, len(best))}
        for name, order in orders.items():
            for count in COUNTS:
                key = f"{name} {count}"
                hits[key] = hits.get(key, 0) + holds(order[:count], place)
        for count in COUNTS:
            for context in (0, 1):
                parameters = SpanParameters(
                    spans=SpanOptions(max_spans=count), compress="spans", context=context
                )
                excerpt = parameters.excerpt(document, text, lambda span: span)
                assert excerpt is not None
                kept = excerpt.kept if excerpt.text is not None else ((0, len(text)),)
                key = f"compressed {count}, context {context}"
                hits[key] = hits.get(key, 0) + holds(kept, place)
                lengths[key] = lengths.get(key, 0.0) + len(excerpt.text or text) / len(text)
    return {
        "questions": len(asked),
        "spans_per_paragraph": num_spans / len(asked),
        "answers": {key: found / len(asked) for key, found in hits.items()},
        "characters": {key: total / len(asked) for key, total in lengths.items()},
    }


def main() -> None:
    """Measure one file with one model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="SQuAD's format: xquad.en.json"
    )
    parser.add_argument("--model", default="demo", help="name, folder or file (default: demo)")
    parser.add_argument("--sample", type=int, default=200, help="questions; 0 for all (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    arguments = parser.parse_args()
    asked = questions_of(arguments.data, sample=arguments.sample, seed=arguments.seed)
    with Reranker(model=arguments.model, dtype="float32") as reranker:
        found = measure(reranker, asked, seed=arguments.seed)
    print(json.dumps({"data": arguments.data.name, "model": arguments.model, **found}))


if __name__ == "__main__":
    main()
