"""One run of one job: the batch pipeline in a thread of its own, and what its end means.

It knows no queue of jobs and no HTTP. A run that is stopped leaves the pipeline's journal, with which the next goes on.
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

__all__ = ["Run", "Runner", "no_room"]

logger = logging.getLogger(__name__)

CONCURRENCY = 2  # one call is computed while the next one waits
_OPTION = re.compile(r"--([a-z][a-z-]+)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(slots=True)
class Run:
    """A job while it is scored.

    Attributes:
        job: The job; changed on the event loop alone.
        stopped: Set when it is to end, for whatever reason.
        too_many_rows: Whether that is because it has more rows than it may.
        over: Set when nothing works on its files any more.
    """

    job: Job
    stopped: threading.Event = field(default_factory=threading.Event)
    too_many_rows: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Runner:
    """Runs jobs.

    Args:
        config: The reranker's settings.
        lifecycle: Owns the reranker.
        gate: Knows how many people wait.
        store: Where the files are.
        max_rows: Of one job.
        count_pairs: Is told of scored pairs, on the event loop.
    """

    def __init__(
        self,
        config: RerankConfig,
        lifecycle: Lifecycle,
        gate: AdmissionController,
        store: Store,
        *,
        max_rows: int,
        count_pairs: Callable[[int], None],
    ) -> None:
        # Top and threshold of ranking requests are their clients' alone; so are a job's.
        fixed = {"top_n": None, "min_score": None, "deadline_s": None, "admission": "wait"}
        self._config = config.replace(**fixed)
        self._lifecycle, self._gate, self._store = lifecycle, gate, store
        self._max_rows, self._count_pairs = max_rows, count_pairs

    async def run(self, run: Run, on_progress: Callable[[Progress], None]) -> BatchReport | Problem | None:
        """Score a job to its end.

        Args:
            run: The job.
            on_progress: Is told how far it is, on the event loop.

        Returns:
            The report when it is done, a problem when it has failed, None when it was stopped.
        """
        loop = asyncio.get_running_loop()

        def tell(told: BatchProgress) -> None:
            if told.num_rows > self._max_rows:
                run.too_many_rows = True
                run.stopped.set()
            loop.call_soon_threadsafe(on_progress, Progress.of(told))

        try:
            report = await in_daemon_thread(
                lambda: self._work(run, loop, tell), name=f"qwen-rerank-job-{run.job.id[:8]}"
            )
        except Exception as error:  # noqa: BLE001 (whatever it is, the job has ended)
            return self._outcome_of(run, error)
        if run.too_many_rows or report.num_rows > self._max_rows:
            return self._too_many_rows()
        return report if report.status == "complete" else None

    def _work(
        self, run: Run, loop: asyncio.AbstractEventLoop, tell: Callable[[BatchProgress], None]
    ) -> BatchReport:
        def stop() -> bool:
            return run.stopped.is_set() or self._lifecycle.state == "draining"

        def count(num_pairs: int) -> None:
            loop.call_soon_threadsafe(self._count_pairs, num_pairs)

        scorer = BackgroundScorer(self._lifecycle, self._gate, loop=loop, stop=stop, count=count)
        options = batch_options(run.job.spec, self._config, concurrency=CONCURRENCY)

        def score(*, resume: bool) -> BatchReport:
            return run_batch(
                self._store.input_path(run.job),
                self._store.result_path(run.job),
                reranker=Reranker(self._config, scorer=scorer),
                options=options,
                resume=resume,
                overwrite=True,
                on_progress=tell,
                stop=stop,
            )

        if self._store.journal_path(run.job).exists():
            try:
                return score(resume=True)
            except InputError:
                # Another model or other settings than before the restart: what was scored is worth nothing now.
                logger.warning("a job begins anew: its first scores do not fit this service's settings")
                self._store.start_over(run.job)
        return score(resume=False)

    def _outcome_of(self, run: Run, error: Exception) -> Problem | None:
        if run.too_many_rows:
            return self._too_many_rows()
        if run.stopped.is_set() or self._lifecycle.state == "draining":
            return None
        if not isinstance(error, RerankError | OSError):
            log_fault(error, f"job {run.job.id[:8]}")
        if no_room(error):
            return Problem(507, "there is no room for the job's files", reason="storage")
        if isinstance(error, InputError | MissingDependencyError):
            return Problem(422, self._for_client(run.job, str(error)), reason="input")
        return problem_of(error)

    def _for_client(self, job: Job, message: str) -> str:
        """Name the client's file in place of those here, and parameters in place of the command line's options."""
        upload = self._store.input_path(job)
        for path in (upload, self._store.result_path(job)):
            message = message.replace(str(path), job.spec.name).replace(path.name, job.spec.name)
        message = message.replace(f"{upload.parent}/", "").replace(str(upload.parent), "")
        return _OPTION.sub(lambda found: found[1].replace("-", "_"), message)

    def _too_many_rows(self) -> Problem:
        return Problem(413, f"too many rows; allowed: at most {self._max_rows!r}", reason="rows")


def no_room(error: BaseException | None) -> bool:
    """Whether an error comes from a disk, or a quota, that is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
