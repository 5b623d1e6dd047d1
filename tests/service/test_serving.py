"""Deadlines, disconnected clients, overload, failing and recovering engines: every request is answered."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx
import pytest

from qwen_rerank_plugins import (
    EngineError,
    LexicalScorer,
    OverloadedError,
    RerankConfig,
    Scorer,
    WorkerDiedError,
)
from qwen_rerank_plugins.errors import CheckpointNotFoundError, DeviceLostError, NonFiniteScoreError
from qwen_rerank_plugins.service.admission import AdmissionController
from tests.service.doubles import SteeredScorer
from tests.service.schemas.test_json_codec import assert_problem
from tests.service.servers import RunningService, running_service, wait_for

pytestmark = pytest.mark.loopback


def balanced(admission: AdmissionController) -> bool:
    """Return whether nothing is pending, and every accepted request was answered or cancelled."""
    return admission.pending_requests == admission.pending_tokens == admission.pending_bytes == 0 and (
        admission.accepted == admission.answered + admission.cancelled
    )


def raw_request(body: bytes, *, declared: int | None = None) -> bytes:
    head = (
        "POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body) if declared is None else declared}\r\n\r\n"
    )
    return head.encode() + body


BODY = json.dumps({"query": "blue whale", "documents": ["a fox", "the blue whale"]}).encode()


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    scorer = SteeredScorer(delay_s=30.0)
    with running_service(scorer=scorer, request_timeout_s=0.3) as running:
        start = time.perf_counter()
        problem = assert_problem(running.rank(), 504)
        assert time.perf_counter() - start < 3.0
        assert "deadline" in problem["message"]
        assert scorer.deadlines[-1] == 0.3
        wait_for(lambda: scorer.cancelled == 1)
        assert balanced(running.service.admission)


def test_the_work_for_a_client_that_left_is_cancelled_and_counted() -> None:
    scorer = SteeredScorer(delay_s=30.0)
    with running_service(scorer=scorer) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as client:
            client.sendall(raw_request(BODY))
            wait_for(lambda: scorer.started == 1)
        wait_for(lambda: scorer.cancelled == 1)
        wait_for(lambda: balanced(running.service.admission))
        assert (running.service.admission.answered, running.service.admission.cancelled) == (0, 1)
        scorer.delay_s = 0.0
        assert running.rank().status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_holds_nothing() -> None:
    with running_service() as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as client:
            client.sendall(raw_request(BODY, declared=1000))
            wait_for(lambda: running.service.admission.pending_bytes > 0)
        wait_for(lambda: balanced(running.service.admission))
        assert running.service.admission.accepted == 0


def test_overload_is_answered_at_once_and_the_counters_balance() -> None:
    """There is room for four requests of about 40 tokens; the others are rejected while these are still scored."""
    scorer = SteeredScorer()
    with running_service(scorer=scorer, max_pending_tokens=210) as running:
        running.rank()
        scorer.released.clear()
        with ThreadPoolExecutor(24) as pool:
            answers = as_completed([pool.submit(running.rank) for _ in range(24)], timeout=100)
            rejected = [next(answers).result() for _ in range(20)]
            assert running.service.admission.answered == 1, "the accepted four are still scored"
            scorer.released.set()
            accepted = [answer.result() for answer in answers]
        assert {answer.status_code for answer in accepted} == {200}
        for answer in rejected:
            assert_problem(answer, 429)
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["x-amzn-errortype"] == "ThrottlingException"
        admission = running.service.admission
        wait_for(lambda: balanced(admission))
        assert (admission.accepted, admission.answered) == (5, 5)


def test_a_full_queue_of_the_scheduler_is_overload_too() -> None:
    with running_service(scorer=SteeredScorer(error=OverloadedError("full", retry_after_s=6.5))) as running:
        answer = running.rank()
        assert_problem(answer, 429)
        assert answer.headers["retry-after"] == "7"


def test_a_failing_score_is_an_error_of_one_request() -> None:
    scorer = SteeredScorer()
    with running_service(scorer=scorer) as running:
        scorer.error, scorer.num_errors = NonFiniteScoreError("NaN"), 1
        assert_problem(running.rank(), 500)
        assert running.rank().status_code == 200
        assert "failing" not in [event.kind for event in running.events]


def test_an_unexpected_error_says_nothing_of_itself() -> None:
    with running_service(scorer=SteeredScorer()) as running:
        running.service.lifecycle.reranker._scorer.error = KeyError("sesame")  # type: ignore[union-attr]
        assert "sesame" not in running.rank().text
        assert_problem(running.rank(), 500)


def test_the_service_says_no_while_its_engine_is_dead_and_recovers() -> None:
    scorer = SteeredScorer()
    with running_service(scorer=scorer) as running, running.client() as client:
        running.service.lifecycle._probe_every_s = 0.1
        scorer.error = WorkerDiedError("dead")
        assert_problem(running.rank(), 503)
        answer = client.get("/ready")
        assert_problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == 200
        started = scorer.started
        assert_problem(running.rank(), 503)
        assert scorer.started == started, "a request is not used as a probe"
        scorer.error = None
        wait_for(lambda: client.get("/ready").status_code == 200)
        assert running.rank().status_code == 200
        assert [event.kind for event in running.events] == ["loading", "loaded", "failing", "recovered"]
        assert balanced(running.service.admission)


def test_every_open_request_gets_an_error_when_the_engine_dies_under_load() -> None:
    scorer = SteeredScorer(delay_s=0.5)
    with running_service(scorer=scorer) as running:
        running.service.lifecycle._probe_every_s = 0.1
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(running.rank) for _ in range(12)]
            wait_for(lambda: scorer.started >= 6)
            scorer.error = WorkerDiedError("dead")
            assert {answer.result().status_code for answer in answers} == {503}
        scorer.error = None
        wait_for(lambda: running.service.is_ready)
        assert balanced(running.service.admission)


class MortalScorer(LexicalScorer):
    """A scorer that dies permanently after its first probe."""

    made: int = 0
    dead = False

    async def ascore(
        self, requests: Any, *, deadline_s: float | None = None, priority: str = "interactive"
    ) -> Any:
        if self.dead:
            raise WorkerDiedError("dead for good")
        return await super().ascore(requests, deadline_s=deadline_s)


def test_an_engine_that_stays_dead_is_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[MortalScorer] = []

    def build(config: RerankConfig, *, shared: bool) -> Scorer:
        made.append(MortalScorer())
        return made[-1]

    monkeypatch.setattr("qwen_rerank_plugins.reranker.build_scorer", build)
    with running_service() as running:
        running.service.lifecycle._probe_every_s = 0.05
        made[0].dead = True
        assert_problem(running.rank(), 503)
        wait_for(lambda: running.service.is_ready)
        assert len(made) == 2
        assert running.rank().status_code == 200


def test_a_dead_engine_ends_the_service_if_it_shall() -> None:
    scorer = SteeredScorer()
    with running_service(scorer=scorer, on_engine_failure="exit") as running:
        scorer.error = WorkerDiedError("dead")
        assert_problem(running.rank(), 503)
        wait_for(lambda: running.server.should_exit)
        assert running.server.exit_code == 1
        assert running.events[3].kind == "failed"


@pytest.mark.parametrize("policy", ["recover", "exit"])
def test_a_lost_device_ends_the_service_whatever_a_dead_engine_means(policy: str) -> None:
    """No probe and no new engine in this process can succeed: `/ready` returns 503, and the process exits with 1."""
    scorer = SteeredScorer()
    with running_service(scorer=scorer, on_engine_failure=policy) as running:
        running.service.lifecycle.on_fatal = lambda error: None  # the socket stays open for this test
        scorer.error = DeviceLostError("cuda:0 is lost")
        assert_problem(running.rank(), 503)
        with running.client() as client:
            assert_problem(client.get("/ready"), 503)
        assert [event.kind for event in running.events] == ["loading", "loaded", "failed"]
        assert running.service.lifecycle.state == "broken"
        started = scorer.started
        assert_problem(running.rank(), 503)
        assert scorer.started == started, "nothing is sent to a lost device"


def test_a_failing_probe_ends_the_service_if_it_shall() -> None:
    scorer = SteeredScorer()
    with running_service(scorer=scorer, on_engine_failure="exit") as running:
        scorer.error = EngineError("broken")
        assert_problem(running.rank(), 500)
        wait_for(lambda: running.server.exit_code == 1)


class SlowToLoad(SteeredScorer):
    """A scorer whose first call waits until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def info(self) -> dict[str, Any]:
        assert self.let_go.wait(20)
        return super().info()


