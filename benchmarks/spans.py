"""What relevant spans add to ranking: processor time of one thread.

    python benchmarks/spans.py [--model DIR] [--rounds 5]

Two calls, each with and without spans, alternating and without a score cache: 100 documents of ten sentences with
`top_n=5`, and 20 of them that are all returned. The last line of standard output is one JSON document. Exit code 1 means
that a ratio was above its goal, or that a span's log-odds differ by more than 1e-4 from those of its text alone.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import machine as machines  # noqa: E402 - the repository's root comes first
from benchmarks.core import say  # noqa: E402
from benchmarks.workloads import WORDS  # noqa: E402
from qwen_rerank_plugins import Reranker, SpanOptions  # noqa: E402

QUERY = "which of these harbours has a lighthouse"
NUM_SENTENCES, NUM_WORDS = 10, 15
MAX_DIFFERENCE = 1e-4
CASES = {"100 documents, top_n=5": (100, 5, 1.15), "20 documents, all returned": (20, None, 2.6)}
"""Name → documents, documents returned, and the goal: the highest ratio to plain ranking."""


def documents(count: int) -> list[str]:
    """Return texts of random words, the same in every run."""
    rng = random.Random(count)
    sentences = (" ".join(rng.choices(WORDS, k=NUM_WORDS)).capitalize() + "." for _ in iter(int, 1))
    return [" ".join(next(sentences) for _ in range(NUM_SENTENCES)) for _ in range(count)]


def measure(reranker: Reranker, count: int, top_n: int | None, rounds: int) -> dict[str, float]:
    """Return the lowest processor times of ranking without and with spans, and how exact the spans' scores are."""
    texts, times = documents(count), dict[bool, list[float]]({False: [], True: []})
    reranker.rank(QUERY, texts[:4])
    for _ in range(rounds):
        for with_spans, found in times.items():
            start = time.process_time()
            result = reranker.rank(
                QUERY, texts, top_n=top_n, spans=SpanOptions(max_spans=None) if with_spans else None
            )
            found.append(time.process_time() - start)
    differences = [0.0]
    for one in result.results[:2]:
        alone = [reranker.rank(QUERY, [texts[one.index][span.start : span.end]]) for span in one.spans]
        differences += [
            abs((span.log_odds or 0.0) - (single.results[0].log_odds or 0.0))
            for span, single in zip(one.spans, alone, strict=True)
        ]
    plain_s, spans_s = min(times[False]), min(times[True])
    return {
        "plain_s": round(plain_s, 4),
        "spans_s": round(spans_s, 4),
        "ratio": round(spans_s / plain_s, 3),
        "num_spans": sum(len(one.spans) for one in result.results),
        "max_difference": max(differences),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print one line per case for people, and a last line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a checkpoint; default: the demo")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    facts: dict[str, Any] = {"machine": machines.describe(), "cases": {}}
    with Reranker(model=options.model, dtype="float32", cache_entries=0, num_threads=1) as reranker:
        for name, (count, top_n, goal) in CASES.items():
            say(name)
            found = measure(reranker, count, top_n, options.rounds)
            print(
                f"{name}: {found['plain_s']} s, with spans {found['spans_s']} s: {found['ratio']} x (goal {goal})"
            )
            facts["cases"][name] = {**found, "goal": goal}
    print(json.dumps(facts))
    cases = facts["cases"].values()
    return int(any(one["ratio"] > one["goal"] or one["max_difference"] > MAX_DIFFERENCE for one in cases))


if __name__ == "__main__":
    sys.exit(main())
