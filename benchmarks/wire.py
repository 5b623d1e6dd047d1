"""A small HTTP/1.1 client for measuring: one request after the other on a connection that stays open.

It does as little as it can, because it shares the machine with the service that is measured.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Self

__all__ = ["Answer", "Connection"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: The status; 0 when the connection ended without an answer.
        body: The body.
        seconds: From the first byte sent to the last one received.
    """

    status: int
    body: bytes
    seconds: float


class Connection:
    """A connection to a service on this machine.

    Args:
        port: Its port.
        path: Where requests go.
    """

    def __init__(self, port: int, path: str = "/v1/rerank") -> None:
        self._port = port
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def post(self, body: bytes) -> Answer:
        """Send a request and wait for its answer; a broken connection is an answer with status 0."""
        start = time.perf_counter()
        try:
            status, answer = await self._post(body)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            status, answer = 0, b""
        return Answer(status, answer, time.perf_counter() - start)

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        answer = await self._reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split(" ")[1]), answer
