"""An event loop in its own thread, for callers on any thread and any loop. Knows nothing of what runs on it.

An asynchronous resource belongs to the loop on which it was first used. Here that is always the same loop: nothing is
left on a caller's loop when it ends, connections outlive `asyncio.run`, and blocking calls have the same timeouts and
cancellation as asynchronous ones. A forked child starts its own loop.
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
    """A resource that is used on the loop and closed with it."""

    async def aclose(self) -> None:
        """Release the resource."""


T = TypeVar("T", bound=Resource)
R = TypeVar("R")


class LoopThread(Generic[T]):
    """Runs coroutines with a resource, on a loop in a daemon thread.

    The thread starts with the first call and ends with `close`, with the interpreter, or when this object is garbage
    collected. Safe across threads and forks.
    """

    def __init__(self, make: Callable[[], T], *, name: str) -> None:
        """Create the object without starting the thread.

        Args:
            make: Creates the resource, on the loop. It must not reference this object.
            name: Name of the thread.
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
        """Whether `close` was called."""
        return self._closed

    def submit(self, work: Callable[[T], Awaitable[R]]) -> Future[R]:
        """Schedule a coroutine and return a future of its result. Cancelling the future cancels the coroutine.

        Raises:
            ClosedError: The object is closed. Coroutines that are running at `close` fail with the same error.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("the scorer is closed")
            if self._end is not None and not self._end.alive:
                raise ClosedError("the interpreter is shutting down")
            if self._running is None:
                self._running = _Running(self._make, self._name)
                self._end = weakref.finalize(self, self._running.stop)
            running = self._running
            return asyncio.run_coroutine_threadsafe(running.guarded(work), running.loop)

    def close(self) -> None:
        """Cancel running coroutines, close the resource and stop the thread. Calling it twice has no effect."""
        with self._lock:
            self._closed = True
            end, self._end, self._running = self._end, None, None
        if end is not None:
            end()

    def _after_fork(self) -> None:
        """Reset the state in a forked child: it has no thread, the lock may be held, and connections are shared."""
        self._lock = threading.Lock()
        if self._end is not None:
            self._end.detach()
        if self._running is not None:
            _INHERITED.append(self._running)
        self._running, self._end = None, None


class _Running(Generic[T]):
    """A running loop with its thread and resource. Does not reference the `LoopThread` that started it."""

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
                raise ClosedError("the scorer was closed during the call") from None
            raise

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is already closed
            self.loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:  # the garbage collector may run on it
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
# Inherited objects are kept alive in a child: their finalisers would act on the parent's connections.
_INHERITED: list[object] = []


def _reset_after_fork() -> None:
    for one in list(_ALL):
        one._after_fork()  # noqa: SLF001 (same module)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
