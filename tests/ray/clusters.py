"""Helpers of the tests with a running Ray: free ports, processes, and a load whose every request must be answered."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

OF_RAY = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)
"""What Ray itself warns of."""

PATIENCE_S = 150.0


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def processes(title: str) -> list[int]:
    """Return the processes of this test run by the start of their title; Ray titles workers by what they run."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def kill(pid: int) -> None:
    """Kill a process, as a crash would."""
    os.kill(pid, signal.SIGKILL)


@contextmanager
def killing_one(title: str, **patience: float) -> Iterator[None]:
    """Kill the first process with a title that appears while the block runs; fail if there is none."""
    killed: list[int] = []

    def shows() -> bool:
        killed.extend(processes(title)[:1])
        return bool(killed)

    def run() -> None:
        wait_for(shows, every_s=0.02, **patience)
        kill(killed[0])

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    assert killed


def wait_for(condition: Any, *, timeout_s: float = PATIENCE_S, every_s: float = 0.1) -> None:
    """Wait for a condition, and fail after the timeout."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every_s)


def body(number: int, num_documents: int = 4) -> dict[str, Any]:
    """Return a unique request body."""
    documents = [f"document {number} of {index} sings of whales" for index in range(num_documents)]
    return {"query": f"blue whale {number}", "documents": documents, "return_documents": False}


@dataclass(slots=True)
class Load:
    """The responses of a load: status and scores, or the name of an error, of every request."""

    sent: int = 0
    answers: dict[int, tuple[int, Sequence[float]]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def statuses(self) -> set[int]:
        return {status for status, _ in self.answers.values()}


@contextmanager
def load_on(base_url: str, *, clients: int = 4, num_documents: int = 4) -> Iterator[Load]:
    """Send requests from several clients until the block ends; each client waits for its response."""
    load, stop, lock = Load(), threading.Event(), threading.Lock()

    def run() -> None:
        with httpx.Client(base_url=base_url, trust_env=False, timeout=PATIENCE_S) as client:
            while not stop.is_set():
                with lock:
                    number = load.sent
                    load.sent += 1
                try:
                    answer = client.post("/v1/rerank", json=body(number, num_documents))
                    load.answers[number] = (answer.status_code, json.loads(answer.text).get("scores", ()))
                except (httpx.TransportError, json.JSONDecodeError) as error:
                    load.broken.append(type(error).__name__)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads), "a request was never answered"
