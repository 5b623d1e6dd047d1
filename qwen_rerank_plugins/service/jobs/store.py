"""The jobs' folder: what is in it, and how it changes so that a crash at any moment leaves whole jobs or nothing.

    FOLDER/lock                 held by the one service that works here
    FOLDER/ID.new/              an upload that is not complete; swept away at the next start
    FOLDER/ID/job.json          what is known of the job
    FOLDER/ID/input.csv         the upload, until the job is finished
    FOLDER/ID/result.csv        its result, and beside it what the batch pipeline keeps there
    FOLDER/ID.gone/             a removed job; swept away too

No name that a client sent is part of a path. It knows neither HTTP nor scores, and blocks while it works.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.service.jobs.records import JOB_ID, Job

__all__ = ["Store"]

logger = logging.getLogger(__name__)

RECORD = "job.json"
LOCK = "lock"
COMING, GONE = ".new", ".gone"
ONLY_OWNER = 0o700


class Store:
    """The folder, for one service at a time.

    Args:
        folder: Made if it is not there.

    Raises:
        ConfigurationError: It cannot be used, or another service works there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=ONLY_OWNER, parents=True, exist_ok=True)
            lock = _locked(folder / LOCK)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigurationError(
                f"jobs_folder cannot be used: {os.fspath(folder)!r}: {reason}; allowed: a folder that can be "
                "written to, and that no other service works in"
            ) from error

        self._unlock = weakref.finalize(self, os.close, lock)

    def close(self) -> None:
        """Leave the folder to others."""
        self._unlock()

    # Uploads.

    def begin(self, job: Job) -> BinaryIO:
        """Open the file that a job's upload is written to; `commit` or `discard` follows.

        Raises:
            OSError: There is no room, or the folder is gone.
        """
        coming = self._coming(job)
        coming.mkdir(mode=ONLY_OWNER)
        return (coming / self.input_path(job).name).open("xb", buffering=0)

    def commit(self, job: Job, file: BinaryIO) -> None:
        """Make an upload that is whole a job, durably.

        Raises:
            OSError: As for `begin`.
        """
        job.num_bytes = file.tell()
        os.fsync(file.fileno())
        file.close()
        _write(self._coming(job) / RECORD, job.as_json())
        self._coming(job).rename(self._folder / job.id)
        _sync_folder(self._folder)

    def discard(self, job: Job, file: BinaryIO | None) -> None:
        """Leave nothing of an upload."""
        if file is not None:
            file.close()
        shutil.rmtree(self._coming(job), ignore_errors=True)

    def _coming(self, job: Job) -> Path:
        return self._folder / f"{job.id}{COMING}"

    # Jobs.

    def input_path(self, job: Job) -> Path:
        """Where a job's upload is."""
        return self._folder / job.id / f"input.{job.spec.input_format}"

    def result_path(self, job: Job) -> Path:
        """Where a job's result is to be."""
        return self._folder / job.id / f"result.{job.spec.output_format}"

    def rejected_path(self, job: Job) -> Path:
        """Where the rows are that the batch pipeline set aside."""
        return self._beside(job, "rejected.jsonl")

    def journal_path(self, job: Job) -> Path:
        """Where the batch pipeline notes what is done; gone once the result is there."""
        return self._beside(job, "journal")

    def _beside(self, job: Job, suffix: str) -> Path:
        result = self.result_path(job)
        return result.with_name(f"{result.name}.{suffix}")

    def save(self, job_id: str, record: Mapping[str, Any]) -> None:
        """Write down what is known of a job, unless it is gone."""
        with suppress(FileNotFoundError):
            _write(self._folder / job_id / RECORD, record)

    def finish(self, job: Job) -> None:
        """Keep a finished job's result alone, and note how large it is."""
        kept = {RECORD, self.rejected_path(job).name}
        kept |= {self.result_path(job).name} if job.state == "done" else set()
        for path in (self._folder / job.id).iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        job.result_bytes = _size(self.result_path(job))
        job.rejected_bytes = _size(self.rejected_path(job)) or None
        self.save(job.id, job.as_json())

    def start_over(self, job: Job) -> None:
        """Forget what was scored of a job."""
        for path in (self._folder / job.id).glob(f"{self.result_path(job).name}*"):
            path.unlink(missing_ok=True)

    def remove(self, job_id: str) -> None:
        """Delete a job and its files; nothing happens if it is gone."""
        gone = self._folder / f"{job_id}{GONE}"
        with suppress(OSError):
            (self._folder / job_id).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def load(self) -> list[Job]:
        """Read every job that is there, and sweep away what is left of uploads and removals."""
        jobs = []
        for path in sorted(self._folder.iterdir()):
            if path.name.endswith((COMING, GONE)):
                shutil.rmtree(path, ignore_errors=True)
            elif JOB_ID.match(path.name):
                try:
                    job = Job.from_json(json.loads((path / RECORD).read_bytes()))
                except (OSError, ValueError):
                    logger.warning("a job cannot be read and is left alone: %s...", path.name[:8])
                    continue
                job.id = path.name
                jobs.append(job)
        return jobs


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a file as a whole."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(json.dumps(record).encode("ascii"))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make names as durable as contents."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _locked(path: Path) -> int:
    """Open a file that only one process at a time can have open so."""
    import fcntl  # not everywhere where the rest of the service runs

    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        raise
    return number
