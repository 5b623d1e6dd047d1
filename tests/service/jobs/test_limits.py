"""Limits of uploads, owners of jobs, and priority of requests."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qwen_rerank_plugins import RerankConfig, Reranker, ScoreRequest
from qwen_rerank_plugins.service.admission import AdmissionController
from qwen_rerank_plugins.service.jobs import background, manager
from qwen_rerank_plugins.service.jobs.background import BackgroundScorer
from qwen_rerank_plugins.service.jobs.records import Job
from qwen_rerank_plugins.service.jobs.store import Store
from qwen_rerank_plugins.service.lifecycle import Lifecycle
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.service.doubles import SteeredScorer
from tests.service.jobs.uploads import CSV, Client, csv_file, entries, pairs, records, serving
from tests.service.schemas.test_json_codec import assert_problem
from tests.service.servers import RunningService, wait_for

pytestmark = pytest.mark.loopback

ROWS = pairs(40)
CONTENT = csv_file(ROWS)
KEYS = ("the-first-key", "the-second-key")
TIMEOUT_S = 0.6


def is_empty(folder: Path) -> bool:
    return not entries(folder)


def head(size: int, *, chunked: bool = False) -> bytes:
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    return b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n" + length + b"\r\n\r\n"


def connect(running: RunningService) -> closing[socket.socket]:
    return closing(socket.create_connection(("127.0.0.1", running.port), timeout=20))


# Keys.


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[Path, RunningService]]:
    (tmp_path / "keys").write_text("\n".join(KEYS), encoding="utf-8")
    with serving(tmp_path / "jobs", api_keys_file=str(tmp_path / "keys")) as (running, _):
        yield tmp_path / "jobs", running


def test_a_job_is_there_for_its_own_key_alone(keyed: tuple[Path, RunningService]) -> None:
    folder, running = keyed
    mine, theirs, nobody = (Client(running.base_url, key) for key in (*KEYS, None))
    job_id = mine.upload(CONTENT)
    mine.wait(job_id)
    missing = theirs.http.get(f"/v1/jobs/{'0' * 32}").json()
    for suffix in ("", "/result", "/rejected"):
        answer = theirs.http.get(f"/v1/jobs/{job_id}{suffix}")
        problem = assert_problem(answer, 404)
        assert problem["message"] == missing["message"]
        assert_problem(nobody.http.get(f"/v1/jobs/{job_id}{suffix}"), 401)
    assert_problem(theirs.http.delete(f"/v1/jobs/{job_id}"), 404)
    assert_problem(nobody.post(CONTENT), 401)
    assert theirs.jobs() == []
    assert [job["id"] for job in mine.jobs()] == [job_id]
    assert mine.result(job_id).content
    shown_otherwise = mine.http.get(f"/v1/jobs/{job_id}", headers={"Authorization": "", "X-API-Key": KEYS[0]})
    assert shown_otherwise.status_code == 200
    stored = b"".join(path.read_bytes() for path in folder.glob("jobs.sqlite*"))
    assert job_id.encode() in stored
    assert not [key for key in KEYS if key.encode() in stored]


def test_a_key_has_no_more_jobs_than_it_may_and_another_s_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n".join(KEYS), encoding="utf-8")
    options: dict[str, Any] = {"api_keys_file": str(tmp_path / "keys"), "jobs_max_per_key": 2}
    with serving(tmp_path / "jobs", **options) as (running, _):
        mine, theirs = (Client(running.base_url, key) for key in KEYS)
        first = mine.upload(CONTENT)
        mine.upload(CONTENT)
        answer = mine.post(CONTENT)
        assert "the limit is 2" in assert_problem(answer, 429)["message"]
        assert int(answer.headers["retry-after"]) >= 1
        theirs.upload(CONTENT)
        mine.wait(first)
        mine.remove(first)
        mine.upload(CONTENT)


def test_keys_take_turns(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n".join(KEYS), encoding="utf-8")
    scorer = SteeredScorer(delay_s=0.3)
    with serving(tmp_path / "jobs", scorer=scorer, api_keys_file=str(tmp_path / "keys")) as (running, _):
        mine, theirs = (Client(running.base_url, key) for key in KEYS)
        greedy = [mine.upload(CONTENT, name=f"{number}.csv") for number in range(4)]
        modest = theirs.upload(CONTENT)
        for job_id in greedy:
            mine.wait(job_id)
        spec = sorted(records(tmp_path / "jobs"), key=lambda record: record["started_s"])
        assert [record["id"] for record in spec].index(modest) == 1


# Sizes.


def test_an_upload_above_the_limit_is_refused_declared_or_not(tmp_path: Path) -> None:
    with serving(tmp_path, jobs_max_upload_bytes=1000, max_body_bytes=100) as (running, client):
        assert_problem(client.post(b"x" * 1001), 413)
        assert_problem(client.post(iter([b"query,document\n"] * 100)), 413)
        wait_for(lambda: is_empty(tmp_path))
        client.upload(csv_file(ROWS[:3]))
        answer = running.rank("a" * 200)
        assert_problem(answer, 413)  # other addresses keep their own limit
        with connect(running) as connection:
            connection.sendall(head(10**9))
            assert b" 413 " in connection.recv(65536).split(b"\r\n")[0]


def test_the_folder_is_never_fuller_than_it_may_be(tmp_path: Path) -> None:
    with serving(tmp_path, jobs_max_total_bytes=3 * len(CONTENT), scorer=SteeredScorer(delay_s=30.0)) as (
        _,
        client,
    ):
        first = client.upload(CONTENT)
        assert_problem(client.post(CONTENT), 507)
        assert_problem(client.post(iter([CONTENT])), 507)
        client.remove(first)
        wait_for(lambda: client.post(CONTENT).status_code == 202)


def test_a_job_with_more_rows_than_allowed_fails(tmp_path: Path) -> None:
    with serving(tmp_path, jobs_max_rows=10) as (_, client):
        job = client.wait(client.upload(CONTENT))
        assert (job["state"], job["problem"]["status"], job["problem"]["code"]) == (
            "failed",
            413,
            "payload_too_large",
        )
        assert client.wait(client.upload(csv_file(ROWS[:10])))["state"] == "done"


def test_a_document_of_a_job_is_no_longer_than_one_of_a_request(tmp_path: Path) -> None:
    rows = [{"query": "fox", "document": "a fox"}, {"query": "fox", "document": "x" * 51}]
    with serving(tmp_path, max_document_chars=50) as (_, client):
        job = client.wait(client.upload(csv_file(rows)))
        assert (job["state"], job["problem"]["status"]) == ("failed", 422)
        assert "50" in job["problem"]["message"]
        job = client.wait(client.upload(csv_file(rows), on_bad_row="reject"))
        assert (job["state"], job["num_written"], job["progress"]["num_rejected"]) == ("done", 1, 1)


def test_a_full_disk_is_answered_507_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with serving(tmp_path) as (_, client):
        with monkeypatch.context() as patch:
            patch.setattr(Store, "begin", full)
            assert_problem(client.post(CONTENT), 507)
            patch.undo()
            patch.setattr(Store, "commit", full)
            assert_problem(client.post(CONTENT), 507)
        wait_for(lambda: is_empty(tmp_path))
        assert client.wait(client.upload(CONTENT))["state"] == "done"


class ShortWrites(io.FileIO):
    """A file whose writes accept a few bytes at a time, and none after `room` bytes."""

    room: ClassVar[int]

    def write(self, data: Any, /) -> int:
        piece = memoryview(data)[: min(7, self.room - self.tell())]
        if not piece:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(piece)


def test_a_write_that_the_disk_takes_in_part_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect lost the rest of a piece that the system wrote in part when the disk became full."""
    begin = Store.begin

    def begin_short(store: Store, job: Job) -> ShortWrites:
        with begin(store, job) as file:
            return ShortWrites(file.name, "r+")

    monkeypatch.setattr(Store, "begin", begin_short)
    with serving(tmp_path) as (_, client):
        monkeypatch.setattr(ShortWrites, "room", len(CONTENT), raising=False)
        assert client.wait(client.upload(CONTENT))["num_written"] == len(ROWS)
        monkeypatch.setattr(ShortWrites, "room", len(CONTENT) - 1)
        assert_problem(client.post(CONTENT), 507)


