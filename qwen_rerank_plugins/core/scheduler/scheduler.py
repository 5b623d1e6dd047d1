"""Requests from threads, event loops and HTTP become batches, one worker thread per device.

It knows no torch, no texts and no families: token sequences go in, log-odds come out. This module is the public
interface, and handles garbage collection, forks and the interpreter's exit. `queue` decides what is computed next,
`execution` handles failures of an engine, and `workers` resolves the requests.

    submit ──► FairQueue ──► worker of device 0 ──► BatchExecutor.run ──► results ──► futures
                  ▲    └───► worker of device 1 ──► ...
                  └──────── watcher: deadlines, also while all workers are busy
"""

from __future__ import annotations

import atexit
import itertools
import os
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Self, get_args

from qwen_rerank_plugins.core.scheduler.execution import TokenEngine
from qwen_rerank_plugins.core.scheduler.queue import Admission, Request
from qwen_rerank_plugins.core.scheduler.stats import DeviceStats, SchedulerStats
from qwen_rerank_plugins.core.scheduler.workers import Workers
from qwen_rerank_plugins.core.sequences import TokenSequence
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = ["Admission", "DeviceStats", "Scheduler", "SchedulerStats", "TokenEngine"]

_EXIT_GRACE_S = 2.0  # how long the exit of the interpreter waits for running batches


class Scheduler:
    """Serves requests on one or more devices.

    Its threads start with the first request. It is thread-safe and, through `asyncio.wrap_future`, usable
    from event loops; `submit` blocks on a short lock only. A scheduler with pending requests stays alive;
    afterwards, dropping the last reference stops the threads.

    A forked child starts with an empty queue and its own threads. Futures that were pending in the parent
    fail there with `ClosedError`, without running their callbacks, whose locks and loops belong to the
    parent's threads.

    Args:
        engines: One engine per worker thread.
        max_batch_tokens: Tokens per batch, shared segments counted once; a longer prompt has a batch of its
            own.
        max_queue_tokens: Capacity of the queue in tokens. A larger request is admitted in slices.
        admission: "wait": a request that does not fit waits. "reject": it is rejected, unless the queue is
            empty.

    Raises:
        ConfigurationError: There is no engine, a limit is below 1, or `admission` is unknown.
    """

    def __init__(
        self,
        engines: Sequence[TokenEngine],
        *,
        max_batch_tokens: int,
        max_queue_tokens: int,
        admission: Admission = "wait",
    ) -> None:
        if not engines:
            raise ConfigurationError("engines is empty; pass at least one")
        for name, value in (("max_batch_tokens", max_batch_tokens), ("max_queue_tokens", max_queue_tokens)):
            if value < 1:
                raise ConfigurationError(f"{name} is {value!r}; it must be at least 1")
        if admission not in get_args(Admission):
            raise ConfigurationError(f'admission is {admission!r}; it must be "wait" or "reject"')
        self._numbers = itertools.count()
        self._install(Workers(tuple(engines), max_batch_tokens, max_queue_tokens, admission))
        _schedulers.add(self)

    def submit(
        self, sequences: Sequence[TokenSequence], *, deadline_s: float | None = None
    ) -> Future[list[float]]:
        """Queue prompts and return at once.

        Prompts with a common prefix are computed together, shorter ones first, whatever the caller's order.

        Args:
            sequences: The prompts; an empty list returns a completed future. Must not be changed afterwards.
            deadline_s: Seconds from now after which the request fails. Zero, negative values and NaN have
                passed already.

        Returns:
            A future of one log-odds per prompt, in the caller's order. Cancelling it removes from the queue
            what is not yet computed. It raises `DeadlineExceededError`, `EngineError` and its subclasses
            (`EngineOutOfMemoryError`, `NonFiniteScoreError`, `WorkerDiedError`), or `ClosedError`.

        Raises:
            OverloadedError: The queue is full and `admission` is "reject".
            ClosedError: The scheduler is closed.
            WorkerDiedError: The workers of all devices are out of service.
        """
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        request = Request(next(self._numbers), tuple(sequences), deadline)
        return self._workers.submit(request, owner=self)

    def stats(self) -> SchedulerStats:
        """Return the counters for logs and metrics."""
        return self._workers.stats()

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Reject new requests, fail pending ones with `ClosedError`, and end the threads.

        May be called twice.

        Args:
            timeout_s: How long to wait for running batches; they cannot be interrupted.
        """
        self._workers.close(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _install(self, workers: Workers) -> None:
        self._workers = workers
        self._finalizer = weakref.finalize(self, workers.close, 0.0)
        self._finalizer.atexit = False  # _close_all closes it, with a grace period

    def _restart_in_child(self) -> None:
        self._finalizer.detach()
        parent = self._workers
        self._install(parent.for_child())
        parent.abandon()


_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def _restart_all_in_child() -> None:
    for scheduler in list(_schedulers):
        scheduler._restart_in_child()  # noqa: SLF001 - the class's own hook


def _close_all() -> None:
    """Close all schedulers at exit: daemon threads must not run native code during interpreter shutdown."""
    for scheduler in list(_schedulers):
        scheduler.close(timeout_s=_EXIT_GRACE_S)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all_in_child)
atexit.register(_close_all)
