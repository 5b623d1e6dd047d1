"""The service as a process: signals, exit codes, a busy port, its log."""

from __future__ import annotations

import gc
import json
import signal
import socket
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwen_rerank_plugins import ConfigurationError, RerankConfig
from qwen_rerank_plugins.service.lifecycle import Event
from qwen_rerank_plugins.service.server.server import _collect_garbage, bind, serve
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.laws.sources import run_fresh
from tests.service.servers import RunningProcess, running_process, wait_for

pytestmark = pytest.mark.loopback

BODY = {"query": "the secret question", "documents": ["a secret answer", "another"]}
KEY = "sesame-4711"


def post(running: RunningProcess, **options: Any) -> httpx.Response:
    return httpx.post(f"{running.base_url}/v1/rerank", json=BODY, trust_env=False, timeout=30, **options)


def test_a_term_signal_finishes_what_was_accepted_and_exits_with_0(tmp_path: Path) -> None:
    with running_process(tmp_path, scorer={"delay_s": 1.5}) as running, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, running) for _ in range(4)]
        time.sleep(0.7)
        running.process.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in answers] == [200] * 4
        assert running.wait(10) == 0
        with pytest.raises(httpx.ConnectError):
            post(running)


def test_an_interrupt_ends_in_order_too(tmp_path: Path) -> None:
    with running_process(tmp_path) as running:
        running.process.send_signal(signal.SIGINT)
        assert running.wait(10) == 0
    assert "Traceback" not in running.log.read_text(encoding="utf-8")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with running_process(tmp_path, scorer={"delay_s": 60.0}) as running, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, running)
        time.sleep(0.5)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        start = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - start < 2
        with pytest.raises(httpx.TransportError):
            answer.result()


def test_a_dead_engine_ends_the_process_with_1_and_every_client_gets_an_answer(tmp_path: Path) -> None:
    settings = {"on_engine_failure": "exit", "shutdown_delay_s": 1.0}
    with running_process(tmp_path, scorer={"delay_s": 0.5, "dies_after": 3}, settings=settings) as running:
        with ThreadPoolExecutor(8) as pool:
            statuses = [answer.status_code for answer in pool.map(lambda _: post(running), range(8))]
        assert sorted(set(statuses)) == [200, 503]
        assert running.wait(20) == 1


def test_a_killed_process_leaves_no_client_waiting(tmp_path: Path) -> None:
    with running_process(tmp_path, scorer={"delay_s": 60.0}) as running, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, running)
        time.sleep(0.5)
        running.process.kill()
        with pytest.raises(httpx.TransportError):
            answer.result(10)


def test_a_model_that_is_not_there_ends_the_process_with_1(tmp_path: Path) -> None:
    config = {"model": str(tmp_path / "no-such-folder"), "device": "cpu"}
    with running_process(tmp_path, config=config, wait=False) as running:
        assert running.wait(60) == 1


def test_a_busy_port_is_named_with_the_option_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} .* in use .* --port"):
            serve(RerankConfig(backend="lexical"), ServiceSettings(port=port))


def test_an_address_of_another_machine_cannot_be_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ConfigurationError, match=r"'192\.0\.2\.1'.*--host"):
        bind(ServiceSettings(host="192.0.2.1", port=0))


def test_every_log_line_is_json_and_none_holds_a_text_or_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYS", KEY)
    with running_process(tmp_path, settings={"api_keys_env": "KEYS"}) as running:
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "id-1"}
        assert post(running, headers=headers).status_code == 200
        assert post(running, headers={"Authorization": f"Bearer {KEY}x"}).status_code == 401
        bad = httpx.post(
            f"{running.base_url}/rerank",
            content=b'{"query":"the secret question","documents":"secret"',
            headers={**headers, "Content-Type": "application/json"},
            trust_env=False,
        )
        assert bad.status_code == 400
        assert (
            httpx.get(f"{running.base_url}/secret?q=secret", headers=headers, trust_env=False).status_code
            == 404
        )
        running.process.terminate()
        assert running.wait(10) == 0
    text = running.log.read_text(encoding="utf-8")
    assert "secret" not in text
    assert KEY not in text
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in lines if line["msg"] == "request"]
    assert [line["status"] for line in requests if line["route"] != "/ready"] == [200, 401, 400, 404]
    ranked = next(line for line in requests if line["status"] == 200 and line["route"] == "/v1/rerank")
    assert (ranked["request_id"], ranked["documents"], ranked["level"]) == ("id-1", 2, "info")
    assert {"ts", "ms", "read_ms", "parse_ms", "score_ms", "write_ms", "tokens", "dialect"} <= set(ranked)


def test_log_lines_can_be_text(tmp_path: Path) -> None:
    with running_process(tmp_path, settings={"log_format": "text"}) as running:
        post(running)
        wait_for(lambda: 'route="/v1/rerank"' in running.log.read_text(encoding="utf-8"))
    assert "secret" not in running.log.read_text(encoding="utf-8")


def test_what_was_loaded_is_kept_from_the_garbage_collector() -> None:
    """Each full collection over a model's objects would stop every thread."""
    ran = run_fresh(
        "import gc, os, signal\n"
        "from qwen_rerank_plugins import RerankConfig\n"
        "from qwen_rerank_plugins.service.server.server import serve\n"
        "from qwen_rerank_plugins.service.settings import ServiceSettings\n"
        "def tell(event):\n"
        "    if event.kind == 'loaded':\n"
        "        print('frozen:', gc.get_freeze_count() > 1000)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "raise SystemExit(serve(RerankConfig(backend='lexical'), ServiceSettings(port=0), announce=tell))\n"
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "frozen: True"), ran.stderr


class Traceback:
    itself: Traceback


def test_what_a_failed_engine_left_is_collected_when_the_service_has_recovered() -> None:
    """The tracebacks of an engine's death hold its tensors in cycles: memory grew by 5 MB with each rebuild of a tiny model."""
    gc.collect()
    gc.disable()
    try:
        traceback = Traceback()
        traceback.itself = traceback
        garbage = weakref.ref(traceback)
        del traceback
        _collect_garbage(lambda _: None)(Event("recovered"))
        assert garbage() is None
    finally:
        gc.enable()
