"""A request's body, within its limits of size and time, and whether its client is still there.

Nothing is read of a body before its declared size and type are known to be fine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request

from qwen_rerank_plugins.errors import DeadlineExceededError
from qwen_rerank_plugins.service.errors import ClientGoneError, Problem, ProblemError, unavailable
from qwen_rerank_plugins.service.schemas.json_codec import check_headers
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["MORE_TIME", "check_declared_size", "declared_bytes", "read_body", "stream_body", "while_wanted"]

T = TypeVar("T")

MORE_TIME = "more_time"
"""Under this name a request's state has what begins its body's time anew, where the server ends slow bodies."""

PIECE_BYTES = 64 * 1024


def declared_bytes(request: Request, settings: ServiceSettings) -> int:
    """Give the size that a request declares, 0 if it does not, and refuse what will not be read.

    Raises:
        ProblemError: With status 413 or 415.
    """
    check_headers(request.headers)
    return check_declared_size(request, settings.max_body_bytes)


async def read_body(request: Request, settings: ServiceSettings, hold: Callable[[int], None]) -> bytearray:
    """Read a body.

    Args:
        request: The request.
        settings: The limits.
        hold: Accounts for bytes as they come.

    Raises:
        ProblemError: With status 408, 413 or 429.
        ClientGoneError: The client left before its end.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(settings.receive_timeout_s):
            more = True
            while more:
                chunk, more = await _next_chunk(request)
                _check_size(len(body) + len(chunk), settings.max_body_bytes)
                hold(len(chunk))
                body += chunk
    except TimeoutError:
        message_408 = f"the body did not arrive in time; allowed: {settings.receive_timeout_s:g} s"
        raise ProblemError(Problem(408, message_408, {"Connection": "close"}, "slow_client")) from None
    return body


async def stream_body(request: Request, *, max_bytes: int, timeout_s: float) -> AsyncIterator[bytes]:
    """Give a long body in pieces. It may take any time, as long as each piece arrives within `timeout_s`.

    Raises:
        ProblemError: With status 408 or 413.
        ClientGoneError: The client left before its end.
    """
    more_time: Callable[[], None] = request.scope["state"].get(MORE_TIME, lambda: None)
    size, more = 0, True
    while more:
        more_time()
        piece = bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                while more and len(piece) < PIECE_BYTES:
                    chunk, more = await _next_chunk(request)
                    piece += chunk
        except TimeoutError:
            message = f"the body comes too slowly; allowed: {PIECE_BYTES} bytes in {timeout_s:g} s"
            raise ProblemError(Problem(408, message, {"Connection": "close"}, "slow_client")) from None
        size += len(piece)
        _check_size(size, max_bytes)
        yield bytes(piece)


async def _next_chunk(request: Request) -> tuple[bytes, bool]:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError("the client left while it sent its body")
    return message.get("body", b""), message.get("more_body", False)


def check_declared_size(request: Request, max_bytes: int) -> int:
    """Give the size that a request declares, 0 if it does not.

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
            Problem(413, f"the body is too large; allowed: {limit!r} bytes", reason="body_size")
        )


async def while_wanted(
    work: Coroutine[Any, Any, T], request: Request, *, timeout_s: float, aborted: asyncio.Future[None]
) -> T:
    """Do work until it is done, its client leaves, its time is over, or the service ends.

    In the last three cases the work is cancelled, and nobody waits for it to notice.

    Raises:
        ClientGoneError: The client left.
        DeadlineExceededError: The time is over.
        ProblemError: The service ends.
    """
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        waited: set[asyncio.Future[Any]] = {task, leaving, aborted}
        await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if leaving.done():
            raise ClientGoneError("the client left before its answer")
        if aborted.done():
            raise ProblemError(
                unavailable("the service ended before the answer was there", reason="draining")
            )
        raise DeadlineExceededError(f"no answer within {timeout_s:g} s")
    finally:
        leaving.cancel()
        task.cancel()
        task.add_done_callback(_forget)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _forget(task: asyncio.Task[Any]) -> None:
    """Take note of the outcome that nobody asks for any more, or asyncio would complain."""
    with suppress(asyncio.CancelledError):
        task.exception()
