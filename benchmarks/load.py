"""From a warm file cache to a ready model: this core with and without its self-check, and transformers' `from_pretrained`.

    python benchmarks/load.py [--model DIR] [--dtype auto|bfloat16|float32] [--repeat 5]

Every load runs in its own process, alternating. Two clocks: `load`, from imported libraries to a model and a
tokenizer that can score; and `start`, from the start of the process to the first score, imports included. `first` is
a machine's first start, before the self-check's result is cached. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - the repository's root comes first
from rich.table import Table  # noqa: E402

from benchmarks import machine as machines  # noqa: E402
from benchmarks.core import random_checkpoint, say  # noqa: E402
from benchmarks.peers.runner import PREFIX, SUFFIX, body, peak_mb  # noqa: E402
from benchmarks.processes import environment, run_module  # noqa: E402

PAIR = ("how to wash a cat", "Cats are washed once a month, in warm water.")


def load_ours(
    model: str, dtype: str, threads: int, *, self_check: bool
) -> tuple[float, Callable[[], object]]:
    """Return seconds to a ready reranker, and a function that scores a pair."""
    import qwen_rerank_plugins.core.local_scorer
    from qwen_rerank_plugins import Reranker

    del qwen_rerank_plugins.core.local_scorer  # imported now, so that it is not timed
    start = time.perf_counter()
    reranker = Reranker(
        model=model,
        device="cpu",
        dtype=dtype,
        num_threads=threads,
        self_check=self_check,
        cache_entries=0,
    )
    reranker.info()
    return time.perf_counter() - start, lambda: reranker.score(PAIR[0], [PAIR[1]])


def load_transformers(model: str, dtype: str, threads: int) -> tuple[float, Callable[[], object]]:
    """Return seconds to a ready model and tokenizer, and a function that scores a pair."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.qwen3 import modeling_qwen3

    del modeling_qwen3  # imported now, so that it is not timed
    torch.set_num_threads(threads)
    start = time.perf_counter()
    tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    seconds = time.perf_counter() - start

    def score() -> object:
        inputs = tokenizer(f"{PREFIX}{body(*PAIR)}{SUFFIX}", return_tensors="pt")
        with torch.inference_mode():
            return loaded(**inputs, logits_to_keep=1).logits[0, -1].tolist()

    return seconds, score


LOADERS: dict[str, Callable[[str, str, int], tuple[float, Callable[[], object]]]] = {
    "first": lambda *settings: load_ours(*settings, self_check=True),
    "checked": lambda *settings: load_ours(*settings, self_check=True),
    "unchecked": lambda *settings: load_ours(*settings, self_check=False),
    "transformers": load_transformers,
}
TITLES = {
    "first": "ours, self-check run for the first time",
    "checked": "ours, self-check's result known",
    "unchecked": "ours, without self-check",
    "transformers": "transformers from_pretrained",
}


def child(options: argparse.Namespace) -> None:
    """Load, score one pair, and print the figures."""
    load_s, score = LOADERS[options.child](str(options.model), options.dtype, options.threads)
    load_peak_mb = peak_mb()
    score()
    start_s = time.time() - options.started
    print(json.dumps({"load_s": load_s, "start_s": start_s, "peak_mb": load_peak_mb}))


def measure(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """Start a process of a kind."""
    env = environment(options.work, options.threads)
    if kind == "first":
        shutil.rmtree(Path(env["XDG_CACHE_HOME"]) / "qwen-rerank", ignore_errors=True)
    settings = {"child": kind, "model": options.model, "dtype": options.dtype, "threads": options.threads}
    arguments = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    arguments += ["--started", repr(time.time())]
    output = run_module(Path(sys.executable), ["benchmarks.load", *arguments], env, timeout_s=600)
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def warm_files(model: Path) -> None:
    """Read the checkpoint once, so that no load waits for the disk."""
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def compare(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the best of each kind, from alternating processes. `first` precedes `checked`, which reads its result."""
    every: dict[str, list[dict[str, float]]] = {kind: [] for kind in LOADERS}
    for number in range(options.repeat):
        for kind, found in every.items():
            found.append(measure(kind, options))
            say(f"round {number + 1} of {options.repeat}: {TITLES[kind]}: {found[-1]['load_s']:.2f} s")
    return {
        kind: {
            **{name: round(min(one[name] for one in found), 4) for name in ("load_s", "start_s", "peak_mb")},
            "all_load_s": [round(one["load_s"], 4) for one in found],
        }
        for kind, found in every.items()
    }


def show(figures: dict[str, dict[str, Any]], facts: dict[str, Any]) -> None:
    """Print a table, and one line of JSON."""
    table = Table("", "load, s", "start to first score, s", "peak MB", "× transformers")
    base = figures["transformers"]["load_s"]
    for kind, found in figures.items():
        cells = (found["load_s"], found["start_s"], found["peak_mb"], found["load_s"] / base)
        table.add_row(TITLES[kind], *(f"{value:.{2 if value < 100 else 0}f}" for value in cells))
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    reached = figures["checked"]["load_s"] <= base and figures["unchecked"]["load_s"] <= base
    print(json.dumps({"benchmark": "load", **facts, "kinds": figures, "not_slower": reached}))


def best_dtype(machine: dict[str, Any]) -> str:
    """Return the dtype that "auto" selects here for a bf16 checkpoint; transformers uses the same."""
    return "bfloat16" if machines.multiplies_bf16(machine) else "float32"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line, including that of the child processes."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/load.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="default: random weights of the 0.6B shape")
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work", metavar="DIR")
    parser.add_argument("--child", choices=list(LOADERS), help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and show, or run as a measured process."""
    options = parse(arguments)
    if options.child:
        child(options)
        return
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    options.model = (options.model or random_checkpoint(options.work)).resolve()
    machine = machines.describe()
    options.dtype = best_dtype(machine) if options.dtype == "auto" else options.dtype
    warm_files(options.model)
    facts = {
        "machine": machine,
        "model": options.model.name,
        "dtype": options.dtype,
        "threads": options.threads,
    }
    show(compare(options), facts)


if __name__ == "__main__":
    main()
