"""An event loop in a thread of its own, for callers from any thread and any loop. Knows nothing of what runs on it.

An asynchronous resource belongs to the loop that it was first used on. Here that is always the same one: nothing is
left behind on a caller's loop when that loop ends, connections outlive `asyncio.run`, and a blocking call is bounded
and cancelled as precisely as an asynchronous one. A forked child starts a loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from qwen_rerank_plugins.errors import ClosedError

__all__ = ["LoopThread", "Resource"]

_JOIN_S = 5.0


class Resource(Protocol):
    """What lives on the loop and is closed with it."""

    async def aclose(self) -> None:
        """Release what is held."""


T = TypeVar("T", bound=Resource)
R = TypeVar("R")


class LoopThread(Generic[T]):
    """Runs work on a resource, on a loop in a daemon thread that starts with the first work.

    Safe across threads and forks. It ends with `close`, with the interpreter, or when nobody holds it any more.
    """

    def __init__(self, make: Callable[[], T], *, name: str) -> None:
        """Create it; nothing is started yet.

        Args:
            make: Makes the resource, on the loop. It must not hold what holds this object.
            name: The thread's name.
        """
        self._make = make
        self._name = name
        self._lock = threading.Lock()
        self._running: _Running[T] | None = None
        self._end: weakref.finalize[[], LoopThread[T]] | None = None
        self._closed = False
        _ALL.add(self)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def submit(self, work: Callable[[T], Awaitable[R]]) -> Future[R]:
        """Begin work; its result comes through the future, and cancelling the future cancels the work.

        Raises:
            ClosedError: It was closed. Work that is under way when that happens ends with the same error.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("the scorer was closed")
            if self._end is not None and not self._end.alive:
                raise ClosedError("the interpreter is shutting down")
            if self._running is None:
                self._running = _Running(self._make, self._name)
                self._end = weakref.finalize(self, self._running.stop)
            running = self._running
            return asyncio.run_coroutine_threadsafe(running.guarded(work), running.loop)

    def close(self) -> None:
        """End what is under way, close the resource, stop the thread. Closing twice is fine."""
        with self._lock:
            self._closed = True
            end, self._end, self._running = self._end, None, None
        if end is not None:
            end()

    def _after_fork(self) -> None:
        """Begin anew in a child: the thread is not here, the lock may be held for ever, connections are shared."""
        self._lock = threading.Lock()
        if self._end is not None:
            self._end.detach()
        if self._running is not None:
            _INHERITED.append(self._running)
        self._running, self._end = None, None


class _Running(Generic[T]):
    """A loop, its thread and its resource, from start to stop. Holds no reference to who started it."""

    def __init__(self, make: Callable[[], T], name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._make = make
        self._resource: T | None = None
        self._stopping = False
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def guarded(self, work: Callable[[T], Awaitable[R]]) -> R:
        try:
            if self._resource is None:
                self._resource = self._make()
            return await work(self._resource)
        except asyncio.CancelledError:
            if self._stopping:
                raise ClosedError("the scorer was closed before it had an answer") from None
            raise

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self.loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:  # the garbage collector may run there
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._serve())
        finally:
            self.loop.close()

    async def _serve(self) -> None:
        await self._stop.wait()
        self._stopping = True
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._resource is not None:
            await self._resource.aclose()
        await self.loop.shutdown_asyncgens()


_ALL: weakref.WeakSet[LoopThread[Any]] = weakref.WeakSet()
# What a child got from its parent is kept and never touched: finalisers would work on the parent's connections.
_INHERITED: list[object] = []


def _begin_anew() -> None:
    for one in list(_ALL):
        one._after_fork()  # noqa: SLF001 (of this module)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
