"""The checks of a soak detect a wrong score, an unexplained status, and a request without an answer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.soak.disks import LIMIT_BYTES, small_disk
from tests.soak.jobs import Jobs
from tests.soak.ledger import Ledger
from tests.soak.measurements import Sample, growth
from tests.soak.requests import Group, Request

GROUP = Group("whale", ["a fox", "a whale"], [0.25, 0.75])
REQUEST = Request("/rerank", {}, lambda answer: answer["scores"], GROUP.scores, {})


def checked(status: int, scores: list[float], *, ledger: Ledger | None = None) -> list[str]:
    ledger = ledger or Ledger()
    ledger.check(REQUEST, status, json.dumps({"scores": scores}).encode(), time.monotonic())
    return ledger.problems


def client(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url="http://service", transport=httpx.MockTransport(answer))


def test_scores_must_be_those_of_the_reference() -> None:
    assert checked(200, [0.25, 0.75]) == []
    assert checked(200, [0.25, 0.7501]) == ["/rerank: scores differ by 9.999999999998899e-05"]
    assert checked(200, [0.25]) == ["/rerank: scores differ by inf"]
    assert checked(200, [0.25, float("nan")]) == ["/rerank: scores differ by inf"]


def test_a_status_needs_a_fault_as_its_reason() -> None:
    ledger = Ledger()
    assert checked(429, [], ledger=ledger) == []
    with ledger.excused(503):
        start_s = time.monotonic()
        assert checked(503, [], ledger=ledger) == []
    ledger.check(REQUEST, 503, b"", start_s)  # sent while the fault lasted
    assert ledger.problems == []
    assert len(checked(503, [], ledger=ledger)) == 1
    assert ledger.statuses == {429: 1, 503: 3}


def test_a_request_without_an_answer_is_a_problem_unless_its_client_cancelled_it() -> None:
    def break_off(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    async def wait(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return httpx.Response(200)

    async def send(ledger: Ledger) -> None:
        async with client(break_off) as http:
            await ledger.send(http, REQUEST)
        async with httpx.AsyncClient(base_url="http://service", transport=httpx.MockTransport(wait)) as http:
            task = asyncio.create_task(ledger.send(http, REQUEST))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    ledger = Ledger()
    asyncio.run(send(ledger))
    assert ledger.problems == ["/rerank: no answer: ReadError('reset')"]
    assert (ledger.num_sent, ledger.num_answered, ledger.num_cancelled) == (2, 0, 1)


@pytest.mark.parametrize(
    ("job", "result", "problem"),
    [
        ({"state": "done"}, "relevance_score\n0.25\n0.75\n", None),
        ({"state": "done"}, "relevance_score\n0.25\n0.7\n", "job: scores differ"),
        ({"state": "done"}, "relevance_score\n0.25\n", "job: 1 rows of 2"),
        ({"state": "failed", "problem": {"status": 507}}, "", "job: status 507 without a fault"),
    ],
)
def test_a_job_ends_with_the_rows_of_the_reference(
    job: dict[str, Any], result: str, problem: str | None
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            return httpx.Response(204)
        if request.url.path.endswith("/result"):
            return httpx.Response(200, content=result)
        return httpx.Response(202 if request.method == "POST" else 200, json={"id": "1", **job})

    async def run(ledger: Ledger) -> None:
        async with client(answer) as http:
            await Jobs(http, ledger).run([GROUP])

    ledger = Ledger()
    asyncio.run(run(ledger))
    assert [one.startswith(problem or " ") for one in ledger.problems] == ([] if problem is None else [True])


def test_growth_is_the_slope_per_10_000_requests() -> None:
    samples = [Sample(20_000 + n, 100.0 + n / 5_000, 7, 9) for n in range(0, 50_000, 1_000)]
    assert growth(samples, "rss_mb") == pytest.approx(2.0)
    assert growth(samples, "num_fds") == 0.0
    assert growth(samples[:1], "rss_mb") == 0.0


def test_without_root_the_disk_is_full_for_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    program = (
        "import pathlib, sys\n"
        "for _ in sys.stdin:\n"
        f"    try: written = pathlib.Path(sys.argv[1]).write_bytes(bytes({2 * LIMIT_BYTES}))\n"
        "    except OSError as error: written = error.strerror\n"
        "    print(written, flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    with (
        small_disk(tmp_path / "disk") as full_disk,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as writer,
    ):
        assert writer.stdin is not None
        assert writer.stdout is not None
        with full_disk(writer.pid):
            writer.stdin.write("\n")
            assert writer.stdout.readline() == "File too large\n"
        writer.stdin.write("\n")
        assert writer.stdout.readline() == f"{2 * LIMIT_BYTES}\n"
