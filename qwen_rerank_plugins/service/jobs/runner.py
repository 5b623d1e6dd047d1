"""Runs a job: the batch pipeline in its own thread, and the outcome of a run.

It knows no queue of jobs and no HTTP. A stopped run leaves the pipeline's journal, from which the next run resumes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from qwen_rerank_plugins.batch import BatchProgress, BatchReport, run_batch
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import InputError, MissingDependencyError, RerankError
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.service.admission import AdmissionController
from qwen_rerank_plugins.service.errors import Problem, problem_of
from qwen_rerank_plugins.service.jobs.background import BackgroundScorer
from qwen_rerank_plugins.service.jobs.records import Job, Progress
from qwen_rerank_plugins.service.jobs.spec import batch_options
from qwen_rerank_plugins.service.jobs.store import Store
from qwen_rerank_plugins.service.lifecycle import Lifecycle, in_daemon_thread
from qwen_rerank_plugins.service.logs import log_fault

__all__ = ["Run", "Runner", "is_disk_full"]

logger = logging.getLogger(__name__)

CONCURRENCY = 2  # one call is computed while the next one is queued
CALL_PAIRS = 32  # so that a stopped job, or one of a remote service, gives way soon
_OPTION = re.compile(r"--([a-z][a-z-]+)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(slots=True)
class Run:
    """A running job.

    Attributes:
        job: The job; only modified on the event loop.
        stopped: Set to stop the run.
        too_many_rows: Whether it was stopped because it has too many rows.
        over: Set when the run no longer uses the files.
        scorer: Scores the job's pairs once it runs.
    """

    job: Job
    stopped: threading.Event = field(default_factory=threading.Event)
    too_many_rows: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    scorer: BackgroundScorer | None = None

    def stop(self) -> None:
        """Stop the run. Call it on the event loop."""
        self.stopped.set()
        if self.scorer is not None:
            self.scorer.stop()


class Runner:
    """Runs jobs.

    Args:
        config: Settings of the reranker.
        lifecycle: Owns the reranker.
        admission: Number of pending requests.
        store: The files of jobs.
        max_rows: Maximum number of rows of a job.
        count_pairs: Called with the number of scored pairs, on the event loop.
    """

    def __init__(
        self,
        config: RerankConfig,
        lifecycle: Lifecycle,
        admission: AdmissionController,
        store: Store,
        *,
        max_rows: int,
        count_pairs: Callable[[int], None],
    ) -> None:
        # Only the client sets top_n and min_score, as for requests.
        fixed = {"top_n": None, "min_score": None, "deadline_s": None, "admission": "wait"}
        self._config = config.replace(**fixed)
        self._lifecycle, self._admission, self._store = lifecycle, admission, store
        self._max_rows, self._count_pairs = max_rows, count_pairs

    async def run(self, run: Run, on_progress: Callable[[Progress], None]) -> BatchReport | Problem | None:
        """Run a job.

        Args:
            run: The job.
            on_progress: Called with the progress, on the event loop.

        Returns:
            The report of a finished job, the problem of a failed one, None if it was stopped.
        """
        loop = asyncio.get_running_loop()

        def forward(progress: BatchProgress) -> None:
            if progress.num_rows > self._max_rows:
                run.too_many_rows = True
                run.stopped.set()
            loop.call_soon_threadsafe(on_progress, Progress.of(progress))

        run.scorer = BackgroundScorer(self._lifecycle, self._admission, count=self._count_pairs)
        if run.stopped.is_set():
            run.scorer.stop()
        try:
            report = await in_daemon_thread(
                lambda: self._work(run, forward), name=f"qwen-rerank-job-{run.job.id[:8]}"
            )
        except Exception as error:  # noqa: BLE001 (any error ends the job)
            return self._outcome(run, error)
        if run.too_many_rows or report.num_rows > self._max_rows:
            return self._row_limit_problem()
        return report if report.status == "complete" else None

    def _work(self, run: Run, on_progress: Callable[[BatchProgress], None]) -> BatchReport:
        def stop() -> bool:
            return run.stopped.is_set() or self._lifecycle.state == "draining"

        options = batch_options(run.job.spec, self._config, concurrency=CONCURRENCY)
        options = options.model_copy(update={"call_pairs": min(options.call_pairs, CALL_PAIRS)})

        def score(*, resume: bool) -> BatchReport:
            return run_batch(
                self._store.input_path(run.job),
                self._store.result_path(run.job),
                reranker=Reranker(self._config, scorer=run.scorer),
                options=options,
                resume=resume,
                overwrite=True,
                on_progress=on_progress,
                stop=stop,
            )

        if self._store.journal_path(run.job).exists():
            try:
                return score(resume=True)
            except InputError:
                # The model or settings changed at the restart, so the earlier scores are invalid.
                logger.warning(
                    "restarting a job: its earlier scores were made with another model or other settings"
                )
                self._store.start_over(run.job)
        return score(resume=False)

    def _outcome(self, run: Run, error: Exception) -> Problem | None:
        if run.too_many_rows:
            return self._row_limit_problem()
        if run.stopped.is_set() or self._lifecycle.state == "draining":
            return None
        if not isinstance(error, RerankError | OSError):
            log_fault(error, f"job {run.job.id[:8]}")
        if is_disk_full(error):
            return Problem(507, "no disk space left for the job's files", reason="storage")
        if isinstance(error, InputError | MissingDependencyError):
            return Problem(422, self._client_message(run.job, str(error)), reason="input")
        return problem_of(error)

    def _client_message(self, job: Job, message: str) -> str:
        """Replace paths by the name of the client's file, and command-line options by parameters."""
        upload = self._store.input_path(job)
        for path in (upload, self._store.result_path(job)):
            message = message.replace(str(path), job.spec.name).replace(path.name, job.spec.name)
        message = message.replace(f"{upload.parent}/", "").replace(str(upload.parent), "")
        return _OPTION.sub(lambda found: found[1].replace("-", "_"), message)

    def _row_limit_problem(self) -> Problem:
        return Problem(413, f"too many rows; upload at most {self._max_rows!r}", reason="rows")


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether the cause of an error is a full disk or quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
