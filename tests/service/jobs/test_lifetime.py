"""Jobs over time: killed and resumed, drained, cancelled, expired; with engines that fail."""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins import RerankConfig
from qwen_rerank_plugins.errors import NonFiniteScoreError, OverloadedError, WorkerDiedError
from tests.service.doubles import SteeredScorer
from tests.service.jobs.uploads import Client, csv_file, entries, pairs, records, rows_of, serving
from tests.service.schemas.test_json_codec import assert_problem
from tests.service.servers import RunningProcess, running_process, wait_for

pytestmark = pytest.mark.loopback

ROWS = pairs(600)
SMALL_CALLS: dict[str, Any] = {"backend": "lexical", "batch": {"call_pairs": 8}}
KILLS = 5


def process(folder: Path, *, delay_s: float = 0.02) -> Any:
    """A service in a process of its own, in which a job takes a second or two."""
    return running_process(
        folder,
        config=SMALL_CALLS,
        settings={"jobs_folder": str(folder / "jobs")},
        scorer={"delay_s": delay_s},
    )


def client_of(running: RunningProcess) -> Client:
    return Client(running.base_url)


def undisturbed(folder: Path) -> bytes:
    """Return the result of an uninterrupted run."""
    with serving(folder / "calm", config=RerankConfig(**SMALL_CALLS), scorer=SteeredScorer()) as (_, client):
        job_id = client.upload(csv_file(ROWS))
        assert client.wait(job_id)["state"] == "done"
        return client.result(job_id).content


def test_a_job_that_is_killed_again_and_again_ends_with_exactly_the_same_rows(tmp_path: Path) -> None:
    wanted = undisturbed(tmp_path)
    moments = random.Random(20261122)
    with process(tmp_path) as running:
        client = client_of(running)
        job_id = client.upload(csv_file(ROWS), name="survivor.csv")
        wait_for(lambda: client.job(job_id)["progress"]["num_pairs"] > 0)
        running.process.kill()
    num_seen = 0
    for _ in range(KILLS - 1):
        with process(tmp_path) as running:
            client = client_of(running)
            time.sleep(moments.uniform(0.0, 0.5))
            num_seen += client.state(job_id) in {"queued", "running"}
            running.process.kill()
    assert num_seen, "the job was over before it was killed a second time"
    with process(tmp_path) as running:
        client = client_of(running)
        job = client.wait(job_id)
        assert (job["state"], job["name"], job["num_written"]) == ("done", "survivor.csv", len(ROWS))
        assert client.result(job_id).content == wanted


def test_an_upload_that_was_answered_is_there_after_a_kill(tmp_path: Path) -> None:
    with process(tmp_path, delay_s=30.0) as running:
        client = client_of(running)
        ids = [client.upload(csv_file(ROWS), name=f"{number}.csv") for number in range(3)]
        running.process.kill()
    (tmp_path / "jobs" / f"{'0' * 32}.new").mkdir()
    with process(tmp_path) as running:
        client = client_of(running)
        assert {job["id"] for job in client.jobs()} == set(ids)
        assert [client.wait(job_id)["state"] for job_id in ids] == ["done"] * 3
        assert entries(tmp_path / "jobs") == set(ids)


def test_a_drained_service_stops_a_job_and_the_next_one_goes_on(tmp_path: Path) -> None:
    wanted = undisturbed(tmp_path)
    with process(tmp_path) as running:
        client = client_of(running)
        job_id = client.upload(csv_file(ROWS))
        wait_for(lambda: client.job(job_id)["progress"]["num_pairs"] > 50)
        running.process.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    assert "Traceback" not in running.log.read_text(encoding="utf-8")
    (record,) = records(tmp_path / "jobs")
    assert record["state"] == "running"
    with process(tmp_path) as running:
        client = client_of(running)
        assert client.wait(job_id)["state"] == "done"
        assert client.result(job_id).content == wanted
        metrics = client.http.get("/metrics").text
    (num_pairs,) = re.findall(r"^rerank_job_pairs_total ([0-9.]+)$", metrics, flags=re.MULTILINE)
    assert 0 < float(num_pairs) <= len(ROWS) - 50  # the rest was scored before


def test_a_job_restarts_with_another_model(tmp_path: Path) -> None:
    slow = SteeredScorer(delay_s=0.05)
    folder = tmp_path / "jobs"
    with serving(folder, config=RerankConfig(**SMALL_CALLS), scorer=slow) as (_, client):
        job_id = client.upload(csv_file(ROWS))
        wait_for(lambda: client.job(job_id)["progress"]["num_pairs"] > 0)
    assert list(folder.glob("*/*.journal"))
    other = SteeredScorer()
    other.model = "another"
    with serving(folder, config=RerankConfig(**SMALL_CALLS), scorer=other) as (_, client):
        job = client.wait(job_id)
        assert (job["state"], job["model"], job["num_written"]) == ("done", "another", len(ROWS))


