"""Runs the project's service, `qwen-rerank serve`, as a process that a cluster can call."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[4]
START_S = 120.0
DEMO = ("--model", "demo")


@dataclass(frozen=True, slots=True)
class RerankService:
    """A running service.

    Attributes:
        url: The address, without a trailing slash.
        process: Its process.
        log: File with its output.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def rerank_url(self) -> str:
        """The address that a connector calls."""
        return f"{self.url}/v1/rerank"

    def rank(self, body: Mapping[str, Any]) -> Any:
        """Send a request directly, and return the JSON value of the response."""
        answer = httpx.post(self.rerank_url, json=dict(body), trust_env=False, timeout=60)
        return answer.raise_for_status().json()

    def metric(self, name: str) -> float:
        """Return a metric, summed over all labels."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False, timeout=60).raise_for_status().text
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name!r} in:\n{text}"
        return sum(map(float, found))

    def kill(self) -> None:
        """Kill the process, as a crash would."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_rerank_service(
    folder: Path,
    arguments: Sequence[str] = DEMO,
    *,
    port: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RerankService]:
    """Run the service until the block ends.

    Args:
        folder: Folder of its log.
        arguments: Arguments of `qwen-rerank serve`.
        port: The port; 0 for a free port.
        environment: Settings as QWEN_RERANK_* variables.

    Raises:
        RuntimeError: The service did not start.
    """
    log = folder / "qwen-rerank.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QWEN_RERANK_")}
    command = [sys.executable, "-m", "qwen_rerank_plugins", "serve", "--port", str(port), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**kept, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield RerankService(_wait_until_ready(process, log), process, log)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up and process.poll() is None:
        if (url := _url(log)) and _is_ready(url):
            return url
        time.sleep(0.05)
    raise RuntimeError(f"the service did not get ready ({process.poll()!r}):\n{log.read_text()[-4000:]}")


def _url(log: Path) -> str | None:
    found = re.search(r"listening on port (\d+)", log.read_text(encoding="utf-8", errors="replace"))
    return f"http://127.0.0.1:{found[1]}" if found else None


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", trust_env=False, timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
