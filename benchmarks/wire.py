"""A small HTTP/1.1 client for measurements: sequential requests on one open connection.

It does as little as possible, because it shares the machine with the measured service.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Self

__all__ = ["Answer", "Connection"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Attributes:
        status: The status; 0 if the connection ended without a response.
        body: The body.
        seconds: From the first byte sent to the last one received.
    """

    status: int
    body: bytes
    seconds: float


class Connection:
    """A connection to a service on this machine.

    Args:
        port: The port.
        path: The path of all requests.
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
        """Close the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def post(self, body: bytes) -> Answer:
        """Send a request and return the response; a broken connection has status 0."""
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
