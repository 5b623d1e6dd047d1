"""Futures, and how they are resolved: outside every lock, because their callbacks are foreign code."""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future, InvalidStateError
from typing import Any

from qwen_rerank_plugins.errors import RerankError

__all__ = ["ScoreFuture", "resolve_futures"]

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


def resolve_futures(finished: deque[tuple[ScoreFuture, list[float] | RerankError]]) -> None:
    """Remove futures from a queue and resolve them; several threads may do so at once.

    A callback that raises does not keep the next futures from their results.
    """
    interrupt: BaseException | None = None
    while finished:
        try:
            future, result = finished.popleft()
            if isinstance(result, RerankError):
                future.set_exception(result)
            else:
                future.set_result(result)
        except (IndexError, InvalidStateError):
            pass  # another thread was faster, or the future was cancelled meanwhile
        except BaseException as error:  # noqa: BLE001 - see below
            interrupt = error
    if interrupt is None:
        return
    if threading.current_thread() is threading.main_thread():
        raise interrupt
    logger.error("A future's callback raised %s in a worker", type(interrupt).__name__)