def test_a_full_database_is_answered_507_and_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as (running, client):
        client.wait(client.upload(CONTENT))
        assert running.service.jobs is not None
        writer = running.service.jobs._store._writer
        pages = {
            name: writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "max_page_count")
        }
        writer.execute(f"PRAGMA max_page_count = {pages['page_count']}")
        before = entries(tmp_path)
        assert_problem(client.post(CONTENT, instruction="x" * 9000), 507)
        wait_for(lambda: entries(tmp_path) == before)
        writer.execute(f"PRAGMA max_page_count = {pages['max_page_count']}")
        assert client.wait(client.upload(CONTENT, instruction="x" * 9000))["state"] == "done"
        assert len(client.jobs()) == 2


@pytest.mark.parametrize("is_removed", [False, True])
def test_the_end_of_a_job_is_recorded_when_the_disk_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_removed: bool
) -> None:
    finish, tried, has_room = Store.finish, threading.Event(), threading.Event()

    def finish_if_room(store: Store, job: Job) -> bool:
        tried.set()
        if not has_room.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return finish(store, job)

    monkeypatch.setattr(manager, "RETRY_S", 0.01)
    monkeypatch.setattr(Store, "finish", finish_if_room)
    with serving(tmp_path) as (running, client):
        job_id = client.upload(CONTENT)
        assert tried.wait(20)
        assert client.state(job_id) == "running"
        if is_removed:
            client.remove(job_id)
            wait_for(lambda: not entries(tmp_path))
            assert client.jobs() == []
        has_room.set()
        if not is_removed:
            assert client.wait(job_id)["num_written"] == len(ROWS)
        with running.client() as other:
            text = other.get("/metrics").text
        assert f'rerank_jobs_finished_total{{state="{"cancelled" if is_removed else "done"}"}} 1.0' in text
        assert f"rerank_job_pairs_total {len(ROWS)}.0" in text  # nothing was scored twice


