"""A batch job that prints every step on standard output, to be killed at one of them: killed_job.py IN OUT."""

from __future__ import annotations

import sys

from qwen_rerank_plugins import Reranker
from qwen_rerank_plugins.batch import BatchOptions, progress, run_batch


def main(source: str, target: str) -> int:
    progress.REPORT_EVERY_S = 0.0
    options = BatchOptions(window_rows=50, call_pairs=20, on_bad_row="reject", details=True)
    with Reranker(backend="lexical") as reranker:
        run_batch(
            source,
            target,
            reranker=reranker,
            options=options,
            resume=True,
            on_progress=lambda one: print(one.phase, one.num_pairs, flush=True),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
