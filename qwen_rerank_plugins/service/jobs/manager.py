"""Manages all jobs of a service: limits, queue, runs, and expiry.

Everything runs on the event loop, except disk access, which has one thread, so that files change in the order of the
calls. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from qwen_rerank_plugins.batch import BatchReport
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.service.admission import AdmissionController
from qwen_rerank_plugins.service.errors import Problem, ProblemError, overloaded, problem_of
from qwen_rerank_plugins.service.jobs.metrics import JobMetrics
from qwen_rerank_plugins.service.jobs.records import FILES_PER_UPLOAD, Job, JobSpec, Progress, new_id
from qwen_rerank_plugins.service.jobs.runner import Run, Runner, is_disk_full
from qwen_rerank_plugins.service.jobs.store import Store
from qwen_rerank_plugins.service.lifecycle import Lifecycle
from qwen_rerank_plugins.service.logs import log_fault
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["JobManager"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SAVE_EVERY_S = 5.0
SWEEP_EVERY_S = 30.0
POLL_S = 0.1
STOP_S = 10.0  # for running jobs to stop
RETRY_AFTER_S = 60.0  # for a key that has reached jobs_max_per_key
COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")


class JobManager:
    """The jobs of a service.

    Args:
        config: Settings of the reranker.
        settings: Settings of the service, with a `jobs_folder`.
        lifecycle: Owns the reranker.
        admission: Number of pending requests.

    Raises:
        ConfigurationError: The folder cannot be used.
    """

    def __init__(
        self,
        config: RerankConfig,
        settings: ServiceSettings,
        lifecycle: Lifecycle,
        admission: AdmissionController,
    ) -> None:
        assert settings.jobs_folder is not None
        self._settings, self._lifecycle = settings, lifecycle
        self._store = Store(Path(settings.jobs_folder))
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="qwen-rerank-jobs")
        self._jobs: dict[str, Job] = {}
        self._runs: dict[str, Run] = {}
        self._uploads: dict[str, Job] = {}  # incomplete uploads
        self._served_s: dict[str, float] = {}  # owner → monotonic time at which their last job started
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._is_closing = False
        self.metrics = JobMetrics(self._jobs)
        self._runner = Runner(
            config,
            lifecycle,
            admission,
            self._store,
            max_rows=settings.jobs_max_rows,
            count_pairs=self.metrics.add_pairs,
        )

    # Lifecycle.

    async def start(self) -> None:
        """Load the jobs of an earlier process, and start scoring."""
        for job in await self._on_disk(self._store.load):
            if job.is_cancelled:
                await self._on_disk(self._store.remove, job.id)
                continue
            self._jobs[job.id] = job
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._settings.jobs_concurrency)]
        self._tasks.append(asyncio.create_task(self._sweep()))

    async def stop(self) -> None:
        """Stop running jobs, so that the next process resumes them, and release the folder."""
        self._is_closing = True
        for run in self._runs.values():
            run.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                for run in list(self._runs.values()):
                    await run.over.wait()
        if self._runs:
            logger.warning("a job did not stop in time; the next process resumes it from its last call")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._disk.shutdown)
        self._store.close()

    def close(self) -> None:
        """Release the folder if nothing was started."""
        self._store.close()

    # Requests of clients.

    def list_for(self, owner: str) -> list[Job]:
        """Return the jobs of an owner, newest first."""
        mine = [job for job in self._jobs.values() if job.owner == owner and not job.is_cancelled]
        return sorted(mine, key=lambda job: job.created_s, reverse=True)

    def get(self, owner: str, job_id: str) -> Job:
        """Return a job of an owner.

        Raises:
            ProblemError: With status 404, also for the job of another owner.
        """
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner or job.is_cancelled:
            raise ProblemError(Problem(404, "not found: no such job", reason="job"))
        return job

    def num_ahead(self, job: Job) -> int | None:
        """Return the number of jobs before a queued one; None for other jobs."""
        if job.state != "queued":
            return None
        order = self._queue()
        return len(self._runs) + order.index(job) if job in order else None

    def check_room(self, owner: str, num_bytes: int) -> None:
        """Reject an upload that exceeds a limit.

        Raises:
            ProblemError: With status 429 for too many jobs, 503 while the service drains, 507 for too many bytes.
        """
        if self._lifecycle.state == "draining":
            self._lifecycle.check_ready()
        mine = sum(job.owner == owner for job in (*self._jobs.values(), *self._uploads.values()))
        if mine >= self._settings.jobs_max_per_key:
            message = f"too many jobs: {mine}, and the limit is {self._settings.jobs_max_per_key}; delete a job, or wait"
            raise ProblemError(overloaded(message, RETRY_AFTER_S, reason="jobs"))
        self._check_bytes(num_bytes)

    def _check_bytes(self, num_bytes: int) -> None:
        stored = sum(job.stored_bytes for job in (*self._jobs.values(), *self._uploads.values()))
        if stored + FILES_PER_UPLOAD * num_bytes > self._settings.jobs_max_total_bytes:
            raise ProblemError(_full())

    async def add(self, owner: str, spec: JobSpec, pieces: AsyncIterator[bytes], declared: int) -> Job:
        """Store an upload and queue its job. The job is durable on return; nothing is left after an error.

        Args:
            owner: The owner.
            spec: The request.
            pieces: The content of the upload.
            declared: Its declared size, or 0.

        Raises:
            ProblemError: With status 400 (empty), 415 (compressed), 429, 503 or 507.
        """
        self.check_room(owner, declared)
        job = Job(new_id(), owner, spec, declared)
        self._uploads[job.id] = job
        file: BinaryIO | None = None
        try:
            file = await self._on_disk(self._store.begin, job)
            await self._receive(job, file, pieces)
            await self._on_disk(self._store.commit, job, file)
        except BaseException as error:
            self._disk.submit(self._store.discard, job, file)
            if is_disk_full(error):
                raise ProblemError(_full()) from error
            raise
        finally:
            del self._uploads[job.id]
        self._jobs[job.id] = job
        self._news.set()
        _log("job queued", job)
        return job

    async def _receive(self, job: Job, file: BinaryIO, pieces: AsyncIterator[bytes]) -> None:
        size = 0
        async for piece in pieces:
            if piece and not size:
                _check_beginning(piece, job.spec.input_format)
            size += len(piece)
            if size > job.num_bytes:
                self._check_bytes(size - job.num_bytes)
                job.num_bytes = size
            await self._on_disk(file.write, piece)
        if not size:
            raise ProblemError(Problem(400, "the upload is empty; send the file as the body", reason="body"))

    async def remove(self, job: Job) -> None:
        """Cancel a job and delete its files."""
        before, job.state = job.state, "cancelled"
        run = self._runs.get(job.id)
        if run is not None:
            await self._save(job)  # in case the process dies before the run stops
            run.stop()
            return
        await self._forget(job)
        if before == "queued":
            self.metrics.add_finished(job)

    def result(self, job: Job) -> Path:
        """Return the path of the result.

        Raises:
            ProblemError: With status 409: the job has no result.
        """
        if job.state != "done":
            raise ProblemError(Problem(409, f"the job has no result: it is {job.state}", reason="job"))
        return self._store.result_path(job)

    def rejected(self, job: Job) -> Path:
        """Return the path of the rejected rows.

        Raises:
            ProblemError: With status 409: there are none, or the job is not finished.
        """
        if not job.is_finished:
            raise ProblemError(Problem(409, f"the job is not finished: it is {job.state}", reason="job"))
        if job.rejected_bytes is None:
            raise ProblemError(Problem(409, "the job rejected no row", reason="job"))
        return self._store.rejected_path(job)

    # Scoring.

    async def _work(self) -> None:
        while not self._is_closing:
            job = next(iter(self._queue()), None) if self._lifecycle.state == "ready" else None
            if job is None:
                await self._wait()
                continue
            run = self._runs[job.id] = Run(job)
            try:
                await self._run(run)
            except Exception as error:  # noqa: BLE001 (one job must not stop the others)
                log_fault(error, f"job {job.id[:8]}")
                job.fail(problem_of(error))
            finally:
                del self._runs[job.id]
                run.over.set()

    async def _wait(self) -> None:
        """Wait for a job. Readiness of the engine is polled, since nothing signals it."""
        self._news.clear()
        waiting = None if self._lifecycle.state == "ready" and not self._queue() else POLL_S
        with suppress(TimeoutError):
            async with asyncio.timeout(waiting):
                await self._news.wait()

    def _queue(self) -> list[Job]:
        """Return the unfinished jobs in order: started ones, then round-robin over owners, least recently served first."""
        open_jobs = [job for job in self._jobs.values() if not job.is_finished and job.id not in self._runs]
        mine = dict[str, int]()
        places = {}
        for job in sorted(open_jobs, key=lambda job: job.created_s):
            places[job.id] = mine[job.owner] = mine.get(job.owner, -1) + 1
        return sorted(
            open_jobs,
            key=lambda job: (
                job.started_s is None,
                places[job.id],
                self._served_s.get(job.owner, 0.0),
                job.created_s,
            ),
        )

    async def _run(self, run: Run) -> None:
        job = run.job
        job.state, job.started_s = "running", job.started_s or time.time()
        self._served_s[job.owner] = time.monotonic()
        await self._save(job)
        _log("job running", job)
        outcome = await self._runner.run(run, self._progress_of(run))
        if outcome is None and not job.is_cancelled:
            await self._save(job)  # the service stops; the next process resumes the job
            return
        # A copy, published only when its files are complete; until then the job can still be cancelled.
        ended = replace(job)
        if outcome is not None and not job.is_cancelled:
            self._end(ended, outcome)
            await self._durably(self._store.finish, ended)
        if job.is_cancelled:
            ended.state = "cancelled"
            await self._forget(job)
        else:
            self._jobs[job.id] = ended
        self.metrics.add_finished(ended)
        _log(f"job {ended.state}", ended)

    def _progress_of(self, run: Run) -> Callable[[Progress], None]:
        saved_s, phase = time.monotonic(), ""
        base = run.job.progress.num_rows

        def note(progress: Progress) -> None:
            nonlocal saved_s, phase, base
            run.job.progress = progress
            self.metrics.add_rows(progress.num_rows - base)
            base = max(base, progress.num_rows)
            now = time.monotonic()
            if run.job.state == "running" and (progress.phase != phase or now - saved_s > SAVE_EVERY_S):
                saved_s, phase = now, progress.phase
                self._disk.submit(self._store.save, run.job.id, run.job.as_json())

        return note

    @staticmethod
    def _end(job: Job, outcome: BatchReport | Problem) -> None:
        if isinstance(outcome, Problem):
            job.fail(outcome)
            return
        job.state, job.finished_s = "done", time.time()
        job.model, job.num_written = Path(outcome.model).name or outcome.model, outcome.num_written
        rows, pairs, rejected = outcome.num_rows, outcome.num_pairs, outcome.num_rejected
        job.progress = Progress("writing", 1.0, rows, pairs, rejected, outcome.pairs_per_s, 0.0)

    # Expiry and disk.

    async def _sweep(self) -> None:
        """Delete expired jobs."""
        while True:
            before = time.time() - self._settings.jobs_retention_s
            for job in list(self._jobs.values()):
                if job.finished_s is not None and job.finished_s < before:
                    await self._forget(job)
                    _log("job expired", job)
            await asyncio.sleep(min(SWEEP_EVERY_S, self._settings.jobs_retention_s / 4))

    async def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        await self._on_disk(self._store.remove, job.id)

    async def _save(self, job: Job) -> None:
        await self._durably(self._store.save, job.id, job.as_json())

    async def _durably(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Write to disk. After a failure, a new process would only repeat some work."""
        try:
            await self._on_disk(work, *args, **kwargs)
        except OSError as error:
            logger.warning("cannot write the state of a job: %s", error.strerror)

    async def _on_disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, lambda: work(*args, **kwargs))


def _check_beginning(piece: bytes, input_format: str) -> None:
    """Reject compressed files, which could expand to any number of rows."""
    if input_format != "parquet" and piece.startswith((*COMPRESSED, b"PAR1")):
        message = f"the upload is not {input_format}; send {input_format}, uncompressed"
        raise ProblemError(Problem(415, message, reason="media_type"))


def _full() -> Problem:
    return Problem(507, "no disk space left for another job; delete jobs, or wait", reason="storage")


def _log(message: str, job: Job) -> None:
    """Log a line about a job, with a prefix of its id."""
    progress = job.progress
    fields = {"job": job.id[:8], "state": job.state, "bytes": job.num_bytes, "rows": progress.num_rows}
    fields |= {"pairs": progress.num_pairs, "rejected": progress.num_rejected}
    logger.info(message, extra=fields)
