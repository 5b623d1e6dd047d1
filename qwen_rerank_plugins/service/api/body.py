"""Reads request bodies within limits of size and time, and cancels work when a client disconnects.

Declared size and type are checked before anything is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request

from qwen_rerank_plugins.errors import DeadlineExceededError
from qwen_rerank_plugins.service.errors import ClientGoneError, Problem, ProblemError, unavailable
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = [
    "EXTEND_BODY_TIMEOUT",
    "check_declared_size",
    "read_body",
    "run_until_disconnect",
    "stream_body",
]

T = TypeVar("T")

EXTEND_BODY_TIMEOUT = "extend_body_timeout"
"""State key of the callback that restarts the server's timeout for the body."""

PIECE_BYTES = 64 * 1024


async def read_body(request: Request, settings: ServiceSettings, reserve: Callable[[int], None]) -> bytearray:
    """Read a body.

    Args:
        request: The request.
        settings: The limits.
        reserve: Called with the size of each chunk, for admission.

    Raises:
        ProblemError: With status 408, 413 or 429.
        ClientGoneError: The client disconnected.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(settings.receive_timeout_s):
            more = True
            while more:
                chunk, more = await _next_chunk(request)
                _check_size(len(body) + len(chunk), settings.max_body_bytes)
                reserve(len(chunk))
                body += chunk
    except TimeoutError:
        message = f"the body did not arrive within {settings.receive_timeout_s:g} s; send it faster"
        raise ProblemError(Problem(408, message, {"Connection": "close"}, "slow_client")) from None
    return body


async def stream_body(request: Request, *, max_bytes: int, timeout_s: float) -> AsyncIterator[bytes]:
    """Yield a long body in pieces. It may take any time, as long as each piece arrives within `timeout_s`.

    Raises:
        ProblemError: With status 408 or 413.
        ClientGoneError: The client disconnected.
    """
    extend_body_timeout: Callable[[], None] = request.scope["state"].get(EXTEND_BODY_TIMEOUT, lambda: None)
    size, more = 0, True
    while more:
        extend_body_timeout()
        piece = bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                while more and len(piece) < PIECE_BYTES:
                    chunk, more = await _next_chunk(request)
                    piece += chunk
        except TimeoutError:
            message = f"the body arrives too slowly; send at least {PIECE_BYTES} bytes in {timeout_s:g} s"
            raise ProblemError(Problem(408, message, {"Connection": "close"}, "slow_client")) from None
        size += len(piece)
        _check_size(size, max_bytes)
        yield bytes(piece)


async def _next_chunk(request: Request) -> tuple[bytes, bool]:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError("the client disconnected while sending its body")
    return message.get("body", b""), message.get("more_body", False)


def check_declared_size(request: Request, max_bytes: int) -> int:
    """Return the declared size of a body, 0 if it is not declared.

    Raises:
        ProblemError: With status 413.
    """
    text = request.headers.get("content-length", "0")
    size = int(text) if text.isascii() and text.isdigit() else 0
    _check_size(size, max_bytes)
    return size


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ProblemError(
            Problem(413, f"the body is too large; send at most {limit!r} bytes", reason="body_size")
        )


async def run_until_disconnect(
    work: Coroutine[Any, Any, T], request: Request, *, timeout_s: float, aborted: asyncio.Future[None]
) -> T:
    """Run work until it is done, the client disconnects, the timeout passes, or the service aborts requests.

    In the last three cases the work is cancelled without waiting for it to end.

    Raises:
        ClientGoneError: The client disconnected.
        DeadlineExceededError: The timeout passed.
        ProblemError: The service aborts requests.
    """
    task = asyncio.create_task(work)
    disconnect = asyncio.create_task(_disconnected(request))
    try:
        waited: set[asyncio.Future[Any]] = {task, disconnect, aborted}
        await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if disconnect.done():
            raise ClientGoneError("the client disconnected before the answer")
        if aborted.done():
            raise ProblemError(
                unavailable("the service shut down before the answer was ready", reason="draining")
            )
        raise DeadlineExceededError(f"the deadline passed: {timeout_s:g} s")
    finally:
        disconnect.cancel()
        task.cancel()
        task.add_done_callback(_retrieve_outcome)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _retrieve_outcome(task: asyncio.Task[Any]) -> None:
    """Retrieve the outcome of an abandoned task, or asyncio would log it."""
    with suppress(asyncio.CancelledError):
        task.exception()
