"""Requests from threads, event loops and HTTP meet here and leave as batches, one worker thread a device.

It knows no torch, no texts and no families: token sequences go in, log-odds come out. This module is the public face
and looks after what happens around it: garbage collection, forks, the interpreter's exit. What is next to compute is
decided in `queueing`, what an engine's failure means in `execution`, and who gets which answer in `workers`.

    submit ──► FairQueue ──► worker of device 0 ──► Device.run ──► answers ──► futures
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

_EXIT_GRACE_S = 2.0  # how long the interpreter's exit waits for running batches


class Scheduler:
    """Serves requests on one or more devices.

    Its threads start with the first request. It is safe to use from any thread and, through `asyncio.wrap_future`,
    from event loops; `submit` never waits for anything but a short lock. While a request is pending its scheduler
    lives; after that, dropping the last reference stops the threads.

    A forked child starts with an empty queue and its own threads. Futures that were pending in the parent fail there
    with `ClosedError`, without running their callbacks, whose locks and loops belong to the parent's threads.

    Args:
        engines: What computes, one worker thread each.
        max_batch_tokens: Tokens of a batch, shared segments counted once; a longer prompt has a batch to itself.
        max_queue_tokens: Tokens that may be queued. A request above the limit is let in in slices.
        admission: "wait": what does not fit stands in line. "reject": it is refused, unless nothing is queued.

    Raises:
        ConfigurationError: No engine, a limit below 1, or an unknown admission.
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
            raise ConfigurationError("engines is empty: a scheduler needs at least one")
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

        Prompts are computed with those of the same head together, shorter ones first, whatever the caller's order.

        Args:
            sequences: The prompts; none gives a future that is done. They must not be changed afterwards.
            deadline_s: Seconds from now after which the result is worthless. What is not positive, NaN included, has
                passed already.

        Returns:
            A future with one log-odds a prompt, in the caller's order. It can be cancelled until it is done: what
            is not yet computed then leaves the queue. It raises `DeadlineExceededError`, `EngineError` and its kinds
            (`EngineOutOfMemoryError`, `NonFiniteScoreError`, `WorkerDiedError`), or `ClosedError`.

        Raises:
            OverloadedError: The queue is full and admission is "reject".
            ClosedError: The scheduler is closed.
            WorkerDiedError: The workers of all devices died too often.
        """
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        request = Request(next(self._numbers), tuple(sequences), deadline)
        return self._workers.enter(request, owner=self)

    def stats(self) -> SchedulerStats:
        """Figures for logs and metrics."""
        return self._workers.stats()

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Refuse new requests, fail pending ones with `ClosedError`, and end the threads. Closing twice is fine.

        Args:
            timeout_s: How long to wait for batches that are being computed; they cannot be interrupted.
        """
        self._workers.close(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _install(self, workers: Workers) -> None:
        self._workers = workers
        self._finalizer = weakref.finalize(self, workers.close, 0.0)
        self._finalizer.atexit = False  # _close_all does it, with some patience

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
    """Daemon threads must not be in native code while the interpreter goes away."""
    for scheduler in list(_schedulers):
        scheduler.close(timeout_s=_EXIT_GRACE_S)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all_in_child)
atexit.register(_close_all)
