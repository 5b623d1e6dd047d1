"""`bash start.sh` serves: from a prepared environment to a page, an answer, and an orderly shutdown."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from qwen_rerank_plugins.config import DEFAULT_MODEL
from scripts import first_run
from tests.laws.sources import ROOT, plain_environment

START_S = 110.0

pytestmark = [pytest.mark.loopback, pytest.mark.timeout(240)]


class Started:
    """A process that was started, and what it has printed so far."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=plain_environment() | {"HF_HUB_OFFLINE": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            self.lines.extend(stream)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            if found := re.search(pattern, self.output):
                return found
            assert self.process.poll() is None, self.output
            time.sleep(0.05)
        raise AssertionError(f"{pattern!r} was not printed: {self.output}")

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(10)
        return status


@contextmanager
def started(*command: str, **environment: str) -> Iterator[Started]:
    run = Started(*command, **environment)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait(10)


def test_start_serves_page_and_answers_until_it_is_interrupted() -> None:
    with started("bash", "start.sh", "--model", "demo", "--port", "0") as run:
        base = run.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        with httpx.Client(base_url=base, trust_env=False, timeout=60) as client:
            assert client.get("/ready").json()["status"] == "ready"
            page = client.get("/")
            assert page.headers["Content-Type"].startswith("text/html")
            assert "<title>" in page.text
            body = {"queries": ["kettle"], "documents": [["a night train", "descale the kettle"]]}
            ranked = client.post("/api/rerank", json=body).json()["results"][0]["results"]
        assert [entry["index"] for entry in ranked] == [1, 0]
        assert run.end() == 0
    assert re.search(r"ready after \d+\.\d s: demo · cpu", run.output)
    assert "only this machine can reach it" in run.output
    assert "The DEMO model is ranking" in run.output
    assert "asking the hub" not in run.output
    assert "Traceback" not in run.output


def test_start_falls_back_to_the_demo_loudly_when_there_is_no_hub() -> None:
    with started(sys.executable, "scripts/first_run.py", "--port", "0") as run:
        run.wait_for("ready after")
        assert run.end(signal.SIGTERM) == 0
    assert "The DEMO checkpoint is going to rank" in run.output
    assert DEFAULT_MODEL in run.output


def test_start_never_replaces_a_model_that_was_named(tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing")
    for arguments, environment, place in (
        (("--model", nothing), {}, nothing),
        ((), {"QWEN_RERANK_MODEL": nothing}, nothing),
        (
            ("--model", "org/none", "--hub", "modelscope"),
            {"MODELSCOPE_CACHE": nothing},
            "https://modelscope.cn",
        ),
    ):
        with started(sys.executable, "scripts/first_run.py", "--port", "0", *arguments, **environment) as run:
            assert run.process.wait(60) == 1
        assert "CheckpointNotFoundError" in run.output
        assert place in run.output
        assert "DEMO" not in run.output


def test_a_busy_port_is_reported_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with started(sys.executable, "scripts/first_run.py", "--model", "demo", "--port", port) as run:
            assert run.process.wait(60) == 2
    assert f"port {port} on '127.0.0.1' is in use" in run.output
    assert "--port" in run.output
    assert "loading" not in run.output


def test_a_public_address_without_a_key_is_warned_about() -> None:
    command = (sys.executable, "-m", "qwen_rerank_plugins", "serve", "--backend", "lexical", "--port", "0")
    with started(*command, "--host", "0.0.0.0") as run:  # noqa: S104 (that is the point)
        run.wait_for("ready after")
        assert run.end() == 0
    assert "WARNING: 0.0.0.0 can be reached from other machines, and no API key is required" in run.output
    assert re.search(r"local\s+http://127\.0\.0\.1:", run.output)


def test_start_has_a_help_that_loads_no_model() -> None:
    with started(sys.executable, "scripts/first_run.py", "--help") as run:
        assert run.process.wait(60) == 0
    assert "--api-keys-file" in run.output
    assert "loading" not in run.output


@pytest.mark.parametrize(
    ("arguments", "environment", "wanted"),
    [
        ((), {}, first_run.HUBS),
        (("--port", "1"), {}, first_run.HUBS),
        (("--hub", "modelscope"), {}, ("modelscope",)),
        ((), {"QWEN_RERANK_HUB": "huggingface"}, ("huggingface",)),
        (("--model=x",), {}, ()),
        (("--model=x", "--hub=modelscope"), {}, ()),
        (("--help",), {}, ()),
        (("--backend", "lexical"), {}, ()),
        ((), {"QWEN_RERANK_MODEL": "x"}, ()),
        ((), {"QWEN_RERANK_BACKEND": "lexical"}, ()),
        (("--config", "missing.yaml"), {}, ()),
        (("--hub", "unknown"), {}, ()),
    ],
)
def test_a_model_is_chosen_only_where_nobody_named_one(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    wanted: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert first_run.hubs_to_ask(arguments) == wanted


def test_a_model_named_in_the_configuration_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: some/model\n", encoding="utf-8")
    assert not first_run.hubs_to_ask(["--config", str(path)])
    path.write_text("top_n: 3\n", encoding="utf-8")
    assert first_run.hubs_to_ask(["--config", str(path)])
