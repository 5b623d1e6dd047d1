"""Upload jobs that run beside the requests: each ends with the right rows, or with a problem that a fault explains."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import httpx

from tests.service.jobs.uploads import CSV, csv_file, rows_of
from tests.soak.ledger import PAUSE_AFTER_ERROR_S, Ledger
from tests.soak.requests import TOLERANCE, Group

FINISHED = ("done", "failed")


class Jobs:
    """Uploads files, waits for their jobs and checks the results.

    Attributes:
        outcomes: Number of jobs by outcome.
    """

    def __init__(self, http: httpx.AsyncClient, ledger: Ledger) -> None:
        self.outcomes: Counter[str] = Counter()
        self._http, self._ledger = http, ledger

    async def run(self, groups: list[Group], *, padding: str = "") -> None:
        """Carry out a job of all pairs of some queries, from upload to removal."""
        start_s = time.monotonic()
        job_id = await self.upload(groups, padding=padding)
        if job_id is not None:
            await self.finish(job_id, groups, start_s)

    async def upload(self, groups: list[Group], *, padding: str = "") -> str | None:
        """Upload the pairs of some queries and return the job's id; None if the upload was refused.

        Args:
            groups: The queries and documents.
            padding: The content of a further column.
        """
        rows = [
            {"query": group.query, "document": document, "padding": padding}
            for group in groups
            for document in group.documents
        ]
        start_s = time.monotonic()
        answer = await self._http.post("/v1/jobs", content=csv_file(rows), headers=CSV)
        if answer.status_code == httpx.codes.ACCEPTED:
            return str(answer.json()["id"])
        self.outcomes[f"upload refused with {answer.status_code}"] += 1
        self._check_excuse("upload", answer.status_code, answer.text, start_s)
        await asyncio.sleep(PAUSE_AFTER_ERROR_S)
        return None

    async def finish(self, job_id: str, groups: list[Group], start_s: float) -> None:
        """Wait for a job, check its outcome, and remove it."""
        while (job := await self._get(job_id))["state"] not in FINISHED:
            await asyncio.sleep(0.1)
        if job["state"] == "done":
            self.outcomes["done"] += 1
            result = await self._call("GET", f"/v1/jobs/{job_id}/result", httpx.codes.OK)
            self._check_rows(result.content, groups)
        else:
            problem = job["problem"]
            self.outcomes[f"failed with {problem['status']}"] += 1
            self._check_excuse("job", problem["status"], str(problem), start_s)
        await self._call("DELETE", f"/v1/jobs/{job_id}", httpx.codes.NO_CONTENT)

    async def _get(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = (await self._call("GET", f"/v1/jobs/{job_id}", httpx.codes.OK)).json()
        return job

    async def _call(self, method: str, path: str, wanted: int) -> httpx.Response:
        """Repeat a call as long as a fault explains another status."""
        while True:
            start_s = time.monotonic()
            answer = await self._http.request(method, path)
            if answer.status_code == wanted:
                return answer
            self._check_excuse(f"{method} {path}", answer.status_code, answer.text, start_s)
            assert self._ledger.is_excused(answer.status_code, start_s), answer.text
            await asyncio.sleep(PAUSE_AFTER_ERROR_S)

    def _check_excuse(self, what: str, status: int, text: str, start_s: float) -> None:
        if not self._ledger.is_excused(status, start_s):
            self._ledger.problems.append(f"{what}: status {status} without a fault: {text[:200]}")

    def _check_rows(self, content: bytes, groups: list[Group]) -> None:
        wanted = [score for group in groups for score in group.scores]
        found = [float(row["relevance_score"]) for row in rows_of(content)]
        if len(found) != len(wanted):
            self._ledger.problems.append(f"job: {len(found)} rows of {len(wanted)}")
        elif any(abs(one - other) > TOLERANCE for one, other in zip(found, wanted, strict=True)):
            self._ledger.problems.append("job: scores differ")
