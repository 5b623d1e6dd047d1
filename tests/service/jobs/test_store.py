"""The jobs folder, without a service around it: interrupted at any change, damaged, and its order."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins import ConfigurationError
from qwen_rerank_plugins.errors import RerankError
from qwen_rerank_plugins.service.jobs.records import Job
from qwen_rerank_plugins.service.jobs.runner import is_disk_full
from qwen_rerank_plugins.service.jobs.store import JOURNAL, REJECTED, Store
from tests.laws.sources import ROOT, plain_environment
from tests.service.jobs.crashes import DONE, FAILED, IDS, RESULT, STEPS, UPLOAD, Life, interrupted, new_job
from tests.service.jobs.uploads import entries

NEEDED = {
    "queued": ["input.csv"],
    "running": ["input.csv"],
    DONE: ["result.csv", "result.csv.rejected.jsonl"],
    FAILED: ["result.csv.rejected.jsonl"],
}
LASTING = set(NEEDED)


def states_after(num_steps: int) -> dict[str, str]:
    """Return the states of the jobs that exist after some steps and a restart."""
    states = {IDS[name]: state for name, state in STEPS[:num_steps]}
    return {job_id: state for job_id, state in states.items() if state in LASTING}


def restarted(folder: Path) -> dict[str, str]:
    """Restart twice, check that each job has the files that it needs, and return the states."""
    found = []
    for _ in range(2):
        with closing(Store(folder)) as store:
            store.recover()
            jobs = store.list_for("")
            assert len(jobs) == sum(number for _, _, number, _ in store.totals())
            found.append({job.id: str(job.state) for job in jobs})
    assert found[0] == found[1]
    assert entries(folder) == set(found[0])
    for job in jobs:
        names = sorted(path.name for path in (folder / job.id).iterdir())
        assert [name for name in names if job.state != "running" or name in NEEDED["running"]] == NEEDED[
            job.state
        ]
        if job.finished_s is None:
            assert store.input_path(job).read_bytes() == UPLOAD
        if job.state == DONE:
            assert store.result_path(job).read_bytes() == RESULT
            assert (job.result_bytes, job.rejected_bytes) == (len(RESULT), len(RESULT))
    return found[0]


def add(store: Store, job: Job) -> Job:
    file = store.begin(job)
    file.write(UPLOAD)
    store.commit(job, file)
    return job


def test_a_kill_at_any_change_loses_nothing_and_leaves_nothing_over(tmp_path: Path) -> None:
    """After a restart exactly the steps that returned are there, and perhaps the one that was in progress."""
    command = [sys.executable, "-m", "tests.service.jobs.crashes", str(tmp_path)]
    environment = plain_environment() | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, text=True)
    assert ran.returncode == 0, ran.stderr
    reached = []
    for done in tmp_path.glob("*.done"):
        num_steps = int(done.read_bytes() or 0)
        assert restarted(tmp_path / done.stem) in (states_after(num_steps), states_after(num_steps + 1)), (
            done.stem
        )
        reached.append(num_steps)
    assert set(reached) == set(range(len(STEPS) + 1)), "a step changes nothing on the disk"
    assert len(reached) > 60


def test_an_error_at_any_change_loses_nothing_and_leaves_nothing_over(tmp_path: Path) -> None:
    def fail(change: str) -> None:
        failures.append(at)
        if change == "_write":
            raise sqlite3.OperationalError("disk I/O error")
        raise OSError(errno.ENOSPC, "No space left on device")

    failures, at = [-1], -1
    while failures[-1] == at:  # until a life has fewer changes
        at, steps = at + 1, [0]
        with interrupted(at, fail), suppress(OSError, sqlite3.Error, ConfigurationError):
            Life(tmp_path / str(at), steps.append).run()
        assert restarted(tmp_path / str(at)) in (states_after(steps[-1]), states_after(steps[-1] + 1)), at
    assert steps[-1] == len(STEPS)
    assert at > 60


def test_an_upload_is_flushed_before_its_record_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    fsync, write = os.fsync, Store._write

    def flush(number: int) -> None:
        events.append(os.fstat(number).st_ino)
        fsync(number)

    def record(store: Store, *args: Any, **values: Any) -> bool:
        events.append("record")
        return write(store, *args, **values)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Store, "_write", record)
    with closing(Store(tmp_path)) as store:
        job = add(store, new_job())
        flushed = (store.input_path(job), tmp_path / job.id, tmp_path)
        assert events == [*(path.stat().st_ino for path in flushed), "record"]
        # With FULL a transaction is on the disk when it returns.
        assert store._writer.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert store._writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_power_cut_that_undoes_the_last_rename_loses_no_upload(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        job = add(store, new_job())
    (tmp_path / job.id).rename(tmp_path / f"{job.id}.new")
    assert restarted(tmp_path) == {job.id: "queued"}


def test_keeping_the_upload_deletes_result_journal_and_rejected_rows(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        job = add(store, new_job())
        for suffix in ("", JOURNAL, REJECTED):
            store.result_path(job, suffix).write_bytes(b"of the first run")
        store.keep(job, store.input_path(job))
        assert {path.name for path in (tmp_path / job.id).iterdir()} == {"input.csv"}
        assert store.input_path(job).read_bytes() == UPLOAD


# The database.


def test_the_queue_goes_round_the_owners_and_remembers_their_turns(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        one, two, three, four = (add(store, new_job(owner)) for owner in ("x", "x", "y", "z"))
        assert store.queue(()) == [job.id for job in (one, three, four, two)]
        one.state, one.started_s = "running", 1.0
        store.save(one)
        assert store.queue([one.id]) == [job.id for job in (three, four, two)]  # x had the last turn
        store.delete(one.id)
    with closing(Store(tmp_path)) as store:
        assert store.queue(()) == [job.id for job in (three, four, two)]
        two.state, two.started_s = "running", 2.0  # interrupted: it goes on first
        store.save(two)
        assert store.queue(()) == [job.id for job in (two, three, four)]


def test_a_cancelled_or_deleted_job_is_not_saved_again(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        job = add(store, new_job())
        store.cancel(job.id)
        job.state = "running"
        assert not store.save(job)
        assert (store.find(job.id), store.list_for(""), store.queue(())) == (None, [], [])
        assert [one.id for one in store.expire(0.0, [job.id])] == []
        assert [one.id for one in store.expire(0.0, [])] == [job.id]
        assert not store.save(job)
        assert entries(tmp_path) == set()


def test_files_that_cannot_be_deleted_are_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Store(tmp_path)) as store:
        job = add(store, new_job())
        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", lambda *_, **__: None)
            assert not store.delete(job.id)
        assert store.list_for("") == []
        store.expire(0.0, [])
        assert entries(tmp_path) == set()


@pytest.mark.parametrize("damage", ["garbage", "page", "record"])
def test_a_damaged_database_is_moved_aside_and_no_file_is_lost(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "jobs.sqlite"
    with closing(Store(tmp_path)) as store:
        jobs = [add(store, new_job(model="m" * 5000)) for _ in range(3)]
    content = database.read_bytes()
    if damage == "garbage":
        content = b"x" * 10_000
    elif damage == "page":
        content = content[:8192] + b"\xff" * 4096 + content[12288:]
    database.write_bytes(content)
    if damage == "record":
        with closing(sqlite3.connect(database)) as db, db:
            db.execute("PRAGMA ignore_check_constraints = ON")
            db.execute("UPDATE jobs SET state = 'lost'")
            db.commit()
            content = database.read_bytes()
    content = database.read_bytes()
    for _ in range(2):
        with closing(Store(tmp_path)) as store:
            store.recover()
            assert store.list_for("") == []
    assert caplog.text.count("the database of jobs is damaged: it is renamed to jobs.sqlite.damaged-") == 1
    assert caplog.text.count("jobs_folder has 3 folders without a record") == 2
    (aside,) = tmp_path.glob("jobs.sqlite.damaged-*")
    assert aside.read_bytes() == content
    assert [store.input_path(job).read_bytes() for job in jobs] == [UPLOAD] * 3


def test_a_database_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        add(store, new_job())
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as db:
        db.execute("PRAGMA user_version = 99")
    before = (tmp_path / "jobs.sqlite").read_bytes()
    for _ in range(2):
        with pytest.raises(
            ConfigurationError, match=r"jobs\.sqlite has version 99, and this release reads 1"
        ):
            Store(tmp_path)
    assert (tmp_path / "jobs.sqlite").read_bytes() == before


def test_files_of_unknown_names_are_never_deleted(tmp_path: Path) -> None:
    names = {"0" * 32, f"{'1' * 32}.gone", "notes.new", "jobs.csv.new"}
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text('{"version": 1}')
    with closing(Store(tmp_path)) as store:
        store.recover()
        store.expire(1e12, [])
    assert entries(tmp_path) == names
    assert all((tmp_path / name / "job.json").exists() for name in names)


def test_a_full_database_is_a_full_disk(tmp_path: Path) -> None:
    """The batch pipeline, too, reports it as the cause of its own error."""
    with closing(Store(tmp_path)) as store:
        job = add(store, new_job())
        (num_pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {num_pages}")
        job.model = "m" * 100_000
        with pytest.raises(sqlite3.OperationalError, match="full") as caught:
            store.save(job)
        error = RerankError("journal cannot be written")
        error.__cause__ = caught.value
        assert is_disk_full(error)
        assert not is_disk_full(sqlite3.OperationalError("database or disk is full in a text alone"))
