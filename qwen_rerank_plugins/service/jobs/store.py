"""The jobs folder: one database of records, and the files of each job. A crash at any moment loses nothing.

    FOLDER/lock                 locked by the service that uses the folder
    FOLDER/jobs.sqlite          the records of all jobs, with SQLite's own files beside it
    FOLDER/ID.new/              an upload: without a record it is deleted at the next start, with one renamed to ID
    FOLDER/ID/input.csv         the upload, until the job is finished
    FOLDER/ID/result.csv        the result, with the files of the batch pipeline beside it

A record is written after the files that it needs, and before the deletion of files that it no longer needs. Files with
other names are never deleted, and no name from a client is part of a path, except a suffix of a known format.

The database has a write-ahead log, so that reads never wait for writes: the event loop may read. Each write is a
transaction of its own, is on the disk when it returns, and blocks meanwhile; all writes come from one thread.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from qwen_rerank_plugins.batch.formats import SUFFIXES
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.fsync import fsync_path
from qwen_rerank_plugins.service.jobs.records import JOB_ID, Job

__all__ = ["FILES_PER_UPLOAD", "JOURNAL", "REJECTED", "Store"]

logger = logging.getLogger(__name__)

LOCK, DATABASE = "lock", "jobs.sqlite"
UPLOADING = ".new"
JOURNAL, REJECTED = ".journal", ".rejected.jsonl"
FILES_PER_UPLOAD = 2  # the upload, and a result of about the same size

VERSION = 1
# The trigger counts turns: of two owners, `QUEUE` prefers the one whose last turn is longer ago.
SCHEMA = """
BEGIN;
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    num_bytes INTEGER NOT NULL, created_s REAL NOT NULL, started_s REAL, finished_s REAL,
    result_bytes INTEGER, rejected_bytes INTEGER, details TEXT NOT NULL CHECK (json_valid(details))
);
CREATE TABLE owners (owner TEXT PRIMARY KEY, turn INTEGER NOT NULL);
CREATE TRIGGER turns AFTER UPDATE OF state ON jobs WHEN new.state = 'running' AND old.state <> 'running' BEGIN
    INSERT OR REPLACE INTO owners VALUES (new.owner, (SELECT ifnull(max(turn), 0) + 1 FROM owners));
END;
PRAGMA user_version = 1;
COMMIT;
"""
INSERT = """
INSERT INTO jobs VALUES (:id, :owner, :state, :num_bytes, :created_s, :started_s, :finished_s, :result_bytes,
    :rejected_bytes, :details)
"""
UPDATE = """
UPDATE jobs SET state = :state, started_s = :started_s, finished_s = :finished_s, result_bytes = :result_bytes,
    rejected_bytes = :rejected_bytes, details = :details WHERE id = :id AND state <> 'cancelled'
"""
QUEUE = """
SELECT id FROM jobs LEFT JOIN owners USING (owner)
WHERE state IN ('queued', 'running') AND id NOT IN (SELECT value FROM json_each(:ids))
ORDER BY started_s IS NULL, row_number() OVER (PARTITION BY owner ORDER BY created_s, jobs.rowid),
    ifnull(turn, 0), created_s, jobs.rowid
"""
TOTALS = """
SELECT owner, state, count(*), sum(CASE WHEN finished_s IS NULL THEN :files_per_upload * num_bytes
    ELSE ifnull(result_bytes, 0) + ifnull(rejected_bytes, 0) END)