def test_the_port_answers_while_the_model_is_loading() -> None:
    scorer = SlowToLoad()
    with running_service(scorer=scorer, wait=False) as running, running.client() as client:
        assert client.get("/health").status_code == 200
        assert client.get("/info").json()["state"] == "loading"
        answer = client.get("/ready")
        assert "loading" in assert_problem(answer, 503)["message"]
        assert "retry-after" in answer.headers
        assert_problem(running.rank(), 503)
        assert client.get("/.well-known/ready").status_code == 503
        scorer.let_go.set()
        wait_for(lambda: running.rank().status_code == 200)
        loaded = running.events[-1]
        assert (loaded.kind, loaded.info and loaded.info["model"]) == ("loaded", "steered")
        assert loaded.seconds is not None
        assert loaded.seconds > 0


def test_a_model_that_cannot_be_loaded_ends_the_service_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(config: RerankConfig, *, shared: bool) -> Scorer:
        raise CheckpointNotFoundError("no such folder: '/secret'")

    monkeypatch.setattr("qwen_rerank_plugins.reranker.build_scorer", build)
    with running_service(wait=False) as running:
        wait_for(lambda: running.server.exit_code == 1)
        assert [event.kind for event in running.events][:2] == ["loading", "failed"]
        assert "/secret" in str(running.events[1].error)


