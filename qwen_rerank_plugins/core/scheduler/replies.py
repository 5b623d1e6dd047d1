"""Futures, and how they are resolved.

It knows no queue and no devices. Futures are resolved outside every lock, because their callbacks are foreign
code.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Literal, NamedTuple

from qwen_rerank_plugins.errors import DeadlineExceededError, RerankError, WorkerDiedError

__all__ = [
    "PendingRequest",
    "Resolution",
    "ScoreFuture",
    "deadline_error",
    "resolve_futures",
    "worker_died_error",
]

logger = logging.getLogger(__name__)


class ScoreFuture(Future[list[float]]):
    """A future that can fail in a forked child, where the threads that held its lock do not exist."""

    def abandon(self, error: RerankError) -> None:
        """Fail the future if it is not done, without its callbacks and waiters.

        Their threads stayed in the parent.
        """
        self._condition = threading.Condition()
        self._waiters.clear()
        self._done_callbacks: list[Any] = []
        if not self.done():
            self.set_exception(error)


class PendingRequest(NamedTuple):
    """The future of a request, and its scheduler, which stays alive until the future is resolved."""

    future: ScoreFuture
    owner: object


class Resolution(NamedTuple):
    """A result or an error, to be set on its future outside the lock."""

    pending: PendingRequest
    result: list[float] | RerankError

    @property
    def outcome(self) -> Literal["completed", "expired", "failed"]:
        """The counter that the resolution adds to."""
        if isinstance(self.result, list):
            return "completed"
        return "expired" if isinstance(self.result, DeadlineExceededError) else "failed"


def deadline_error() -> DeadlineExceededError:
    """Return the error of a request whose deadline passed."""
    return DeadlineExceededError(
        "The request's deadline passed before its result was ready; raise deadline_s or send fewer documents"
    )


def worker_died_error(name: str, error: BaseException) -> WorkerDiedError:
    """Return the error of requests whose worker died.

    Args:
        name: The worker's device.
        error: The exception that ended the worker.
    """
    died = WorkerDiedError(f"The worker of {name!r} died of {type(error).__name__}; send the request again")
    died.__cause__ = error
    return died


def resolve_futures(resolutions: Iterable[Resolution]) -> None:
    """Resolve futures. A callback that raises does not keep the next futures from their results."""
    interrupt: BaseException | None = None
    for pending, result in resolutions:
        try:
            if isinstance(result, list):
                pending.future.set_result(result)
            else:
                pending.future.set_exception(result)
        except InvalidStateError:
            pass  # cancelled meanwhile
        except BaseException as error:  # noqa: BLE001 - see below
            interrupt = error
    if interrupt is None:
        return
    if threading.current_thread() is threading.main_thread():
        raise interrupt
    logger.error("A future's callback raised %s in a worker", type(interrupt).__name__)
