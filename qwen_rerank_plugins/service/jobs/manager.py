"""Manages all jobs of a service: limits, runs, and expiry.

Everything runs on the event loop, and so do reads of the database: they take less than a millisecond for hundreds of
jobs. Writes have one thread, so that files and records change in the order of the calls. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

from qwen_rerank_plugins.batch import BatchProgress, BatchReport
from qwen_rerank_plugins.batch.streams import ContentDigest
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.service.admission import AdmissionController
from qwen_rerank_plugins.service.errors import Problem, ProblemError, overloaded, problem_of
from qwen_rerank_plugins.service.jobs.metrics import JobMetrics
from qwen_rerank_plugins.service.jobs.records import Job, JobSpec, Progress
from qwen_rerank_plugins.service.jobs.runner import Run, is_disk_full
from qwen_rerank_plugins.service.jobs.store import FILES_PER_UPLOAD, REJECTED, Store
from qwen_rerank_plugins.service.lifecycle import Lifecycle
from qwen_rerank_plugins.service.logs import log_fault
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["JobManager", "empty_upload"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SAVE_EVERY_S = 5.0
SWEEP_EVERY_S = 30.0
POLL_S = 0.1
RETRY_S = 5.0  # after a failed write
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
        self._config, self._settings = config, settings
        self._lifecycle, self._admission = lifecycle, admission
        self._store = Store(Path(settings.jobs_folder))
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="qwen-rerank-jobs")
        self._runs: dict[str, Run] = {}
        self._uploads: dict[str, Job] = {}  # incomplete uploads
        self._tasks: list[asyncio.Task[None]] = []  # workers, and the sweep
        self._news = asyncio.Event()
        self._is_closing = False
        self.metrics = JobMetrics(self._store.totals)

    # Lifecycle.

    async def start(self) -> None:
        """Complete what an earlier process began, and start scoring."""
        await self._durably(self._store.recover)
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._settings.jobs_concurrency)]
        self._tasks.append(asyncio.create_task(self._sweep()))

    async def stop(self) -> None:
        """Stop running jobs, so that the next process resumes them, and release the folder."""
        self._is_closing = True
        self._news.set()
        for run in self._runs.values():
            run.stop()
        await asyncio.wait(self._tasks[:-1], timeout=STOP_S)
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

    def list_for(self, owner: str) -> list[dict[str, Any]]:
        """Return the jobs of an owner as the owner sees them, newest first."""
        jobs = map(self._live, self._store.list_for(owner))
        return self.views(*(job for job in jobs if not job.is_cancelled))

    def get(self, owner: str, job_id: str) -> Job:
        """Return a job of an owner.

        Raises:
            ProblemError: With status 404, also for the job of another owner.
        """
        job = self._store.find(job_id)
        if job is None or job.owner != owner or (job := self._live(job)).is_cancelled:
            raise ProblemError(Problem(404, "not found: no such job", reason="job"))
        return job

    def _live(self, job: Job) -> Job:
        """Return a stored job, or the object of its run, whose progress is newer."""
        run = self._runs.get(job.id)
        return job if run is None or job.finished_s is not None else run.job

    def views(self, *jobs: Job) -> list[dict[str, Any]]:
        """Return jobs as their owner sees them."""
        queue = self._store.queue(self._runs)
        num_ahead = {job_id: place for place, job_id in enumerate(queue, len(self._runs))}
        return [job.view(self._settings.jobs_retention_s, num_ahead.get(job.id)) for job in jobs]

    def _check_limits(self, owner: str, num_bytes: int) -> None:
        """Reject an upload that exceeds a limit.

        Raises:
            ProblemError: With status 429 for too many jobs, 503 while the service drains, 507 for too many bytes.
        """
        if self._lifecycle.state == "draining":
            self._lifecycle.check_ready()
        mine = sum(number for other, _, number, _ in self._store.totals(self._uploads) if other == owner)
        mine += sum(job.owner == owner for job in self._uploads.values())
        if mine >= self._settings.jobs_max_per_key:
            message = f"too many jobs: {mine}, and the limit is {self._settings.jobs_max_per_key}; delete a job, or wait"
            raise ProblemError(overloaded(message, RETRY_AFTER_S, reason="jobs"))
        self._check_bytes(num_bytes)

    def _check_bytes(self, num_bytes: int) -> None:
        stored = sum(total for *_, total in self._store.totals(self._uploads))
        num_bytes += sum(job.num_bytes for job in self._uploads.values())
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
        self._check_limits(owner, declared)
        job = Job(owner=owner, num_bytes=declared, **spec.model_dump())
        self._uploads[job.id] = job
        file: BinaryIO | None = None
        try:
            file = await self._on_disk(self._store.begin, job)
            await self._receive(job, file, pieces)
            await self._on_disk(self._store.commit, job, file)
        except BaseException as error:
            self._disk.submit(self._discard, job, file)
            if is_disk_full(error):
                raise ProblemError(_full()) from error
            raise
        finally:
            del self._uploads[job.id]
        self._news.set()
        _log("job queued", job)
        return job

    async def _receive(self, job: Job, file: BinaryIO, pieces: AsyncIterator[bytes]) -> None:
        size, digest = 0, ContentDigest()

        def write(piece: bytes) -> None:
            _write_all(file, piece)
            digest.add(piece)

        async for piece in pieces:
            if piece and not size:
                _check_beginning(piece, job.input_format)
            size += len(piece)
            if size > job.num_bytes:
                self._check_bytes(size - job.num_bytes)
                job.num_bytes = size
            await self._on_disk(write, piece)
        job.digest = str(digest)
        if not size:
            raise empty_upload()

    def _discard(self, job: Job, file: BinaryIO | None) -> None:
        if file is not None:
            file.close()
        self._store.delete(job.id)

    async def remove(self, job: Job) -> None:
        """Cancel a job and delete its files."""
        run = self._runs.get(job.id)
        if run is not None:
            run.job.state = "cancelled"
            run.stop()
            await self._durably(self._store.cancel, job.id)  # the process may die before the run stops
        elif await self._durably(self._store.delete, job.id) and job.state == "queued":
            self.metrics.add_finished("cancelled")

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
        if job.finished_s is None:
            raise ProblemError(Problem(409, f"the job is not finished: it is {job.state}", reason="job"))
        if job.rejected_bytes is None:
            raise ProblemError(Problem(409, "the job rejected no row", reason="job"))
        return self._store.result_path(job, REJECTED)

    # Scoring.

    async def _work(self) -> None:
        while not self._is_closing:
            self._news.clear()
            job = self._next()
            if job is not None:
                await self._run(job)
                continue
            # Readiness of the engine is polled, since nothing signals it.
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_EVERY_S if self._lifecycle.state == "ready" else POLL_S):
                    await self._news.wait()

    def _next(self) -> Job | None:
        """Return the next job of the queue, if there is one and the engine is ready."""
        try:
            queue = self._store.queue(self._runs) if self._lifecycle.state == "ready" else []
            return next(filter(None, map(self._store.find, queue)), None)
        except sqlite3.Error as error:
            log_fault(error, "jobs")
            return None

    async def _run(self, job: Job) -> None:
        run = Run(
            job,
            self._config,
            self._lifecycle,
            self._admission,
            self._store,
            max_rows=self._settings.jobs_max_rows,
            max_document_chars=self._settings.max_document_chars,
        )
        self._runs[job.id] = run
        job.state, job.started_s = "running", job.started_s or time.time()
        try:
            if await self._durably(self._store.save, job) is not False:  # False: it was deleted
                _log("job running", job)
                await self._end(job, await run.outcome(self._note_progress, self.metrics.add_pairs))
        except Exception as error:  # noqa: BLE001 (one job must not stop the others)
            log_fault(error, f"job {job.id[:8]}")
            await self._end(job, problem_of(error))
        finally:
            del self._runs[job.id]

    async def _end(self, job: Job, outcome: BatchReport | Problem | None) -> None:
        """Record the end of a run. If the disk is full, the job remains running until the record is written."""
        ended = job.model_copy()  # until this is recorded, the job can be cancelled
        if outcome is not None:
            ended.end(outcome)
        write = self._store.save if outcome is None else self._store.finish
        while not job.is_cancelled and await self._durably(write, ended) is None:
            if self._is_closing:
                return
            await asyncio.sleep(RETRY_S)
        if job.is_cancelled:
            ended.state = job.state
            await self._durably(self._store.delete, job.id)
        if ended.state != "running":
            self.metrics.add_finished(ended.state)
            _log(f"job {ended.state}", ended)

    def _note_progress(self, run: Run, progress: BatchProgress) -> None:
        self.metrics.add_rows(progress.num_rows - run.job.progress.num_rows)
        run.job.progress = Progress(**asdict(progress))
        if time.monotonic() - run.saved_s > SAVE_EVERY_S and not self._is_closing:
            run.saved_s = time.monotonic()
            self._disk.submit(self._store.save, run.job.model_copy())

    # Expiry and disk.

    async def _sweep(self) -> None:
        """Delete expired jobs."""
        while True:
            before_s = time.time() - self._settings.jobs_retention_s
            for job in await self._durably(self._store.expire, before_s, tuple(self._runs)) or ():
                _log("job expired", job)
            await asyncio.sleep(min(SWEEP_EVERY_S, self._settings.jobs_retention_s / 4))

    async def _durably(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Write to disk. Return None after a failure: a new process would only repeat some work."""
        try:
            return await self._on_disk(work, *args, **kwargs)
        except (OSError, sqlite3.Error) as error:
            logger.warning("cannot write the state of a job: %s", getattr(error, "strerror", None) or error)
            return None

    async def _on_disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, lambda: work(*args, **kwargs))


def empty_upload() -> ProblemError:
    """Return the error about a file without a byte."""
    return ProblemError(Problem(400, "the upload is empty; send the file as the body", reason="body"))


def _check_beginning(piece: bytes, input_format: str) -> None:
    """Reject compressed files, which could expand to any number of rows."""
    if input_format != "parquet" and piece.startswith((*COMPRESSED, b"PAR1")):
        message = f"the upload is not {input_format}; send {input_format}, uncompressed"
        raise ProblemError(Problem(415, message, reason="media_type"))


def _write_all(file: BinaryIO, piece: bytes) -> None:
    """Write a piece whole: on a disk that is nearly full, the system writes a part and reports no error."""
    left = memoryview(piece)
    while left:
        left = left[file.write(left) :]


def _full() -> Problem:
    return Problem(507, "no disk space left for another job; delete jobs, or wait", reason="storage")


def _log(message: str, job: Job) -> None:
    """Log a line about a job, with a prefix of its id."""
    progress = job.progress
    fields = {"job": job.id[:8], "state": job.state, "bytes": job.num_bytes, "rows": progress.num_rows}
    fields |= {"pairs": progress.num_pairs, "rejected": progress.num_rejected}
    logger.info(message, extra=fields)
