"""The jobs folder. Changes are atomic: a crash at any moment leaves complete jobs or nothing.

    FOLDER/lock                 locked by the service that uses the folder
    FOLDER/ID.new/              an incomplete upload; deleted at the next start
    FOLDER/ID/job.json          the record of the job
    FOLDER/ID/input.csv         the upload, until the job is finished
    FOLDER/ID/result.csv        the result, with the files of the batch pipeline beside it
    FOLDER/ID.gone/             a removed job; deleted at the next start

No name from a client is part of a path. All methods block.
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
UPLOADING, REMOVED = ".new", ".gone"
ONLY_OWNER = 0o700


class Store:
    """The files of all jobs, locked for one service.

    Args:
        folder: The folder; created if missing.

    Raises:
        ConfigurationError: The folder cannot be used, or another service uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=ONLY_OWNER, parents=True, exist_ok=True)
            lock = _lock_file(folder / LOCK)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigurationError(
                f"jobs_folder cannot be used: {os.fspath(folder)!r}: {reason}; choose a writable folder that no other "
                "service uses"
            ) from error

        self._unlock = weakref.finalize(self, os.close, lock)

    def close(self) -> None:
        """Release the lock."""
        self._unlock()

    # Uploads.

    def begin(self, job: Job) -> BinaryIO:
        """Open the file for an upload; `commit` or `discard` must follow.

        Raises:
            OSError: The disk is full, or the folder is missing.
        """
        upload = self._upload_path(job)
        upload.mkdir(mode=ONLY_OWNER)
        return (upload / self.input_path(job).name).open("xb", buffering=0)

    def commit(self, job: Job, file: BinaryIO) -> None:
        """Turn a complete upload into a job, durably.

        Raises:
            OSError: As for `begin`.
        """
        job.num_bytes = file.tell()
        os.fsync(file.fileno())
        file.close()
        _replace_file(self._upload_path(job) / RECORD, job.as_json())
        self._upload_path(job).rename(self._folder / job.id)
        _sync_folder(self._folder)

    def discard(self, job: Job, file: BinaryIO | None) -> None:
        """Delete an upload."""
        if file is not None:
            file.close()
        shutil.rmtree(self._upload_path(job), ignore_errors=True)

    def _upload_path(self, job: Job) -> Path:
        return self._folder / f"{job.id}{UPLOADING}"

    # Jobs.

    def input_path(self, job: Job) -> Path:
        """Return the path of the upload."""
        return self._folder / job.id / f"input.{job.spec.input_format}"

    def result_path(self, job: Job) -> Path:
        """Return the path of the result."""
        return self._folder / job.id / f"result.{job.spec.output_format}"

    def rejected_path(self, job: Job) -> Path:
        """Return the path of the rows that the batch pipeline rejected."""
        return self._beside_result(job, "rejected.jsonl")

    def journal_path(self, job: Job) -> Path:
        """Return the path of the journal of the batch pipeline, which exists until the result is written."""
        return self._beside_result(job, "journal")

    def _beside_result(self, job: Job, suffix: str) -> Path:
        result = self.result_path(job)
        return result.with_name(f"{result.name}.{suffix}")

    def save(self, job_id: str, record: Mapping[str, Any]) -> None:
        """Write the record of a job, unless the job was removed."""
        with suppress(FileNotFoundError):
            _replace_file(self._folder / job_id / RECORD, record)

    def finish(self, job: Job) -> None:
        """Delete all files of a finished job except its results, and record their sizes."""
        kept = {RECORD, self.rejected_path(job).name}
        kept |= {self.result_path(job).name} if job.state == "done" else set()
        for path in (self._folder / job.id).iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        job.result_bytes = _size(self.result_path(job))
        job.rejected_bytes = _size(self.rejected_path(job)) or None
        self.save(job.id, job.as_json())

    def start_over(self, job: Job) -> None:
        """Delete the results and the journal of a job."""
        for path in (self._folder / job.id).glob(f"{self.result_path(job).name}*"):
            path.unlink(missing_ok=True)

    def remove(self, job_id: str) -> None:
        """Delete a job and its files, if it exists."""
        removed = self._folder / f"{job_id}{REMOVED}"
        with suppress(OSError):
            (self._folder / job_id).rename(removed)
        shutil.rmtree(removed, ignore_errors=True)

    def load(self) -> list[Job]:
        """Read all jobs, and delete incomplete uploads and removed jobs."""
        jobs = []
        for path in sorted(self._folder.iterdir()):
            if path.name.endswith((UPLOADING, REMOVED)):
                shutil.rmtree(path, ignore_errors=True)
            elif JOB_ID.match(path.name):
                try:
                    job = Job.from_json(json.loads((path / RECORD).read_bytes()))
                except (OSError, ValueError):
                    logger.warning("skipping a job that cannot be read: %s...", path.name[:8])
                    continue
                job.id = path.name
                jobs.append(job)
        return jobs


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _replace_file(path: Path, record: Mapping[str, Any]) -> None:
    """Write a file atomically."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(json.dumps(record).encode("ascii"))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _lock_file(path: Path) -> int:
    """Open a file and lock it exclusively."""
    import fcntl  # POSIX only

    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        raise
    return number
