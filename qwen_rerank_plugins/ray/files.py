"""Run a batch job whose pairs are scored by the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable

from qwen_rerank_plugins.batch import BatchOptions, BatchProgress, BatchReport, run_batch
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.ray.actor_pool import ActorPoolScorer, ActorPoolSettings
from qwen_rerank_plugins.reranker import Reranker

__all__ = ["rerank_file"]


def rerank_file(  # noqa: PLR0913 (the parameters of `run_batch`, and the workers)
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    config: RerankConfig,
    options: BatchOptions | None = None,
    pool: ActorPoolSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[BatchProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> BatchReport:
    """Score and rank the pairs or the lists of a file on a cluster.

    Runs the job of `qwen_rerank_plugins.batch.run_batch`: files, rows and journal stay in this process, and only texts
    and scores travel. A job that was started on one machine can be resumed on a cluster, and vice versa.

    Args:
        source: CSV, JSON Lines or Parquet.
        target: The output; it appears under this name once it is complete.
        config: The reranker's settings, for every worker.
        options: The options; None for the section `batch` of the configuration. If `concurrency` is None, as many calls
            are in flight as keep every worker busy.
        pool: The workers; None for one worker.
        resume: Continue an unfinished job, if there is one.
        overwrite: Replace an existing output; without `resume`, discard an unfinished job.
        on_progress: Called with the progress several times a second, in the calling thread.
        stop: Called several times a second; the job stops when it returns True, and can be resumed.

    Raises:
        InputError: A file, a column or a row is not valid, or a file exists that would be lost.
        WorkerDiedError: A worker was lost at every attempt; `resume` continues with the scores so far.
        RerankError: Scoring failed, or a file cannot be written; `resume` continues with the scores so far.
    """
    chosen = BatchOptions.from_config(config) if options is None else options
    with ActorPoolScorer(config, pool) as scorer, Reranker(config, scorer=scorer) as reranker:
        if chosen.concurrency is None:
            chosen = chosen.model_copy(update={"concurrency": scorer.max_concurrency})
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