FROM jobs WHERE id NOT IN (SELECT value FROM json_each(:ids)) GROUP BY owner, state
"""


class Store:
    """The records and files of all jobs, locked for one service.

    Args:
        folder: The folder; created if missing.

    Raises:
        ConfigurationError: The folder cannot be used, another service uses it, or its database has another version.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reading = threading.Lock()  # a read during another one would see its older snapshot
        opened = ExitStack()
        self._close = weakref.finalize(self, opened.close)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _lock(opened, folder / LOCK)
            self._writer = _open_database(opened, folder / DATABASE)
            self._reader = _connect(opened, folder / DATABASE)
        except (OSError, sqlite3.Error) as error:
            self.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(
                f"jobs_folder cannot be used: {os.fspath(folder)!r}: {reason}; choose a writable folder that no other "
                "service uses"
            ) from error

    def close(self) -> None:
        """Close the database and release the lock."""
        self._close()

    # Files.

    def begin(self, job: Job) -> BinaryIO:
        """Open the file for an upload; `commit` or `delete` must follow.

        Raises:
            OSError: The disk is full, or the folder is missing.
        """
        upload = self._upload_path(job.id)
        upload.mkdir(mode=0o700)
        return (upload / self.input_path(job).name).open("xb", buffering=0)

    def commit(self, job: Job, file: BinaryIO) -> None:
        """Turn a complete upload into a job, durably.

        Raises:
            OSError: As for `begin`.
            sqlite3.Error: The record cannot be written.
        """
        job.num_bytes = file.tell()
        os.fsync(file.fileno())
        file.close()
        upload = self._upload_path(job.id)
        fsync_path(upload)
        fsync_path(self._folder)
        self._write(INSERT, **job.as_row())
        upload.rename(self._folder / job.id)

    def _upload_path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}{UPLOADING}"

    def input_path(self, job: Job) -> Path:
        """Return the path of the upload. It keeps a suffix that the batch pipeline knows, such as `.tsv`."""
        suffix = PurePath(job.name.lower()).suffix
        known = suffix if SUFFIXES.get(suffix) == job.input_format else f".{job.input_format}"
        return self._folder / job.id / f"input{known}"

    def result_path(self, job: Job, suffix: str = "") -> Path:
        """Return the path of the result, or with a suffix, of a file that the batch pipeline writes beside it."""
        return self._folder / job.id / f"result.{job.output_format}{suffix}"

    def keep(self, job: Job, *paths: Path) -> None:
        """Delete the other files of a job."""
        for path in self._folder.glob(f"{job.id}/*"):
            if path not in paths:
                path.unlink(missing_ok=True)

    # Records.

    def find(self, job_id: str) -> Job | None:
        """Return a job, unless it is cancelled."""
        return next(iter(self._jobs("id = :id AND state <> 'cancelled'", id=job_id)), None)

    def list_for(self, owner: str) -> list[Job]:
        """Return the jobs of an owner, newest first, without cancelled ones."""
        return self._jobs("owner = :owner AND state <> 'cancelled'", owner=owner)

    def queue(self, running: Iterable[str]) -> list[str]:
        """Return the ids of unfinished jobs except the running ones, in order.

        Interrupted jobs come first, then one job per owner after the other, least recently served owner first.
        """
        return [row["id"] for row in self._read(QUEUE, ids=json.dumps(list(running)))]

    def totals(self, without: Iterable[str] = ()) -> list[tuple[str, str, int, int]]:
        """Return owner, state, number and estimated bytes of all jobs, except those with the given ids."""
        values = {"ids": json.dumps(list(without)), "files_per_upload": FILES_PER_UPLOAD}
        return [(*row,) for row in self._read(TOTALS, **values)]

    def save(self, job: Job) -> bool:
        """Write the record of a job, unless it is cancelled or deleted. Return whether it was written."""
        return self._write(UPDATE, **job.as_row())

    def finish(self, job: Job) -> bool:
        """Record that a job is finished, and delete all of its files except its results.

        The upload is deleted after the record is written: until then the job may have to run again. The other files
        are deleted before, so that a full disk has room for the record.
        """
        results = self._results(job)
        self.keep(job, self.input_path(job), *results)
        job.result_bytes = _size(self.result_path(job))
        job.rejected_bytes = _size(self.result_path(job, REJECTED)) or None
        if is_saved := self.save(job):
            self.keep(job, *results)
        return is_saved

    def _results(self, job: Job) -> list[Path]:
        suffixes = ("", REJECTED) if job.state == "done" else (REJECTED,)
        return [self.result_path(job, suffix) for suffix in suffixes]

    def cancel(self, job_id: str) -> None:
        """Mark a job as cancelled, so that it is deleted even after a crash."""
        self._write("UPDATE jobs SET state = 'cancelled' WHERE id = :id", id=job_id)

    def delete(self, job_id: str) -> bool:
        """Delete a job and its files. Return whether it had a record, which remains if a file cannot be deleted."""
        with suppress(sqlite3.Error):  # on a full disk, deleting the files makes room for the rest
            self.cancel(job_id)
        for path in (self._folder / job_id, self._upload_path(job_id)):
            shutil.rmtree(path, ignore_errors=True)
        return not (self._folder / job_id).exists() and self._write(
            "DELETE FROM jobs WHERE id = :id", id=job_id
        )

    def expire(self, before_s: float, running: Iterable[str]) -> list[Job]:
        """Delete jobs that finished before a Unix time, and cancelled ones that do not run. Return them."""
        jobs = self._jobs("finished_s < :before_s OR state = 'cancelled'", before_s=before_s)
        return [job for job in jobs if job.id not in running and self.delete(job.id)]

    def recover(self) -> None:
        """Complete what a crash interrupted: uploads, deletions, and the ends of jobs."""
        jobs = {job.id: job for job in self._jobs("TRUE")}
        names = {path.name for path in self._folder.iterdir()}
        for job_id in filter(JOB_ID.fullmatch, (name.removesuffix(UPLOADING) for name in names)):
            if job_id not in names and job_id in jobs:
                self._upload_path(job_id).rename(self._folder / job_id)
            elif job_id not in names:
                self.delete(job_id)
        for job in jobs.values():
            if job.is_cancelled or not (self._folder / job.id).is_dir():
                self.delete(job.id)
            elif job.finished_s is not None:
                self.keep(job, *self._results(job))
        if unknown := sum(name not in jobs for name in filter(JOB_ID.fullmatch, names)):
            logger.warning(
                "jobs_folder has %d folders without a record; delete those you do not need", unknown
            )

    def _jobs(self, where: str, **values: Any) -> list[Job]:
        query = f"SELECT * FROM jobs WHERE {where} ORDER BY created_s DESC, rowid DESC"  # noqa: S608 (constant texts)
        return [Job.from_row(row) for row in self._read(query, **values)]

    def _read(self, query: str, **values: Any) -> list[sqlite3.Row]:
        with self._reading:
            return self._reader.execute(query, values).fetchall()

    def _write(self, statement: str, **values: Any) -> bool:
        """Execute a statement as a transaction. Return whether it changed a row."""
        return self._writer.execute(statement, values).rowcount > 0


