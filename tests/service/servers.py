"""Runs the real app under the real server on a free port of this machine, in a thread or as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from qwen_rerank_plugins import RerankConfig, Scorer
from qwen_rerank_plugins.service.app_state import AppState
from qwen_rerank_plugins.service.lifecycle import Event
from qwen_rerank_plugins.service.server.server import Server, bind, make_server
from qwen_rerank_plugins.service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 90.0


@dataclass(slots=True)
class RunningService:
    """A running service.

    Attributes:
        base_url: The address, without a trailing slash.
        service: Its parts.
        server: The server.
        events: The events reported so far.
    """

    base_url: str
    service: AppState
    server: Server
    events: list[Event] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        """A client that sees no proxy of this machine."""
        return httpx.Client(base_url=self.base_url, trust_env=False, timeout=PATIENCE_S, **options)

    def rank(
        self, query: str = "blue whale", documents: Any = ("a fox", "the blue whale"), **more: Any
    ) -> httpx.Response:
        """One plain request."""
        with self.client() as client:
            return client.post("/v1/rerank", json={"query": query, "documents": list(documents), **more})


@contextmanager
def running_service(
    config: RerankConfig | None = None,
    *,
    scorer: Scorer | None = None,
    wait: bool = True,
    **settings: Any,
) -> Iterator[RunningService]:
    """Serve in a thread until the block ends.

    Args:
        config: The reranker's settings; None for the lexical scorer.
        scorer: A fake that replaces the scorer of `config`.
        wait: Whether to wait until it is ready.
        settings: The service's settings; the port is a free one.
    """
    chosen = ServiceSettings(**{"port": 0, "shutdown_grace_s": 5.0, **settings})
    events: list[Event] = []
    server = make_server(
        config or RerankConfig(backend="lexical"),
        chosen,
        announce=events.append,
        scorer=scorer,
        configure_logging=False,
    )
    listener = bind(chosen)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="served")
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.start()
    app: Any = server.config.app
    running = RunningService(base_url, app.state.service, server, events)
    try:
        if wait:
            wait_ready(base_url)
        yield running
    finally:
        server.drain()
        thread.join(PATIENCE_S)
        listener.close()
    assert not thread.is_alive(), "the server did not end"


def wait_ready(base_url: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Wait until `/ready` returns 200."""
    wait_for(lambda: _status(base_url) == httpx.codes.OK, timeout_s=timeout_s)


def wait_for(condition: Any, *, timeout_s: float = 60.0) -> None:
    """Wait until a condition holds; fail after the timeout."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.02)


def _status(base_url: str) -> int:
    with suppress(httpx.TransportError):
        return httpx.get(f"{base_url}/ready", trust_env=False, timeout=5).status_code
    return 0


@dataclass(slots=True)
class RunningProcess:
    """A service in a process of its own.

    Attributes:
        base_url: Where it listens.
        process: The process.
        log: Its standard error, after it ended or while it runs.
    """

    base_url: str
    process: subprocess.Popen[str]
    log: Path

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the process to exit and return its exit code."""
        return self.process.wait(timeout_s)


@contextmanager
def running_process(
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    scorer: dict[str, Any] | None = None,
    wait: bool = True,
    program: str = "tests.service.serve_double",
    environment: dict[str, str] | None = None,
) -> Iterator[RunningProcess]:
    """Serve in a process until the block ends.

    Args:
        folder: Where its log goes.
        config: Settings of the reranker; None for the lexical scorer.
        settings: Settings of the service.
        scorer: Arguments of a `SteeredScorer` to score with, or None.
        wait: Whether to wait until it is ready.
        program: The module to run.
        environment: Additional environment variables.
    """
    arguments = {
        "config": config or {"backend": "lexical"},
        "settings": {"port": 0, **(settings or {})},
        "scorer": scorer,
    }
    log = folder / "service.log"
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", program, json.dumps(arguments)],
            cwd=ROOT,
            env=os.environ | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            base_url = _listening(process.stdout)
            if wait:
                wait_ready(base_url)
            yield RunningProcess(base_url, process, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)
            if process.stdout is not None:
                process.stdout.close()


def _listening(events: IO[str] | None) -> str:
    assert events is not None
    for line in events:
        event = json.loads(line)
        if event["kind"] == "listening":
            host, port = event["address"]
            return f"http://{host}:{port}"
    raise AssertionError("the service did not listen")
