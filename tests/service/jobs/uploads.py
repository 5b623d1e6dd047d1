"""Uploads and jobs from a client's side, for tests: files of every format, and calls that wait."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.service.servers import RunningService, running_service, wait_for

__all__ = ["CSV", "Client", "csv_file", "entries", "pairs", "records", "rows_of", "serving"]

CSV = {"Content-Type": "text/csv"}
FINISHED = ("done", "failed")
OWN_FILES = {"lock", "jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"}


def pairs(number: int, *, per_query: int = 5) -> list[dict[str, str]]:
    """Rows whose scores differ, in groups of a query each."""
    words = ("fox", "whale", "lamp", "river", "apple")
    return [
        {
            "query": f"blue {words[row // per_query % len(words)]} {row // per_query}",
            "document": f"the {words[row % len(words)]} {row // per_query} is {'blue' * (row % 2)} {row}",
        }
        for row in range(number)
    ]


def csv_file(rows: list[dict[str, Any]]) -> bytes:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def rows_of(content: bytes) -> list[dict[str, str]]:
    """CSV as rows."""
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))


class Client:
    """A client with or without an API key.

    Args:
        base_url: Where the service is.
        key: The key.
    """

    def __init__(self, base_url: str, key: str | None = None) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # Connections end with their answers: a service that is killed leaves none open here.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(
            base_url=base_url, trust_env=False, timeout=60, headers=headers, limits=limits
        )

    def post(self, content: Any, headers: dict[str, str] = CSV, **parameters: Any) -> httpx.Response:
        """Upload, whatever the answer is."""
        return self.http.post("/v1/jobs", content=content, headers=headers, params=parameters)

    def upload(self, content: Any, headers: dict[str, str] = CSV, **parameters: Any) -> str:
        """Upload a file and return the job's id."""
        answer = self.post(content, headers, **parameters)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        assert answer.headers["location"] == f"jobs/{job['id']}"
        assert job["state"] in {"queued", "running", "done"}
        return str(job["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """The state and progress of a job."""
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def state(self, job_id: str) -> str:
        """Return the state of a job."""
        return str(self.job(job_id)["state"])

    def wait(self, job_id: str, *, timeout_s: float = 300.0) -> dict[str, Any]:
        """Wait until a job is finished, and return it."""
        wait_for(lambda: self.state(job_id) in FINISHED, timeout_s=timeout_s)
        return self.job(job_id)

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of the key."""
        found: list[dict[str, Any]] = self.http.get("/v1/jobs").json()["data"]
        return found

    def result(self, job_id: str) -> httpx.Response:
        """The result."""
        answer = self.http.get(f"/v1/jobs/{job_id}/result")
        assert answer.status_code == 200, answer.text
        return answer

    def remove(self, job_id: str) -> None:
        """Cancel and delete."""
        answer = self.http.delete(f"/v1/jobs/{job_id}")
        assert (answer.status_code, answer.content) == (204, b"")


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[tuple[RunningService, Client]]:
    """A service that accepts uploads, and a client of it.

    Args:
        folder: For the jobs.
        options: As `running_service` takes them.
    """
    with running_service(**{"jobs_folder": str(folder), **options}) as running:
        client = Client(running.base_url)
        try:
            yield running, client
        finally:
            client.http.close()


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of all jobs in a folder."""
    with closing(sqlite3.connect(folder / "jobs.sqlite")) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute("SELECT * FROM jobs")]


def entries(folder: Path) -> set[str]:
    """Return the names in a jobs folder except those of the lock and the database."""
    return {path.name for path in folder.iterdir()} - OWN_FILES