def _lock(opened: ExitStack, path: Path) -> None:
    import fcntl  # POSIX only

    path.touch(0o600)
    fcntl.flock(opened.enter_context(path.open("ab")), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open_database(opened: ExitStack, path: Path) -> sqlite3.Connection:
    """Open the database for writing. A damaged one is moved aside, and a new one takes its place."""
    path.touch(0o600)
    db = _connect(opened, path)
    if _is_damaged(db):
        db.close()
        aside = f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
        for suffix in ("", "-wal", "-shm"):  # in this order: SQLite ignores a log without its database
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(path.with_name(aside + suffix))
        logger.error(
            "the database of jobs is damaged: it is renamed to %s, and its jobs are no longer listed; their files stay "
            "in jobs_folder, in one folder per job: upload them again, or delete them",
            aside,
        )
        return _open_database(opened, path)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in {0, VERSION}:
        raise sqlite3.NotSupportedError(
            f"{path.name} has version {version}, and this release reads {VERSION}"
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if version == 0:
        db.executescript(SCHEMA)
    return db


def _is_damaged(db: sqlite3.Connection) -> bool:
    try:
        return bool(db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return True
        raise


def _connect(opened: ExitStack, path: Path) -> sqlite3.Connection:
    db = opened.enter_context(closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)))
    db.row_factory = sqlite3.Row
    return db


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None
