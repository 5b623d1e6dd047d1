"""Whether a pair's score depends on its company: the protocol of docs/invariance.md, on this machine.

    python benchmarks/invariance.py                                   # the demo model in float32 on the CPU
    python benchmarks/invariance.py --model DIR --dtype bfloat16 --device cuda --pairs 8 --rounds 2

Every pair is scored alone, without a cache. Then one thing at a time is varied, and each score is compared with the one
alone. A table goes to standard output, and one line of JSON last. Exit code 1 means that a promised bound is broken.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - the repository's root comes first
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import machine  # noqa: E402
from benchmarks.workloads import make_workloads  # noqa: E402
from qwen_rerank_plugins import RerankConfig  # noqa: E402
from qwen_rerank_plugins.core.engine.engine import Engine, reference_log_odds  # noqa: E402
from qwen_rerank_plugins.core.prompts.encoder import PromptEncoder, TokenLimits  # noqa: E402
from qwen_rerank_plugins.core.runtime import load_runtime  # noqa: E402
from qwen_rerank_plugins.core.sequences import Segment  # noqa: E402
from qwen_rerank_plugins.types import ScoreRequest  # noqa: E402

PREFIX_CACHE_BYTES = 1 << 28

Scores = Mapping[int, float]
"""Index of a prompt → its log-odds in one trial."""


class Protocol:
    """Scores the same prompts in varied circumstances.

    Args:
        engine: The engine; its prefix cache is disabled.
        prompts: The prompts.
        rounds: Random trials of each variation.
        tolerance: Largest difference in log-odds that the number format explains.
    """

    def __init__(self, engine: Engine, prompts: Sequence[Segment], rounds: int, tolerance: float) -> None:
        self.engine = engine
        self.prompts = prompts
        self.rounds = rounds
        self.tolerance = tolerance
        self.random = random.Random(13)
        self.everyone = range(len(prompts))

    def alone(self) -> Scores:
        """Score each prompt in a forward pass of its own."""
        return self._batches([[index] for index in self.everyone])

    def orders(self) -> Iterator[Scores]:
        """All prompts in one batch, in the given order and in random ones."""
        yield self._batches([self.everyone])
        for _ in range(self.rounds):
            yield self._batches([self._sample(len(self.prompts))])

    def companies(self) -> Iterator[Scores]:
        """Random batches of random sizes, as the scheduler merges requests."""
        for _ in range(2 * self.rounds):
            yield self._batches([self._sample(self.random.randint(1, len(self.prompts)))])

    def splits(self) -> Iterator[Scores]:
        """The batch in halves, quarters and eighths, as after an out-of-memory error."""
        for parts in (2, 4, 8):
            yield self._batches([self.everyone[part::parts] for part in range(parts)])

    def cached_prefixes(self) -> Iterator[Scores]:
        """Keys and values of prefixes from the cache, stored there by one batch or by single prompts."""
        for first in ([self.everyone], [[index] for index in self.everyone]):
            self.engine.prefix_cache.max_bytes = PREFIX_CACHE_BYTES
            yield self._batches(first)
            yield self.alone()
            yield self._batches([self.everyone])
            self.engine.prefix_cache.clear()
            self.engine.prefix_cache.max_bytes = 0

    def threads(self) -> Iterator[Scores]:
        """One thread, and as many as there are cores."""
        before = torch.get_num_threads()
        for count in {1, os.cpu_count() or 1}:
            torch.set_num_threads(count)
            yield self.alone()
            yield self._batches([self.everyone])
        torch.set_num_threads(before)

    def segments(self) -> Iterator[Scores]:
        """Prompts of one segment each, so that nothing is shared."""
        whole = [
            Segment.after(None, tuple(i for segment in prompt.path() for i in segment.ids))
            for prompt in self.prompts
        ]
        yield dict(enumerate(self.engine.log_odds(whole)))

    def dense_attention(self) -> Iterator[Scores]:
        """The reference: nothing shared, and one dense mask."""
        yield dict(enumerate(reference_log_odds(self.engine.decoder, self.prompts, self.engine.scale)))

    def _sample(self, size: int) -> list[int]:
        return self.random.sample(self.everyone, size)

    def _batches(self, batches: Sequence[Sequence[int]]) -> Scores:
        found: dict[int, float] = {}
        for batch in batches:
            log_odds = self.engine.log_odds([self.prompts[index] for index in batch])
            found.update(zip(batch, log_odds, strict=True))
        return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores of one variation against those alone.

    Attributes:
        varied: What was varied.
        promised: Largest difference in log-odds that is promised; 0 promises the same bits.
        count: Scores compared.
        identical: Share of scores with the same bits.
        max_ulp: Largest difference in units in the last place of fp32.
        max_abs_diff: Largest difference in log-odds; infinite if one is NaN.
    """

    varied: str
    promised: float
    count: int
    identical: float
    max_ulp: int
    max_abs_diff: float

    @property
    def is_kept(self) -> bool:
        """Whether the promise holds."""
        return self.max_abs_diff <= self.promised

    @classmethod
    def of(cls, varied: str, promised: float, alone: Scores, trials: Iterator[Scores]) -> Comparison:
        """Compare all trials of a variation."""
        pairs = [(score, alone[index]) for scores in trials for index, score in scores.items()]
        ulps = [abs(_ordinal(a) - _ordinal(b)) for a, b in pairs]
        differences = [abs(a - b) if math.isfinite(a - b) else math.inf for a, b in pairs]
        return cls(varied, promised, len(pairs), ulps.count(0) / len(pairs), max(ulps), max(differences))


