"""A batch job of `qwen_rerank_plugins.batch` whose scores come from the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable

from qwen_rerank_plugins.batch import BatchOptions, BatchProgress, BatchReport, run_batch
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.ray.actor_pool import ActorPoolScorer, Pool
from qwen_rerank_plugins.reranker import Reranker

__all__ = ["rerank_file"]


def rerank_file(  # noqa: PLR0913 (those of `run_batch`, and the workers)
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    config: RerankConfig,
    options: BatchOptions | None = None,
    pool: Pool | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[BatchProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> BatchReport:
    """Score and rank the pairs of a file, or its lists, on a cluster; the file is written anew, here.

    It is the very job of `qwen-rerank batch`: files, rows and journal are this process's, and only texts and scores
    travel. A job that was begun on one machine can be resumed on a cluster, and the other way round.

    Args:
        source: CSV, JSON lines or Parquet.
        target: What is written; there as a whole, or not at all.
        config: The reranker's settings, for every worker.
        options: How; None for the section `batch` of the configuration. Unless it says otherwise, as many calls are
            under way as keep every worker busy.
        pool: The workers; None for one.
        resume: Go on with an unfinished job, if there is one.
        overwrite: Replace an output that is there; without `resume`, throw an unfinished job away.
        on_progress: Hears how far it is, a few times a second, in the calling thread.
        stop: Asked a few times a second; True ends the job where it is, to be resumed.

    Raises:
        InputError: A file, a column or a row is not what it must be, or something is there that would be lost.
        WorkerDiedError: Workers died at every attempt; `resume` goes on with what is kept.
        RerankError: Scoring failed, or a file cannot be written; `resume` goes on with what is kept.
    """
    chosen = BatchOptions.from_config(config) if options is None else options
    with ActorPoolScorer(config, pool) as scorer, Reranker(config, scorer=scorer) as reranker:
        if chosen.concurrency is None:
            chosen = chosen.model_copy(update={"concurrency": scorer.num_calls})
        return run_batch(
            source,
            target,
            reranker=reranker,
            options=chosen,
            resume=resume,
            overwrite=overwrite,
            on_progress=on_progress,
            stop=stop,
        )