def test_a_running_job_is_cancelled_and_deleted_at_once(tmp_path: Path) -> None:
    scorer = SteeredScorer(delay_s=30.0)
    with serving(tmp_path, scorer=scorer) as (running, client):
        job_id = client.upload(csv_file(ROWS))
        waiting = client.upload(csv_file(ROWS))
        wait_for(lambda: scorer.started > 0)
        assert (client.state(job_id), client.job(waiting)["num_ahead"]) == ("running", 1)
        client.remove(job_id)
        assert_problem(client.http.get(f"/v1/jobs/{job_id}"), 404)
        assert [job["id"] for job in client.jobs()] == [waiting]
        wait_for(lambda: not (tmp_path / job_id).exists())
        wait_for(lambda: scorer.cancelled > 0)
        wait_for(lambda: client.state(waiting) == "running")
        client.remove(waiting)
        wait_for(lambda: not entries(tmp_path))
        with running.client() as other:
            ended = other.get("/metrics").text
        assert 'rerank_jobs_finished_total{state="cancelled"} 2.0' in ended


def test_a_cancelled_job_does_not_come_back_after_a_crash(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, client):
        job_id = client.upload(csv_file(ROWS))
        client.wait(job_id)
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as db, db:
        db.execute("UPDATE jobs SET state = 'cancelled'")
    with serving(tmp_path) as (_, client):
        assert client.jobs() == []
        assert not (tmp_path / job_id).exists()


def test_a_finished_job_is_forgotten_after_its_time(tmp_path: Path) -> None:
    with serving(tmp_path, jobs_retention_s=1.0) as (_, client):
        job_id = client.upload(csv_file(ROWS[:5]))
        wait_for(lambda: client.jobs() == [], timeout_s=10)
        assert_problem(client.http.get(f"/v1/jobs/{job_id}/result"), 404)
        wait_for(lambda: not entries(tmp_path))


def test_an_engine_that_fails_for_a_while_does_not_end_a_job(tmp_path: Path) -> None:
    scorer = SteeredScorer(error=WorkerDiedError("gone"))
    scorer.num_errors = 3
    with serving(tmp_path, scorer=scorer) as (_, client):
        job = client.wait(client.upload(csv_file(ROWS)))
        assert (job["state"], job["num_written"]) == ("done", len(ROWS))
        assert scorer.num_errors == 0


def test_a_full_queue_does_not_end_a_job(tmp_path: Path) -> None:
    scorer = SteeredScorer(error=OverloadedError("full", retry_after_s=0.01))
    scorer.num_errors = 40
    with serving(tmp_path, scorer=scorer) as (_, client):
        job = client.wait(client.upload(csv_file(ROWS)))
        assert (job["state"], job["num_written"]) == ("done", len(ROWS))


def test_a_score_that_is_no_number_ends_a_job_without_a_word_of_the_engine_s(tmp_path: Path) -> None:
    scorer = SteeredScorer()
    with serving(tmp_path, scorer=scorer) as (running, client):
        scorer.error = NonFiniteScoreError("NaN for sesame")
        job = client.wait(client.upload(csv_file(ROWS)))
        assert (job["state"], job["problem"]["status"]) == ("failed", 500)
        assert "sesame" not in str(job)
        scorer.error = None
        assert client.wait(client.upload(csv_file(ROWS)))["state"] == "done"
        assert running.rank().status_code == 200


@pytest.mark.parametrize(
    ("content", "change"),
    [
        (csv_file(ROWS[:5]), f"{len(csv_file(ROWS[:5]))} bytes instead of {len(csv_file(ROWS))}"),
        (csv_file(ROWS).swapcase(), "other content"),
    ],
)
def test_a_job_whose_upload_was_replaced_while_it_waited_fails(
    tmp_path: Path, content: bytes, change: str
) -> None:
    with serving(tmp_path) as (running, client):
        running.service.lifecycle._state = "failing"
        job_id = client.upload(csv_file(ROWS))
        assert "digest" not in client.job(job_id)
        (tmp_path / job_id / "input.csv").write_bytes(content)
        running.service.lifecycle._state = "ready"
        job = client.wait(job_id)
        assert (job["state"], job["problem"]["status"]) == ("failed", 422)
        assert f"{change}; upload it again" in job["problem"]["message"]


def test_a_job_does_not_go_on_with_another_file_of_the_same_size(tmp_path: Path) -> None:
    slow, folder = SteeredScorer(delay_s=0.05), tmp_path / "jobs"
    with serving(folder, config=RerankConfig(**SMALL_CALLS), scorer=slow) as (_, client):
        job_id = client.upload(csv_file(ROWS))
        wait_for(lambda: client.job(job_id)["progress"]["num_pairs"] > 0)
    (folder / job_id / "input.csv").write_bytes(csv_file(ROWS[::-1]))
    with serving(folder, config=RerankConfig(**SMALL_CALLS), scorer=SteeredScorer()) as (_, client):
        job = client.wait(job_id)
        assert (job["state"], job["problem"]["status"]) == ("failed", 422)
        assert "other content" in job["problem"]["message"]


def test_a_job_waits_for_the_model(tmp_path: Path) -> None:
    with serving(tmp_path) as (running, client):
        running.service.lifecycle._state = "failing"
        job_id = client.upload(csv_file(ROWS[:5]))
        time.sleep(0.3)
        assert client.state(job_id) == "queued"
        running.service.lifecycle._state = "ready"
        assert client.wait(job_id)["state"] == "done"
        assert len(rows_of(client.result(job_id).content)) == 5
