"""The threads between the queue and the devices, and the requests that are pending.

Every pending request gets a result or an error on every path. A request stops being pending in the same
locked step that decides its result; its future is resolved outside the lock, because callbacks are foreign
code. When a worker dies, its requests fail, and it is restarted unless that happens too often.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from qwen_rerank_plugins.core.scheduler.execution import BatchExecutor, BatchResult, TokenEngine
from qwen_rerank_plugins.core.scheduler.queue import Admission, FairQueue, QueuedPrompt, Request
from qwen_rerank_plugins.core.scheduler.replies import (
    PendingRequest,
    Resolution,
    ScoreFuture,
    deadline_error,
    resolve_futures,
    worker_died_error,
)
from qwen_rerank_plugins.core.scheduler.slot import DeviceWorker
from qwen_rerank_plugins.core.scheduler.stats import SchedulerStats
from qwen_rerank_plugins.errors import (
    ClosedError,
    DeviceLostError,
    OverloadedError,
    RerankError,
    WorkerDiedError,
)

__all__ = ["Workers"]

logger = logging.getLogger(__name__)

_MAX_SLEEP_S = 3600.0  # below threading.TIMEOUT_MAX everywhere
_MIN_RETRY_AFTER_S, _MAX_RETRY_AFTER_S = 0.1, 60.0


class Workers:
    """The threads of one scheduler in one process.

    Args:
        engines: One engine per thread.
        max_batch_tokens: Tokens per batch.
        max_queue_tokens: Capacity of the queue in tokens.
        admission: What happens to a request that does not fit.
        in_child: The engines come from a parent process and need `after_fork` before their first batch.
    """

    def __init__(
        self,
        engines: Sequence[TokenEngine],
        max_batch_tokens: int,
        max_queue_tokens: int,
        admission: Admission,
        *,
        in_child: bool = False,
    ) -> None:
        self._max_batch_tokens, self._max_queue_tokens = max_batch_tokens, max_queue_tokens
        self._admission: Admission = admission
        self._device_workers = [
            DeviceWorker(BatchExecutor(engine, max_batch_tokens), in_child) for engine in engines
        ]
        self._queue = FairQueue(
            max_queue_tokens=max_queue_tokens,
            max_batch_tokens=max_batch_tokens,
            refill_tokens=max_queue_tokens // 2 if admission == "reject" else None,
        )
        self._pending: dict[Request, PendingRequest] = {}
        self._futures: weakref.WeakSet[ScoreFuture] = weakref.WeakSet()
        self._counts: Counter[str] = Counter()
        self._queue_s = 0.0
        self._closed = False
        self._device_lost_reason = ""  # set once the devices of this process are lost
        self._watcher: threading.Thread | None = None
        self._watcher_wakes_at = math.inf  # monotonic time at which the watcher wakes
        self._make_locks()

    def _make_locks(self) -> None:
        # Reentrant: a garbage collection inside the lock may finalize a scheduler, which closes its workers.
        self._lock = threading.RLock()
        self._work_available = threading.Condition(self._lock)
        self._deadline_changed = threading.Condition(self._lock)

    # ------------------------------------------------------------------------------ called by the scheduler

    def submit(self, request: Request, *, owner: object) -> Future[list[float]]:
        """Queue a request; see `Scheduler.submit`."""
        future = ScoreFuture()
        request.arrived = time.monotonic()
        with self._lock:
            self._check_can_accept(request)
            self._pending[request] = PendingRequest(future, owner)
            self._futures.add(future)
            resolutions = self._enqueue(request)
        resolve_futures(resolutions)
        future.add_done_callback(partial(_on_future_done, weakref.ref(self), request))
        return future

    def close(self, timeout_s: float) -> None:
        """Fail pending requests and end the threads; wait at most `timeout_s` for running batches."""
        with self._lock:
            self._closed = True
            resolutions = self._fail_all(lambda: ClosedError("The scheduler was closed"))
            self._work_available.notify_all()
            self._deadline_changed.notify_all()
            threads = [worker.thread for worker in self._device_workers] + [self._watcher]
        resolve_futures(resolutions)
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not None and thread is not threading.current_thread() and thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def stats(self) -> SchedulerStats:
        """Return a consistent snapshot of the counters."""
        with self._lock:
            devices = tuple(worker.stats() for worker in self._device_workers)
            return SchedulerStats(
                pending_requests=len(self._pending),
                queued_requests=self._queue.num_queued,
                queued_tokens=self._queue.queued_tokens,
                waiting_requests=self._queue.num_waiting,
                batches=sum(device.batches for device in devices),
                sequences=sum(device.sequences for device in devices),
                computed_tokens=sum(device.computed_tokens for device in devices),
                oom_splits=sum(device.oom_splits for device in devices),
                queue_s=self._queue_s,
                compute_s=sum(device.compute_s for device in devices),
                worker_restarts=sum(device.restarts for device in devices),
                completed=self._counts["completed"],
                failed=self._counts["failed"],
                rejected=self._counts["rejected"],
                expired=self._counts["expired"],
                cancelled=self._counts["cancelled"],
                devices=devices,
            )

    def for_child(self) -> Workers:
        """Return empty workers of the same engines for a forked child; closed if these are."""
        engines = [worker.device.engine for worker in self._device_workers]
        child = Workers(
            engines, self._max_batch_tokens, self._max_queue_tokens, self._admission, in_child=True
        )
        child._closed = self._closed
        return child

    def abandon(self) -> None:
        """Fail in a forked child what was pending in the parent.

        Takes no lock: its holder may not exist here.
        """
        self._closed = True
        self._make_locks()
        for future in list(self._futures):
            future.abandon(
                ClosedError("The process was forked, and this request belongs to the parent; submit it again")
            )
        self._pending = {}

    def cancel(self, request: Request) -> None:
        """Remove a request that was cancelled."""
        with self._lock:
            if self._pending.pop(request, None) is not None:
                self._counts["cancelled"] += 1
                self._queue.remove(request)
                self._work_available.notify_all()

    # --------------------------------------------------------------------------------- admission, in the lock

    def _check_can_accept(self, request: Request) -> None:
        if self._closed:
            raise ClosedError("The scheduler is closed")
        if self._device_lost_reason:
            raise DeviceLostError(self._device_lost_reason)
        if not any(worker.is_alive for worker in self._device_workers):
            raise WorkerDiedError(
                "The workers of all devices died too often and are out of service; restart the process"
            )
        if self._admission == "reject" and request.order and not self._queue.has_room_for(request):
            self._counts["rejected"] += 1
            raise OverloadedError(
                f"The queue holds {self._queue.queued_tokens} tokens, and {request.tokens_left} more would exceed "
                f"its limit of {self._max_queue_tokens}; try again later",
                retry_after_s=self._seconds_until_room(request),
            )

    def _seconds_until_room(self, request: Request) -> float:
        """Return the seconds that the devices need, at their recent speed, to make room for a request."""
        speed = sum(worker.device.tokens_per_s for worker in self._device_workers if worker.is_alive)
        excess = self._queue.queued_tokens + request.tokens_left - self._max_queue_tokens
        seconds = min(excess, self._queue.queued_tokens) / speed if speed else 1.0
        return min(max(seconds, _MIN_RETRY_AFTER_S), _MAX_RETRY_AFTER_S)

    def _enqueue(self, request: Request) -> list[Resolution]:
        if not request.order:
            return self._resolve(request, [])
        if not request.is_active(time.monotonic()):
            return self._resolve(request, deadline_error())
        if self._admission == "reject":
            self._queue.add_without_waiting(request)
        else:
            self._queue.add(request)
        resolutions = self._start_threads(watch=request.deadline is not None)
        self._work_available.notify_all()
        if request.deadline is not None and request.deadline < self._watcher_wakes_at:
            self._deadline_changed.notify_all()
        return resolutions

    def _start_threads(self, *, watch: bool) -> list[Resolution]:
        """Start the threads that do not run. A thread that cannot start counts as dead."""
        resolutions: list[Resolution] = []
        for worker in self._device_workers:
            if worker.is_alive and (worker.thread is None or not worker.thread.is_alive()):
                resolutions += self._start(worker)
        if watch and (self._watcher is None or not self._watcher.is_alive()):
            self._start_watcher()
        return resolutions

    def _start_watcher(self) -> None:
        self._watcher = threading.Thread(
            target=self._watch_deadlines, name="qwen-rerank-deadlines", daemon=True
        )
        try:
            self._watcher.start()
        except RuntimeError:  # workers still check deadlines, between batches
            logger.warning(
                "the thread that watches deadlines could not start; deadlines are checked between batches"
            )

    def _start(self, worker: DeviceWorker) -> list[Resolution]:
        worker.thread = threading.Thread(
            target=self._run_worker, args=(worker,), name=f"qwen-rerank-{worker.name}", daemon=True
        )
        try:
            worker.thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is going away
            return self._disable_device(worker, error)
        return []

    # ------------------------------------------------------------------------------------- the threads' work

    def _run_worker(self, worker: DeviceWorker) -> None:
        """Run one worker thread until the workers are closed."""
        try:
            if worker.needs_after_fork:
                worker.device.engine.after_fork()
                worker.needs_after_fork = False
            while self._take_batch(worker):
                self._compute(worker)
        except BaseException as error:  # noqa: BLE001 - SystemExit too must not leave requests pending
            self._handle_worker_death(worker, error)

    def _take_batch(self, worker: DeviceWorker) -> bool:
        """Wait for the next batch of a worker; return False when the workers are closed."""
        while True:
            with self._lock:
                resolutions = self._expire()
                if not self._closed:
                    worker.in_flight = self._queue.take(worker.device.budget_tokens)
                    self._record_queue_times(worker.in_flight)
                if not (worker.in_flight or resolutions or self._closed):
                    self._work_available.wait()
            resolve_futures(resolutions)
            if worker.in_flight or self._closed:
                return not self._closed

    def _compute(self, worker: DeviceWorker) -> None:
        for result in worker.device.run(worker.in_flight):
            with self._lock:
                resolutions = self._record(result)
            resolve_futures(resolutions)
        worker.in_flight = ()

    def _watch_deadlines(self) -> None:
        """Fail expired requests while the workers are busy."""
        while True:
            with self._lock:
                if self._closed:
                    return
                resolutions = self._expire()
                if not resolutions:
                    self._sleep_until_next_deadline()
            resolve_futures(resolutions)

    def _sleep_until_next_deadline(self) -> None:
        now, deadline = time.monotonic(), self._queue.next_deadline()
        seconds = _MAX_SLEEP_S if deadline is None else min(max(0.0, deadline - now), _MAX_SLEEP_S)
        self._watcher_wakes_at = now + seconds
        self._deadline_changed.wait(seconds)

    def _handle_worker_death(self, worker: DeviceWorker, error: BaseException) -> None:
        """Fail the requests of a dead worker, and restart it.

        A worker whose device is lost, or that died too often, is not restarted.
        """
        logger.error("The worker of %s died of %s", worker.name, type(error).__name__)
        with self._lock:
            if isinstance(error, DeviceLostError):
                self._device_lost_reason = str(error)
                for other in self._device_workers:  # the CUDA contexts of a process are lost together
                    other.is_alive = False
                resolutions = self._fail_all(lambda: DeviceLostError(self._device_lost_reason))
            else:
                resolutions = self._fail_in_flight(worker, error)
        resolve_futures(resolutions)

    def _fail_in_flight(self, worker: DeviceWorker, error: BaseException) -> list[Resolution]:
        in_flight_requests = {item.request for item in worker.in_flight}
        worker.in_flight = ()
        resolutions = [
            resolution
            for request in in_flight_requests
            for resolution in self._resolve(request, worker_died_error(worker.name, error))
        ]
        return resolutions if self._closed else [*resolutions, *self._replace(worker, error)]

    def _replace(self, worker: DeviceWorker, error: BaseException) -> list[Resolution]:
        if not worker.can_restart():
            return self._disable_device(worker, error)
        worker.num_restarts += 1
        return self._start(worker)

    def _disable_device(self, worker: DeviceWorker, error: BaseException) -> list[Resolution]:
        """Take a device out of service; without the last one all requests fail."""
        worker.is_alive = False
        logger.error("%s is out of service", worker.name)
        if any(other.is_alive for other in self._device_workers):
            return []
        return self._fail_all(lambda: worker_died_error(worker.name, error))

    # ---------------------------------------------------------------------- pending requests, in the lock

    def _record_queue_times(self, batch: Sequence[QueuedPrompt]) -> None:
        now = time.monotonic()
        for item in batch:
            if not item.request.was_started:
                item.request.was_started = True
                self._queue_s += now - item.request.arrived

    def _record(self, result: BatchResult) -> list[Resolution]:
        resolutions: list[Resolution] = []
        for item, log_odds in result.scores:
            request = item.request
            request.log_odds[item.index] = log_odds
            request.num_missing -= 1
            if request.num_missing == 0:
                resolutions += self._resolve(request, request.log_odds)
        for request, error in result.failures:
            resolutions += self._resolve(request, error)
        return resolutions

    def _expire(self) -> list[Resolution]:
        expired = self._queue.expired(time.monotonic())
        return [resolution for request in expired for resolution in self._resolve(request, deadline_error())]

    def _fail_all(self, make_error: Callable[[], RerankError]) -> list[Resolution]:
        return [
            resolution
            for request in list(self._pending)
            for resolution in self._resolve(request, make_error())
        ]

    def _resolve(self, request: Request, result: list[float] | RerankError) -> list[Resolution]:
        """End a pending request, and return its resolution; none if it was not pending."""
        self._queue.remove(request)
        pending = self._pending.pop(request, None)
        if pending is None:
            return []
        resolution = Resolution(pending, result)
        self._counts[resolution.outcome] += 1
        return [resolution]


def _on_future_done(workers: weakref.ref[Workers], request: Request, future: Future[list[float]]) -> None:
    if future.cancelled():
        future.set_running_or_notify_cancel()  # wakes concurrent.futures.wait and as_completed
        if (living := workers()) is not None:
            living.cancel(request)
