"""Runs a job: the batch pipeline in its own thread, and the outcome of a run.

It knows no queue of jobs and no HTTP. A stopped run leaves the pipeline's journal, from which the next run resumes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qwen_rerank_plugins.batch import BatchProgress, BatchReport, Guess, run_batch
from qwen_rerank_plugins.batch.streams import file_digest
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import InputError, MissingDependencyError, RerankError
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.service.admission import AdmissionController
from qwen_rerank_plugins.service.errors import Problem, problem_of
from qwen_rerank_plugins.service.jobs.background import BackgroundScorer
from qwen_rerank_plugins.service.jobs.records import Job
from qwen_rerank_plugins.service.jobs.spec import batch_options, client_message
from qwen_rerank_plugins.service.jobs.store import JOURNAL, Store
from qwen_rerank_plugins.service.lifecycle import Lifecycle, in_daemon_thread
from qwen_rerank_plugins.service.logs import log_fault

__all__ = ["Run", "is_disk_full"]

logger = logging.getLogger(__name__)

CONCURRENCY = 2  # one call is computed while the next one is queued
CALL_PAIRS = 32  # so that a stopped job, or one of a remote service, gives way soon
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SQLITE_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}


@dataclass(slots=True)
class Run:
    """One run of a job.

    Attributes:
        job: The job; only modified on the event loop.
        config: Settings of the reranker.
        lifecycle: Owns the reranker.
        admission: Number of pending requests.
        store: The files of jobs.
        max_rows: Maximum number of rows of a job.
        max_document_chars: Maximum characters of a document, as in requests.
        stopped: Whether the run must stop; `stop` sets it.
        scorer: Scores the job's pairs while it runs.
        saved_s: Monotonic time at which the progress was saved.
    """

    job: Job
    config: RerankConfig
    lifecycle: Lifecycle
    admission: AdmissionController
    store: Store
    max_rows: int
    max_document_chars: int
    stopped: threading.Event = field(default_factory=threading.Event)
    scorer: BackgroundScorer | None = None
    saved_s: float = field(default_factory=time.monotonic)

    def stop(self) -> None:
        """Stop the run. Call it on the event loop."""
        self.stopped.set()
        if self.scorer is not None:
            self.scorer.stop()

    async def outcome(
        self, on_progress: Callable[[Run, BatchProgress], None], count_pairs: Callable[[int], None]
    ) -> BatchReport | Problem | None:
        """Run the job.

        Args:
            on_progress: Called with the progress, on the event loop.
            count_pairs: Called with the number of scored pairs, on the event loop.

        Returns:
            The report of a finished job, the problem of a failed one, None if it was stopped.
        """
        loop, num_rows = asyncio.get_running_loop(), 0

        def forward(progress: BatchProgress) -> None:
            nonlocal num_rows
            num_rows = progress.num_rows
            if num_rows > self.max_rows:
                self.stopped.set()
            loop.call_soon_threadsafe(on_progress, self, progress)

        def note_guess(guess: Guess) -> None:
            loop.call_soon_threadsafe(setattr, self.job, "guess", guess)

        scorer = self.scorer = BackgroundScorer(self.lifecycle, self.admission, count=count_pairs)
        if self.stopped.is_set():
            scorer.stop()
        found: BatchReport | Problem | None
        try:
            report = await in_daemon_thread(
                lambda: self._rank(scorer, forward, note_guess), name=f"qwen-rerank-job-{self.job.id[:8]}"
            )
            num_rows, found = report.num_rows, report if report.status == "complete" else None
        except Exception as error:  # noqa: BLE001 (any error ends the job)
            found = None if self._is_stopped() else self._problem(error)
        if num_rows > self.max_rows:
            return Problem(413, f"too many rows; upload at most {self.max_rows!r}", reason="rows")
        return found

    def _is_stopped(self) -> bool:
        return self.stopped.is_set() or self.lifecycle.state == "draining"

    def _rank(
        self,
        scorer: BackgroundScorer,
        on_progress: Callable[[BatchProgress], None],
        on_guess: Callable[[Guess], None],
    ) -> BatchReport:
        digest = file_digest(self.store.input_path(self.job))
        if not digest.startswith(self.job.digest or f"{self.job.num_bytes}:"):
            found, expected = digest.partition(":")[0], self.job.num_bytes
            change = "other content" if int(found) == expected else f"{found} bytes instead of {expected}"
            raise InputError(
                f"the uploaded file was changed on the service's disk: {change}; upload it again"
            )
        # Only the client sets top_n and min_score, as for requests.
        config = self.config.replace(top_n=None, min_score=None, deadline_s=None, admission="wait")
        options = batch_options(self.job, config, concurrency=CONCURRENCY)
        limits = {
            "call_pairs": min(options.call_pairs, CALL_PAIRS),
            "max_document_chars": self.max_document_chars,
        }
        options = options.model_copy(update=limits)

        def rank() -> BatchReport:
            return run_batch(
                self.store.input_path(self.job),
                self.store.result_path(self.job),
                reranker=Reranker(config, scorer=scorer),
                options=options,
                resume=True,
                overwrite=True,
                on_progress=on_progress,
                on_guess=on_guess,
                stop=self._is_stopped,
            )

        has_journal = self.store.result_path(self.job, JOURNAL).exists()
        try:
            return rank()
        except InputError:
            if not has_journal:
                raise
            # The model or settings changed at the restart, so the earlier scores are invalid.
            logger.warning(
                "restarting a job: its earlier scores were made with another model or other settings"
            )
            self.store.keep(self.job, self.store.input_path(self.job))
            return rank()

    def _problem(self, error: Exception) -> Problem:
        if not isinstance(error, RerankError | OSError):
            log_fault(error, f"job {self.job.id[:8]}")
        if is_disk_full(error):
            return Problem(507, "no disk space left for the job's files", reason="storage")
        if isinstance(error, InputError | MissingDependencyError):
            paths = (self.store.input_path(self.job), self.store.result_path(self.job))
            return Problem(422, client_message(str(error), self.job.name, *paths), reason="input")
        return problem_of(error)


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether the cause of an error is a full disk or quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) in _SQLITE_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