# Clients that are slow, or leave.


def test_an_upload_whose_client_leaves_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, client), connect(_) as connection:
        connection.sendall(head(10_000_000) + CONTENT + b"x" * 200_000)
        wait_for(lambda: not is_empty(tmp_path))
        connection.close()
        wait_for(lambda: is_empty(tmp_path))
        assert client.jobs() == []
        client.upload(CONTENT)


def test_a_long_upload_may_take_longer_than_any_other_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_rerank_plugins.service.server.protocol.APP_MARGIN_S", 0.1)
    lines = csv_file(pairs(12_000))
    pieces = [lines[at : at + 70_000] for at in range(0, len(lines), 70_000)]
    assert len(pieces) * TIMEOUT_S / 3 > 1.5 * (TIMEOUT_S + 0.1)
    with serving(tmp_path, receive_timeout_s=TIMEOUT_S) as (running, client), connect(running) as connection:
        connection.sendall(head(len(lines)))
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(TIMEOUT_S / 3)
        answer = connection.recv(65536)
        assert b" 202 " in answer.split(b"\r\n")[0]
        (job,) = client.jobs()
        assert client.wait(job["id"])["num_written"] == 12_000


def test_an_upload_that_comes_in_drops_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, receive_timeout_s=TIMEOUT_S) as (running, _), connect(running) as connection:
        connection.sendall(head(1_000_000) + CONTENT[:100])
        answer = b""
        while b"\r\n" not in answer:
            time.sleep(TIMEOUT_S / 6)
            with suppress(OSError):
                connection.sendall(b"x")
            connection.setblocking(False)
            with suppress(BlockingIOError):
                answer += connection.recv(65536)
            connection.setblocking(True)
        assert b" 408 " in answer.split(b"\r\n")[0]
        wait_for(lambda: is_empty(tmp_path))


@pytest.mark.timeout(600)
def test_a_result_can_be_read_to_its_end_while_its_job_is_removed(tmp_path: Path) -> None:
    rows = pairs(60_000)
    with serving(tmp_path) as (_, client):
        job_id = client.upload(csv_file(rows))
        size = client.wait(job_id)["result_bytes"]
        with client.http.stream("GET", f"/v1/jobs/{job_id}/result") as answer:
            chunks = answer.iter_bytes()
            received = len(next(chunks))
            client.remove(job_id)
            assert not (tmp_path / job_id).exists()
            received += sum(map(len, chunks))
        assert received == size > 3_000_000


# Priority.


