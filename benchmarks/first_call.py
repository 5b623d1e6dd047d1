"""How long the event loop stands still beside the first `arank`, cold and after `awarm_up`.

    python benchmarks/first_call.py [--model DIR] [--rounds 3]

Each measurement is a process of its own. A task that sleeps for 5 ms at a time notes how much later it wakes. The last line of
standard output is one JSON document. Exit code 1 means that a goal was not reached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qwen_rerank_plugins import Reranker  # noqa: E402 - the repository's root comes first

TICK_S = 0.005
MAX_WARM_STALL_S = 0.05


async def measure(model: str, *, warm: bool) -> dict[str, float]:
    """Return the longest stall beside the first call, and the call's duration, in seconds."""
    stalls = [0.0]

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.perf_counter()
            stalls.append(now - last - TICK_S)
            last = now

    async with Reranker(model=model) as reranker:
        if warm:
            await reranker.awarm_up()
        ticker = asyncio.create_task(tick())
        await asyncio.sleep(10 * TICK_S)
        start = time.perf_counter()
        await reranker.arank("which harbour has a lighthouse", [f"harbour number {n}" for n in range(15)])
        call_s = time.perf_counter() - start
        await asyncio.sleep(10 * TICK_S)
        ticker.cancel()
    return {"stall_s": max(stalls), "call_s": call_s}


def main(arguments: list[str] | None = None) -> int:
    """Print the least of each figure, cold and warm, as JSON: other programs on the machine only add to it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="the model (default: the demo)")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure")
    parser.add_argument("--once", choices=["cold", "warm"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once:
        print(json.dumps(asyncio.run(measure(options.model, warm=options.once == "warm"))))
        return 0
    figures = {}
    for kind in ("cold", "warm"):
        command = [sys.executable, __file__, "--model", options.model, "--once", kind]
        outputs = [subprocess.check_output(command, text=True) for _ in range(options.rounds)]
        found = [json.loads(output.splitlines()[-1]) for output in outputs]
        figures[kind] = {name: min(one[name] for one in found) for name in found[0]}
    print(json.dumps(figures))
    return 0 if figures["warm"]["stall_s"] <= MAX_WARM_STALL_S else 1


if __name__ == "__main__":
    sys.exit(main())
