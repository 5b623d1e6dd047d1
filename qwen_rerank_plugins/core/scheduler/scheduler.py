"""Requests from threads, event loops and HTTP become batches, one worker thread per device.

It knows no torch, no texts and no families: prompts of token ids go in, log-odds come out. `queue` decides what is
computed next, `worker` handles failures of an engine, and this module admits requests, answers them, and handles
dying threads, forks and the interpreter's exit.

    submit ──► PriorityQueue ──► Worker of device 0 ──► results ──► futures
                           └───► Worker of device 1 ──► ...

Every pending request gets a result or an error on every path. A request stops being pending in the same locked step
that decides its result; its future is resolved outside the lock, because callbacks are foreign code.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Self, get_args

from qwen_rerank_plugins.core.scheduler.futures import ScoreFuture, resolve_futures
from qwen_rerank_plugins.core.scheduler.queue import Admission, PriorityQueue, QueuedPrompt, Request
from qwen_rerank_plugins.core.scheduler.stats import DeviceStats, SchedulerStats
from qwen_rerank_plugins.core.scheduler.worker import TokenEngine, Worker
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import (
    ClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DeviceLostError,
    OverloadedError,
    RerankError,
    WorkerDiedError,
)
from qwen_rerank_plugins.types import Priority

__all__ = ["Admission", "DeviceStats", "Scheduler", "SchedulerStats", "TokenEngine"]

logger = logging.getLogger(__name__)

_EXIT_GRACE_S = 2.0  # how long the exit of the interpreter waits for running batches
_MIN_RETRY_AFTER_S, _MAX_RETRY_AFTER_S = 0.1, 60.0


class Scheduler:
    """Serves requests on one or more devices until it is closed.

    Its threads start with the first request. It is thread-safe and, through `asyncio.wrap_future`, usable
    from event loops; `submit` blocks on a short lock only.

    A forked child starts with an empty queue and its own threads. Futures that were pending in the parent
    fail there with `ClosedError`, without running their callbacks, whose locks and loops belong to the
    parent's threads.

    Args:
        engines: One engine per worker thread.
        max_batch_tokens: Tokens per batch, shared segments counted once; a longer prompt has a batch of its
            own.
        max_queue_tokens: Capacity of the queue in tokens. A larger request is admitted in slices.
        admission: "wait": a request that does not fit waits. "reject": it is rejected, unless the queue is
            empty. Background requests always wait, in a queue of their own.
        background_batch_tokens: New tokens per batch of background requests; None for `max_batch_tokens`.
        background_batch_s: A device takes more than `background_batch_tokens` if it computes them in this time.

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
        background_batch_tokens: int | None = None,
        background_batch_s: float = 0.0,
    ) -> None:
        if not engines:
            raise ConfigurationError("engines is empty; pass at least one")
        limits = {
            "max_batch_tokens": max_batch_tokens,
            "max_queue_tokens": max_queue_tokens,
            "background_batch_tokens": min(background_batch_tokens or max_batch_tokens, max_batch_tokens),
        }
        for name, value in limits.items():
            if value < 1:
                raise ConfigurationError(f"{name} is {value!r}; it must be at least 1")
        if admission not in get_args(Admission):
            raise ConfigurationError(f'admission is {admission!r}; it must be "wait" or "reject"')
        self._limits, self._admission = limits, admission
        self._worker_limits = (max_batch_tokens, limits["background_batch_tokens"], background_batch_s)
        self._numbers = itertools.count()
        self._futures: weakref.WeakSet[ScoreFuture] = weakref.WeakSet()
        self._closed = False
        self._start_empty(engines, in_child=False)
        _schedulers.add(self)

    def _start_empty(self, engines: Sequence[TokenEngine], *, in_child: bool) -> None:
        """Create the state of one process. In a child, the parent's locks may be held by threads that do not exist."""
        # Reentrant: a garbage collection inside the lock may finalize a scorer, which closes its scheduler.
        self._lock = threading.RLock()
        self._work_available = threading.Condition(self._lock)
        self._workers = [Worker(engine, *self._worker_limits) for engine in engines]
        for worker in self._workers:
            worker.needs_after_fork = in_child
        self._queue = PriorityQueue(**self._limits, admission=self._admission)
        self._pending: set[Request] = set()
        self._finished: deque[tuple[ScoreFuture, list[float] | RerankError]] = deque()  # futures to resolve
        self._counts: Counter[str] = Counter()
        self._queue_s = 0.0
        self._device_lost_reason = ""  # set once the devices of this process are lost

    # ---------------------------------------------------------------------------------- called by the scorer
    def submit(
        self,
        prompts: Sequence[Segment],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> Future[list[float]]:
        """Queue prompts and return at once. Those with a common prefix are computed together, shorter ones first.

        Args:
            prompts: The prompts, each as its last segment; an empty list returns a completed future.
            deadline_s: Seconds from now after which the request fails. Zero, negative values and NaN have
                passed already.
            priority: Whether the request comes before or after requests of the other kind.

        Returns:
            A future of one log-odds per prompt, in the caller's order. Cancelling it removes from the queue
            what is not yet computed. It raises `DeadlineExceededError`, `EngineError` and its subclasses
            (`EngineOutOfMemoryError`, `NonFiniteScoreError`, `WorkerDiedError`), or `ClosedError`.

        Raises:
            OverloadedError: The queue is full and `admission` is "reject".
            ClosedError: The scheduler is closed.
            WorkerDiedError: The workers of all devices are out of service.
        """
        now = time.monotonic()
        deadline = None if deadline_s is None else now + deadline_s
        request = Request(next(self._numbers), tuple(prompts), deadline, priority, now)
        with self._lock:
            self._check_in_service()
            self._pending.add(request)
            self._futures.add(request.future)
            if not request.order:
                self._finish(request, [])
            elif deadline_s is not None and not deadline_s > 0:  # also NaN
                self._finish(request, _deadline_error())
            else:
                self._enqueue(request)
        resolve_futures(self._finished)
        request.future.add_done_callback(partial(self._remove_cancelled, request))
        return request.future

    def expire(self, future: Future[list[float]]) -> None:
        """Fail a request whose deadline has passed. Its waiter calls this, since all workers may be busy."""
        with self._lock:
            for request in [one for one in self._pending if one.future is future]:
                self._finish(request, _deadline_error())
        resolve_futures(self._finished)

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Reject new requests, fail pending ones with `ClosedError`, and end the threads.

        May be called twice.

        Args:
            timeout_s: How long to wait for running batches; they cannot be interrupted.
        """
        with self._lock:
            self._closed = True
            self._fail_all(lambda: ClosedError("The scheduler was closed"))
            self._work_available.notify_all()
            threads = [worker.thread for worker in self._workers]
        resolve_futures(self._finished)
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not None and thread is not threading.current_thread() and thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def stats(self) -> SchedulerStats:
        """Return a consistent snapshot of the counters."""
        with self._lock:
            devices = tuple(worker.stats() for worker in self._workers)
            queues = (self._queue.interactive, self._queue.background)
            outcomes = ("completed", "failed", "rejected", "expired", "cancelled")
            return SchedulerStats(
                pending_requests=len(self._pending),
                queued_requests=sum(queue.num_queued for queue in queues),
                queued_tokens=sum(queue.queued_tokens for queue in queues),
                waiting_requests=sum(queue.num_waiting for queue in queues),
                batches=sum(device.batches for device in devices),
                sequences=sum(device.sequences for device in devices),
                computed_tokens=sum(device.computed_tokens for device in devices),
                oom_splits=sum(device.oom_splits for device in devices),
                queue_s=self._queue_s,
                compute_s=sum(device.compute_s for device in devices),
                worker_restarts=sum(device.restarts for device in devices),
                devices=devices,
                **{outcome: self._counts[outcome] for outcome in outcomes},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --------------------------------------------------------------------------------- admission, in the lock
    def _check_in_service(self) -> None:
        if self._closed:
            raise ClosedError("The scheduler is closed")
        if self._device_lost_reason:
            raise DeviceLostError(self._device_lost_reason)
        if not any(worker.is_alive for worker in self._workers):
            raise WorkerDiedError(
                "The workers of all devices died too often and are out of service; restart the process"
            )

    def _seconds_until_room(self, queued_tokens: int, tokens: int) -> float:
        """Return the seconds that the devices need, at their recent speed, to make room for so many tokens."""
        speed = sum(worker.tokens_per_s for worker in self._workers if worker.is_alive)
        excess = queued_tokens + tokens - self._limits["max_queue_tokens"]
        seconds = min(excess, queued_tokens) / speed if speed else 1.0
        return min(max(seconds, _MIN_RETRY_AFTER_S), _MAX_RETRY_AFTER_S)

    def _enqueue(self, request: Request) -> None:
        if not self._queue.add(request):
            self._pending.remove(request)
            self._counts["rejected"] += 1
            queued_tokens = self._queue.interactive.queued_tokens
            raise OverloadedError(
                f"The queue holds {queued_tokens} tokens, and {request.tokens_left} more would exceed "
                f"its limit of {self._limits['max_queue_tokens']}; try again later",
                retry_after_s=self._seconds_until_room(queued_tokens, request.tokens_left),
            )
        for worker in self._workers:
            if worker.is_alive and (worker.thread is None or not worker.thread.is_alive()):
                self._start(worker)
        self._work_available.notify_all()

    def _start(self, worker: Worker) -> None:
        """Start the thread of a worker. One that cannot start counts as dead."""
        worker.thread = threading.Thread(
            target=self._serve, args=(worker,), name=f"qwen-rerank-{worker.engine.name}", daemon=True
        )
        try:
            worker.thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is going away
            self._disable(worker, error)

    # ------------------------------------------------------------------------------------- the threads' work
    def _serve(self, worker: Worker) -> None:
        """Compute batches on one device until the scheduler is closed."""
        try:
            if worker.needs_after_fork:
                worker.engine.after_fork()
                worker.needs_after_fork = False
            for results in worker.run(partial(self._take_batch, worker)):
                with self._lock:
                    self._record(results)
                resolve_futures(self._finished)
        except BaseException as error:  # noqa: BLE001 - SystemExit too must not leave requests pending
            self._handle_worker_death(worker, error)

    def _take_batch(self, worker: Worker, *, wait: bool) -> Sequence[QueuedPrompt]:
        """Return the next batch of a worker, or an empty one; with `wait`, only when the scheduler is closed."""
        batch: Sequence[QueuedPrompt] = ()
        with self._lock:
            if wait:
                worker.in_flight.clear()
            while not self._closed:
                batch = self._queue.take(worker.budget_tokens, worker.background_tokens)
                worker.in_flight.append(batch)
                if batch or not wait:
                    break
                self._work_available.wait()
            now = time.monotonic()
            for request in {item.request for item in batch}:
                if request.deadline is not None and request.deadline <= now:
                    self._finish(request, _deadline_error())
            started = (one.request for one in batch if one.index == one.request.order[0])
            self._queue_s += sum(now - request.arrived for request in started)
        resolve_futures(self._finished)
        return batch

    def _record(self, results: Sequence[tuple[QueuedPrompt, float | RerankError]]) -> None:
        for item, result in results:
            request = item.request
            if isinstance(result, RerankError):
                self._finish(request, result)
                continue
            request.log_odds[item.index] = result
            request.num_missing -= 1
            if request.num_missing == 0:
                self._finish(request, request.log_odds)

    def _handle_worker_death(self, worker: Worker, error: BaseException) -> None:
        """Fail the requests of a dead thread, and restart it unless its device is lost or it died too often."""
        logger.error("The worker of %s died of %s", worker.engine.name, type(error).__name__)
        with self._lock:
            if isinstance(error, DeviceLostError):
                self._device_lost_reason = str(error)
                for other in self._workers:  # the CUDA contexts of a process are lost together
                    other.is_alive = False
                self._fail_all(lambda: DeviceLostError(self._device_lost_reason))
            else:
                for request in {item.request for item in itertools.chain(*worker.in_flight)}:
                    self._finish(request, worker.died_error(error))
                worker.in_flight.clear()
                if not self._closed and worker.may_restart():
                    self._start(worker)
                elif not self._closed:
                    self._disable(worker, error)
        resolve_futures(self._finished)

    def _disable(self, worker: Worker, error: BaseException) -> None:
        """Take a device out of service; without the last one all requests fail."""
        worker.is_alive = False
        logger.error("%s is out of service", worker.engine.name)
        if not any(other.is_alive for other in self._workers):
            self._fail_all(lambda: worker.died_error(error))

    # ---------------------------------------------------------------------------------------- answers
    def _finish(self, request: Request, result: list[float] | RerankError) -> None:
        """Decide the result of a request, in the lock; no effect if that was done before."""
        if request not in self._pending:
            return
        self._pending.remove(request)
        if request.queue is not None:
            request.queue.remove(request)
        expired = isinstance(result, DeadlineExceededError)
        outcome = "expired" if expired else "failed" if isinstance(result, RerankError) else "completed"
        self._counts[outcome] += 1
        self._finished.append((request.future, result))

    def _fail_all(self, make_error: Callable[[], RerankError]) -> None:
        for request in list(self._pending):
            self._finish(request, make_error())

    def _remove_cancelled(self, request: Request, future: Future[list[float]]) -> None:
        if not future.cancelled():
            return
        future.set_running_or_notify_cancel()  # wakes concurrent.futures.wait and as_completed
        with self._lock:
            if request in self._pending:
                self._pending.remove(request)
                self._counts["cancelled"] += 1
                if request.queue is not None:
                    request.queue.remove(request)
                self._work_available.notify_all()

    # ------------------------------------------------------------------------------------------------- forks
    def _restart_in_child(self) -> None:
        self._start_empty([worker.engine for worker in self._workers], in_child=True)
        for future in list(self._futures):
            future.abandon(
                ClosedError("The process was forked, and this request belongs to the parent; submit it again")
            )


def _deadline_error() -> DeadlineExceededError:
    return DeadlineExceededError(
        "The request's deadline passed before its result was ready; raise deadline_s or send fewer documents"
    )


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