def test_requests_are_answered_while_a_job_runs(tmp_path: Path) -> None:
    """The queue is tiny: a job of equal priority would fill it, and requests would be rejected."""
    config = RerankConfig(
        model="demo", device="cpu", max_batch_tokens=512, max_queue_tokens=2048, num_threads=1
    )
    with serving(tmp_path, config=config, max_wait_s=60.0) as (running, client):
        job_id = client.upload(csv_file(pairs(4000)))
        wait_for(lambda: client.job(job_id)["progress"]["num_pairs"] > 0, timeout_s=60)
        with ThreadPoolExecutor(3) as pool:
            texts = [f"the {number} blue whale" for number in range(5)]
            answers = list(pool.map(lambda number: running.rank(f"whale {number}", texts), range(30)))
        assert [answer.status_code for answer in answers] == [200] * 30
        assert client.state(job_id) == "running"
        client.remove(job_id)


def test_a_job_of_a_remote_service_waits_while_requests_are_pending_but_not_indefinitely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A local model's scheduler knows the priority of a call; a remote service may ignore it."""
    requests = [ScoreRequest("fox", "a fox"), ScoreRequest("fox", "whale"), ScoreRequest("a", "a", "why")]

    async def main() -> None:
        scorer = SteeredScorer()
        config = RerankConfig(backend="remote", base_url="http://127.0.0.1:1")
        lifecycle = Lifecycle(
            lambda: Reranker(config, scorer=scorer),
            can_rebuild=False,
            on_engine_failure="recover",
            announce=lambda _: None,
        )
        admission = AdmissionController(ServiceSettings())
        job = BackgroundScorer(lifecycle, admission)
        await lifecycle.start()
        await lifecycle.ready.wait()
        probes = scorer.started
        monkeypatch.setattr(background, "YIELD_S", 3600.0)
        with admission.enter(100):
            scores = asyncio.create_task(job.ascore(requests))
            await asyncio.sleep(0.3)
            assert scorer.started == probes
        assert [score.relevance_score > 0.5 for score in await scores] == [True, False, True]
        monkeypatch.setattr(background, "YIELD_S", 0.05)
        with admission.enter(100):
            assert len(await job.ascore(requests)) == 3
        await lifecycle.stop()

    asyncio.run(main())


def test_a_job_calls_nothing_while_the_engine_is_not_ready() -> None:
    """A call to an engine that recovers would fail, and eight failures end a job."""

    async def main() -> None:
        scorer = SteeredScorer()
        lifecycle = Lifecycle(
            lambda: Reranker(scorer=scorer),
            can_rebuild=False,
            on_engine_failure="recover",
            announce=lambda _: None,
        )
        job = BackgroundScorer(lifecycle, AdmissionController(ServiceSettings()))
        scores = asyncio.create_task(job.ascore([ScoreRequest("fox", "a fox")]))
        await asyncio.sleep(0.3)
        assert scorer.started == 0
        lifecycle.ready.set()
        assert len(await scores) == scorer.started == 1

    asyncio.run(main())


# Metrics and log lines.


def test_jobs_are_counted_and_logged_without_a_text_or_a_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"), serving(tmp_path) as (running, client):
        rows = [{"query": "sesame", "document": "sesame"}, *ROWS]
        job_id = client.upload(csv_file(rows), name="sesame.csv", instruction="sesame")
        client.wait(job_id)
        client.wait(client.upload(csv_file([{"query": " ", "document": "sesame"}])))
        with running.client() as other:
            text = other.get("/metrics").text
    assert 'rerank_jobs{state="done"} 1.0' in text
    assert 'rerank_jobs_finished_total{state="failed"} 1.0' in text
    assert f"rerank_job_rows_total {len(rows)}.0" in text
    assert f"rerank_job_pairs_total {len(rows)}.0" in text
    assert 'route="/v1/jobs/{id}"' in text
    ours = [record for record in caplog.records if record.name.startswith("qwen_rerank_plugins")]
    lines = "\n".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    assert "job done" in lines
    assert "sesame" not in lines
    assert job_id not in lines
    assert job_id[:8] in lines
    details = {record["id"]: json.loads(record["details"]) for record in records(tmp_path)}
    assert details[job_id]["name"] == "sesame.csv"


def test_a_service_that_ends_takes_no_upload(tmp_path: Path) -> None:
    with serving(tmp_path, shutdown_delay_s=1.0) as (running, client):
        running.server.drain()
        answer = client.http.post("/v1/jobs", content=CONTENT, headers=CSV)
        assert_problem(answer, 503)
        assert is_empty(tmp_path)