def test_a_model_that_is_still_loading_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def build(config: RerankConfig, *, shared: bool) -> Scorer:
        assert let_go.wait(60)
        return LexicalScorer()

    monkeypatch.setattr("qwen_rerank_plugins.reranker.build_scorer", build)
    start = time.monotonic()
    with running_service(wait=False) as running, running.client() as client:
        assert client.get("/health").status_code == 200
        running.server.drain()
        wait_for(lambda: "stopped" in [event.kind for event in running.events])
        assert time.monotonic() - start < 10
    let_go.set()


def test_a_scorer_that_was_passed_in_is_left_alone() -> None:
    scorer = SteeredScorer()
    with running_service(scorer=scorer) as running:
        running.rank()
    assert scorer.closed == 0
    assert running.events[-1].kind == "stopped"


def test_stopping_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    scorer = SteeredScorer(delay_s=1.0)
    with running_service(scorer=scorer, shutdown_delay_s=0.5) as running, ThreadPoolExecutor(1) as pool:
        with running.client() as client:
            accepted = pool.submit(running.rank)
            wait_for(lambda: scorer.started == 1)
            running.server.drain()
            assert "shutting down" in assert_problem(client.get("/ready"), 503)["message"]
            assert_problem(
                client.post("/rerank", content=BODY, headers={"Content-Type": "application/json"}), 503
            )
            assert accepted.result().status_code == 200
        wait_for(lambda: refuses(running))


def refuses(running: RunningService) -> bool:
    try:
        running.rank()
    except httpx.TransportError:
        return True
    return False


def test_what_takes_longer_than_the_grace_is_answered_with_an_error() -> None:
    scorer = SteeredScorer(delay_s=30.0)
    with running_service(scorer=scorer, shutdown_grace_s=0.3) as running, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(running.rank)
        wait_for(lambda: scorer.started == 1)
        running.server.drain()
        assert_problem(accepted.result(), 503)
        assert balanced(running.service.admission)
