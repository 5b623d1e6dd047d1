"""Futures and how they are answered.

It knows no queue, no devices and no reason for an answer. Futures are answered outside every lock, because their
callbacks are other people's code.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Literal, NamedTuple

from qwen_rerank_plugins.errors import DeadlineExceededError, RerankError, WorkerDiedError

__all__ = ["Reply", "ScoreFuture", "Waiter", "deadline_error", "deliver", "worker_died_error"]

logger = logging.getLogger(__name__)


class ScoreFuture(Future[list[float]]):
    """A future that can be failed in a forked child, where the threads that held its lock do not exist."""

    def abandon(self, error: RerankError) -> None:
        """Fail it if it is not done. Its callbacks and waiters belong to threads that stayed in the parent."""
        self._condition = threading.Condition()
        self._waiters.clear()
        self._done_callbacks: list[Any] = []
        if not self.done():
            self.set_exception(error)


class Waiter(NamedTuple):
    """Who waits for a request. The owner is held so that it lives as long as somebody waits."""

    future: ScoreFuture
    owner: object


class Reply(NamedTuple):
    """An answer on its way out of the lock."""

    waiter: Waiter
    answer: list[float] | RerankError

    @property
    def outcome(self) -> Literal["completed", "expired", "failed"]:
        """Under what it is counted."""
        if isinstance(self.answer, list):
            return "completed"
        return "expired" if isinstance(self.answer, DeadlineExceededError) else "failed"


def deadline_error() -> DeadlineExceededError:
    """The answer to a request whose time is over."""
    return DeadlineExceededError("The request's deadline passed before its result was there")


def worker_died_error(name: str, error: BaseException) -> WorkerDiedError:
    """The answer to requests whose worker died.

    Args:
        name: The worker's device.
        error: What it died of.
    """
    died = WorkerDiedError(f"The worker of {name!r} died of {type(error).__name__}")
    died.__cause__ = error
    return died


def deliver(replies: Iterable[Reply]) -> None:
    """Answer futures. A callback's misbehaviour must not keep the next ones from their answers."""
    interrupt: BaseException | None = None
    for waiter, answer in replies:
        try:
            if isinstance(answer, list):
                waiter.future.set_result(answer)
            else:
                waiter.future.set_exception(answer)
        except InvalidStateError:
            pass  # cancelled in this moment
        except BaseException as error:  # noqa: BLE001 - see below
            interrupt = error
    if interrupt is None:
        return
    if threading.current_thread() is threading.main_thread():
        raise interrupt
    logger.error("A future's callback raised %s in a worker", type(interrupt).__name__)
