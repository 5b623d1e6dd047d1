"""The threads between the queue and the devices, and the books of who waits for what.

Every waiter gets a result or an error on every path. A request leaves the books in the same locked step that decides
its answer, and its future is answered outside the lock, because its callbacks are other people's code. A worker that
dies answers for what it was computing and is replaced, unless that happens too often.
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

from qwen_rerank_plugins.core.scheduler.execution import Answers, Device, TokenEngine
from qwen_rerank_plugins.core.scheduler.queue import Admission, FairQueue, Item, Request
from qwen_rerank_plugins.core.scheduler.replies import (
    Reply,
    ScoreFuture,
    Waiter,
    deadline_error,
    deliver,
    worker_died_error,
)
from qwen_rerank_plugins.core.scheduler.slot import Slot
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
        engines: What computes, one thread each.
        max_batch_tokens: Tokens of a batch.
        max_queue_tokens: Tokens that may be queued.
        admission: What happens to a request that does not fit.
        in_child: The engines come from a parent process and must be told before their first batch.
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
        self._slots = [Slot(Device(engine, max_batch_tokens), in_child) for engine in engines]
        self._queue = FairQueue(
            max_queue_tokens=max_queue_tokens,
            max_batch_tokens=max_batch_tokens,
            refill_tokens=max_queue_tokens // 2 if admission == "reject" else None,
        )
        self._waiters: dict[Request, Waiter] = {}
        self._futures: weakref.WeakSet[ScoreFuture] = weakref.WeakSet()
        self._counts: Counter[str] = Counter()
        self._queue_s = 0.0
        self._closed = False
        self._lost = ""  # why no device can be used by this process any more
        self._watcher: threading.Thread | None = None
        self._alarm_at = math.inf  # when the watcher wakes by itself
        self._make_locks()

    def _make_locks(self) -> None:
        # Reentrant: a garbage collection inside the lock may finalize a scheduler, which closes its workers.
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._alarm = threading.Condition(self._lock)

    # ------------------------------------------------------------------------------ called by the scheduler

    def enter(self, request: Request, *, owner: object) -> Future[list[float]]:
        """Queue a request; see `Scheduler.submit`."""
        future = ScoreFuture()
        request.arrived = time.monotonic()
        with self._lock:
            self._refuse_if_unable(request)
            self._waiters[request] = Waiter(future, owner)
            self._futures.add(future)
            replies = self._enqueue(request)
        deliver(replies)
        future.add_done_callback(partial(_forget_if_cancelled, weakref.ref(self), request))
        return future

    def close(self, timeout_s: float) -> None:
        """Fail what is pending and end the threads; wait for running batches at most `timeout_s`."""
        with self._lock:
            self._closed = True
            replies = self._settle_all(lambda: ClosedError("The scheduler was closed"))
            self._work.notify_all()
            self._alarm.notify_all()
            threads = [slot.thread for slot in self._slots] + [self._watcher]
        deliver(replies)
        give_up = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not None and thread is not threading.current_thread() and thread.is_alive():
                thread.join(max(0.0, give_up - time.monotonic()))

    def stats(self) -> SchedulerStats:
        """A consistent picture."""
        with self._lock:
            devices = tuple(slot.stats() for slot in self._slots)
            return SchedulerStats(
                pending_requests=len(self._waiters),
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
        """The same with nothing in it, for a forked child; closed if this is."""
        engines = [slot.device.engine for slot in self._slots]
        child = Workers(
            engines, self._max_batch_tokens, self._max_queue_tokens, self._admission, in_child=True
        )
        child._closed = self._closed
        return child

    def abandon(self) -> None:
        """Fail in a forked child what was pending in the parent. No lock is taken: its holder may not exist."""
        self._closed = True
        self._make_locks()
        for future in list(self._futures):
            future.abandon(ClosedError("The process was forked; what the parent began is not finished here"))
        self._waiters = {}

    def cancel(self, request: Request) -> None:
        """Take out what nobody waits for any more."""
        with self._lock:
            if self._waiters.pop(request, None) is not None:
                self._counts["cancelled"] += 1
                self._queue.remove(request)
                self._work.notify_all()

    # --------------------------------------------------------------------------------- admission, in the lock

    def _refuse_if_unable(self, request: Request) -> None:
        if self._closed:
            raise ClosedError("The scheduler is closed")
        if self._lost:
            raise DeviceLostError(self._lost)
        if not any(slot.is_alive for slot in self._slots):
            raise WorkerDiedError("The workers of all devices died too often; the scheduler is out of order")
        if self._admission == "reject" and request.order and not self._queue.has_room_for(request):
            self._counts["rejected"] += 1
            raise OverloadedError(
                f"The queue holds {self._queue.queued_tokens} tokens, and {request.tokens_left} more would exceed "
                f"its limit of {self._max_queue_tokens}",
                retry_after_s=self._seconds_until_room(request),
            )

    def _seconds_until_room(self, request: Request) -> float:
        """Time after which the devices, at their recent speed, have made the room that it lacks."""
        speed = sum(slot.device.tokens_per_s for slot in self._slots if slot.is_alive)
        excess = self._queue.queued_tokens + request.tokens_left - self._max_queue_tokens
        seconds = min(excess, self._queue.queued_tokens) / speed if speed else 1.0
        return min(max(seconds, _MIN_RETRY_AFTER_S), _MAX_RETRY_AFTER_S)

    def _enqueue(self, request: Request) -> list[Reply]:
        if not request.order:
            return self._settle(request, [])
        if not request.is_live(time.monotonic()):
            return self._settle(request, deadline_error())
        if self._admission == "reject":
            self._queue.add_at_once(request)
        else:
            self._queue.add(request)
        replies = self._start_threads(watch=request.deadline is not None)
        self._work.notify_all()
        if request.deadline is not None and request.deadline < self._alarm_at:
            self._alarm.notify_all()
        return replies

    def _start_threads(self, *, watch: bool) -> list[Reply]:
        """Start what does not run. A thread that cannot start counts as dead."""
        replies: list[Reply] = []
        for slot in self._slots:
            if slot.is_alive and (slot.thread is None or not slot.thread.is_alive()):
                replies += self._start(slot)
        if watch and (self._watcher is None or not self._watcher.is_alive()):
            self._start_watcher()
        return replies

    def _start_watcher(self) -> None:
        self._watcher = threading.Thread(target=self._watch, name="qwen-rerank-deadlines", daemon=True)
        try:
            self._watcher.start()
        except RuntimeError:  # workers still look at deadlines, between batches
            logger.warning("The thread that watches deadlines could not start")

    def _start(self, slot: Slot) -> list[Reply]:
        slot.thread = threading.Thread(
            target=self._serve, args=(slot,), name=f"qwen-rerank-{slot.name}", daemon=True
        )
        try:
            slot.thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is going away
            return self._give_up(slot, error)
        return []

    # ------------------------------------------------------------------------------------- the threads' work

    def _serve(self, slot: Slot) -> None:
        """A worker's life."""
        try:
            if slot.needs_after_fork:
                slot.device.engine.after_fork()
                slot.needs_after_fork = False
            while self._wait_for_batch(slot):
                self._compute(slot)
        except BaseException as error:  # noqa: BLE001 - SystemExit and its kind must not leave waiters behind
            self._handle_worker_death(slot, error)

    def _wait_for_batch(self, slot: Slot) -> bool:
        """Put the next batch into the slot; False when the workers are closed."""
        while True:
            with self._lock:
                replies = self._expire()
                if not self._closed:
                    slot.in_flight = self._queue.take(slot.device.budget_tokens)
                    self._note_waits(slot.in_flight)
                if not (slot.in_flight or replies or self._closed):
                    self._work.wait()
            deliver(replies)
            if slot.in_flight or self._closed:
                return not self._closed

    def _compute(self, slot: Slot) -> None:
        for answers in slot.device.run(slot.in_flight):
            with self._lock:
                replies = self._record(answers)
            deliver(replies)
        slot.in_flight = ()

    def _watch(self) -> None:
        """The watcher's life: answer for deadlines while the workers are busy."""
        while True:
            with self._lock:
                if self._closed:
                    return
                replies = self._expire()
                if not replies:
                    self._sleep_until_next_deadline()
            deliver(replies)

    def _sleep_until_next_deadline(self) -> None:
        now, deadline = time.monotonic(), self._queue.next_deadline()
        seconds = _MAX_SLEEP_S if deadline is None else min(max(0.0, deadline - now), _MAX_SLEEP_S)
        self._alarm_at = now + seconds
        self._alarm.wait(seconds)

    def _handle_worker_death(self, slot: Slot, error: BaseException) -> None:
        """Answer for a dead worker, and replace it unless its device is lost or it died too often."""
        logger.error("The worker of %s died of %s", slot.name, type(error).__name__)
        with self._lock:
            if isinstance(error, DeviceLostError):
                self._lost = str(error)
                for other in self._slots:  # CUDA's contexts of one process are lost together
                    other.is_alive = False
                replies = self._settle_all(lambda: DeviceLostError(self._lost))
            else:
                replies = self._answer_for_dead(slot, error)
        deliver(replies)

    def _answer_for_dead(self, slot: Slot, error: BaseException) -> list[Reply]:
        doomed = {item.request for item in slot.in_flight}
        slot.in_flight = ()
        replies = [
            reply
            for request in doomed
            for reply in self._settle(request, worker_died_error(slot.name, error))
        ]
        return replies if self._closed else [*replies, *self._replace(slot, error)]

    def _replace(self, slot: Slot, error: BaseException) -> list[Reply]:
        if not slot.can_restart():
            return self._give_up(slot, error)
        slot.num_restarts += 1
        return self._start(slot)

    def _give_up(self, slot: Slot, error: BaseException) -> list[Reply]:
        """Do without a device; without the last one nobody can be served."""
        slot.is_alive = False
        logger.error("%s is out of service", slot.name)
        if any(other.is_alive for other in self._slots):
            return []
        return self._settle_all(lambda: worker_died_error(slot.name, error))

    # ------------------------------------------------------------------------------------ books, in the lock

    def _note_waits(self, batch: Sequence[Item]) -> None:
        now = time.monotonic()
        for item in batch:
            if not item.request.has_started:
                item.request.has_started = True
                self._queue_s += now - item.request.arrived

    def _record(self, answers: Answers) -> list[Reply]:
        replies: list[Reply] = []
        for item, log_odds in answers.scores:
            request = item.request
            request.log_odds[item.index] = log_odds
            request.num_missing -= 1
            if request.num_missing == 0:
                replies += self._settle(request, request.log_odds)
        for request, error in answers.failures:
            replies += self._settle(request, error)
        return replies

    def _expire(self) -> list[Reply]:
        late = self._queue.expired(time.monotonic())
        return [reply for request in late for reply in self._settle(request, deadline_error())]

    def _settle_all(self, make_error: Callable[[], RerankError]) -> list[Reply]:
        return [reply for request in list(self._waiters) for reply in self._settle(request, make_error())]

    def _settle(self, request: Request, answer: list[float] | RerankError) -> list[Reply]:
        """Strike a request from the books; the reply to be delivered, none if it was settled before."""
        self._queue.remove(request)
        waiter = self._waiters.pop(request, None)
        if waiter is None:
            return []
        reply = Reply(waiter, answer)
        self._counts[reply.outcome] += 1
        return [reply]


def _forget_if_cancelled(
    workers: weakref.ref[Workers], request: Request, future: Future[list[float]]
) -> None:
    if future.cancelled():
        future.set_running_or_notify_cancel()  # wakes concurrent.futures.wait and as_completed
        if (living := workers()) is not None:
            living.cancel(request)