def _ordinal(value: float) -> int:
    """Return the place of an fp32 number among all of them, so that neighbours differ by one."""
    bits = int(torch.tensor(value, dtype=torch.float32).view(torch.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def compare(protocol: Protocol) -> list[Comparison]:
    """Run the protocol, with the bounds that docs/invariance.md promises for this engine."""
    bound = protocol.tolerance
    company = 0.0 if protocol.engine.decoder.is_batch_invariant else bound
    alone = protocol.alone()
    trials = {
        "one batch, any order": (company, protocol.orders),
        "batches of any size and company": (company, protocol.companies),
        "split batches": (company, protocol.splits),
        "prefixes from the cache": (company, protocol.cached_prefixes),
        "number of threads": (bound, protocol.threads),
        "nothing shared": (bound, protocol.segments),
        "dense attention": (bound, protocol.dense_attention),
    }
    return [Comparison.of(name, promised, alone, run()) for name, (promised, run) in trials.items()]


def open_protocol(options: argparse.Namespace) -> Protocol:
    """Load the model and encode the pairs: mixed lengths, titles, and a query per document."""
    settings = {name: getattr(options, name) for name in ("model", "device", "dtype", "quantization")}
    runtime = load_runtime(RerankConfig(**settings, num_threads=options.threads, prefix_cache_mb=0))
    encoder = PromptEncoder(runtime.tokenizer, runtime.family, TokenLimits())
    sizes = dict.fromkeys(("mixed", "short", "pairs"), options.pairs)
    workloads = make_workloads(lambda text: len(text.split()), sizes)
    requests = [ScoreRequest(*pair) for workload in workloads for pair in workload.pairs]
    prompts = [prompt for pair in encoder.encode(requests) for prompt in pair.prompts]
    runtime.close()  # the scheduler's worker alone uses the engine otherwise
    return Protocol(runtime.engines[0], prompts, options.rounds, runtime.checks[0].tolerance)


def show(engine: Engine, comparisons: Sequence[Comparison]) -> None:
    """Print the table, then the JSON line."""
    table = Table("varied", "scores", "identical", "max ulp", "max |Δlog-odds|", "promised", "kept")
    for one in comparisons:
        promised = f"{one.promised:g}" if one.promised else "identical"
        kept = "yes" if one.is_kept else "NO"
        numbers = (str(one.count), f"{one.identical:.1%}", str(one.max_ulp), f"{one.max_abs_diff:.3g}")
        table.add_row(one.varied, *numbers, promised, kept)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    rows = [{name: getattr(one, name) for name in one.__slots__} for one in comparisons]
    facts: dict[str, Any] = {"benchmark": "invariance", "machine": machine.describe()}
    info = engine.info()
    facts |= {name: info[name] for name in ("device", "dtype", "attention_backend")}
    print(json.dumps(facts | {"threads": torch.get_num_threads(), "comparisons": rows}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the protocol; return 1 if a promised bound is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="demo", help="folder or name of a checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--threads", type=int, help="default: torch's own number")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of each of three workloads")
    parser.add_argument("--rounds", type=int, default=10, help="random trials of each variation")
    protocol = open_protocol(parser.parse_args(arguments))
    comparisons = compare(protocol)
    show(protocol.engine, comparisons)
    return 0 if all(one.is_kept for one in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
