"""The lifecycle of the engine: loading, ready, failing and recovering, draining.

Probes run only during loading and after a failure, so that no request waits for one. Nothing here knows HTTP or
prints; changes are published as events.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from qwen_rerank_plugins.errors import (
    ClosedError,
    DeviceLostError,
    EngineError,
    OverloadedError,
    RemoteError,
    RerankError,
    WorkerDiedError,
)
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.service.errors import ProblemError, unavailable

__all__ = ["Event", "Lifecycle", "State", "in_daemon_thread"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

PROBE_EVERY_S = 2.0
MAX_PROBE_EVERY_S = 30.0
PROBE_TIMEOUT_S = 60.0
PROBES_BEFORE_REBUILD = 3
CLOSE_S = 15.0  # for running batches
LOADING_CLOSE_S = 0.5

State = Literal["loading", "ready", "failing", "broken", "draining"]
"""`broken`: loading failed, or the process is about to exit because the engine died or its device was lost."""

_DEAD = (WorkerDiedError, ClosedError)
_SUSPECT = (EngineError, ClosedError, RemoteError)

_MESSAGES = {
    "loading": "the model is loading; retry later",
    "failing": "the engine failed and is recovering; retry later",
    "broken": "the model or its device failed; see the log",
    "draining": "the service is shutting down",
}


@dataclass(frozen=True, slots=True)
class Event:
    """An event in the life of the service.

    Attributes:
        kind: The kind of event.
        seconds: Duration of loading, for "loaded".
        info: Information about the loaded model, for "loaded" and "recovered".
        error: The cause, for "failing" and "failed".
        address: Host and port, for "listening".
    """

    kind: Literal["listening", "loading", "loaded", "failing", "recovered", "failed", "draining", "stopped"]
    seconds: float | None = None
    info: Mapping[str, Any] | None = None
    error: Exception | None = None
    address: tuple[str, int] | None = None


class Lifecycle:
    """Owns the reranker and tracks whether its engine answers.

    Args:
        build: Creates a reranker without loading it.
        can_rebuild: Whether a new reranker gets a new engine.
        on_engine_failure: Recover from a dead engine, or exit.
        announce: Called with events, on the thread of the event loop.
        probe_every_s: Seconds between the first probes after a failure.

    Attributes:
        ready: Set while the engine answers.
    """

    def __init__(
        self,
        build: Callable[[], Reranker],
        *,
        can_rebuild: bool,
        on_engine_failure: Literal["recover", "exit"],
        announce: Callable[[Event], None],
        probe_every_s: float = PROBE_EVERY_S,
    ) -> None:
        self.reranker = build()
        self.on_fatal: Callable[[Exception], None] = lambda _: None
        self.announce = announce
        self._build, self._can_rebuild = build, can_rebuild
        self._exits = on_engine_failure == "exit"
        self._probe_every_s = probe_every_s
        self.ready = asyncio.Event()
        self._state: State = "loading"
        self._draining = False
        self._loaded_info: dict[str, Any] = {}
        self._probe_ids = itertools.count()
        self._task: asyncio.Task[None] | None = None
        self._aborted: asyncio.Future[None] | None = None

    @property
    def state(self) -> State:
        """The current state."""
        return "draining" if self._draining else self._state

    @property
    def loaded_info(self) -> Mapping[str, Any]:
        """Information about the loaded model, as of loading; empty before."""
        return self._loaded_info

    @property
    def aborted(self) -> asyncio.Future[None]:
        """A future that is done when open requests must be aborted."""
        if self._aborted is None:
            self._aborted = asyncio.get_running_loop().create_future()
        return self._aborted

    def check_ready(self) -> None:
        """Reject a request while the service is not ready.

        Raises:
            ProblemError: With status 503.
        """
        if self.state != "ready":
            raise ProblemError(unavailable(_MESSAGES[self.state], reason=self.state))

    def live_info(self) -> dict[str, Any]:
        """Return the scorer's current information; empty if it is unavailable."""
        if self._state != "ready":
            return {}
        try:
            return self.reranker.info()
        except RerankError:
            return {}

    async def start(self) -> None:
        """Start loading in the background."""
        self._task = asyncio.create_task(self._load())

    async def stop(self) -> None:
        """Release the reranker."""
        if self._task is not None:
            self._task.cancel()
        try:
            # Loading cannot be interrupted; its daemon thread does not keep the process alive.
            async with asyncio.timeout(LOADING_CLOSE_S if self._state == "loading" else CLOSE_S):
                await in_daemon_thread(self.reranker.close)
        except TimeoutError:
            logger.warning("closing while the engine is still busy")
        self.announce(Event("stopped"))

    def drain(self) -> None:
        """Reject new requests and finish accepted ones. Safe in a signal handler."""
        self._draining = True

    def abort(self) -> None:
        """Abort open requests."""
        if not self.aborted.done():
            self.aborted.set_result(None)

    def report_error(self, error: BaseException) -> None:
        """Report the error of a request. An error of the engine starts recovery."""
        if self._state != "ready" or self._draining or not isinstance(error, _SUSPECT):
            return
        if isinstance(error, DeviceLostError):
            self._fail_permanently(error)
            return
        if isinstance(error, _DEAD):
            self._fail(error)
            if self._exits:
                self._fail_permanently(error)
                return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._recover())

    async def _load(self) -> None:
        self.announce(Event("loading"))
        start = time.perf_counter()
        try:
            await self._open()
        except (RemoteError, EngineError) as error:
            logger.warning("loading: the engine does not answer yet: %s", type(error).__name__)
            self._fail(error)
            await self._recover()
        except Exception as error:  # noqa: BLE001 (any error means that there is no model)
            self._fail_permanently(error)
        else:
            self._enter("ready")
            self.announce(Event("loaded", seconds=time.perf_counter() - start, info=self._loaded_info))

    async def _open(self) -> None:
        """Load the scorer and send it a probe, which also warms it up."""
        self._loaded_info = await in_daemon_thread(self.reranker.info)
        await self._probe()

    async def _probe(self) -> None:
        text = f"probe {next(self._probe_ids)} {time.time_ns()}"  # unique, so that it is not cached
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self.reranker.ascore("probe", [text])
        except OverloadedError:
            return  # an engine that rejects is alive
        except TimeoutError:
            raise EngineError("the engine does not answer") from None

    async def _recover(self) -> None:
        """Probe until the engine answers; rebuild it after `PROBES_BEFORE_REBUILD` failures."""
        for attempt in itertools.count(1):
            try:
                await self._try_to_recover(attempt)
            except Exception as error:  # noqa: BLE001 (any error means that it does not answer)
                self._fail(error)
                if isinstance(error, DeviceLostError) or (self._exits and not isinstance(error, RemoteError)):
                    self._fail_permanently(error)
                    return
                await asyncio.sleep(min(self._probe_every_s * 1.5 ** (attempt - 1), MAX_PROBE_EVERY_S))
            else:
                break
        if self._state != "ready":
            self._enter("ready")
            self.announce(Event("recovered", info=self._loaded_info))

    async def _try_to_recover(self, attempt: int) -> None:
        if self._can_rebuild and attempt > PROBES_BEFORE_REBUILD:
            logger.warning("rebuilding the engine")
            await in_daemon_thread(self.reranker.close)
            self.reranker = self._build()
        await self._open()

    def _enter(self, state: State) -> None:
        self._state = state
        if state == "ready":
            self.ready.set()
        else:
            self.ready.clear()

    def _fail(self, error: Exception) -> None:
        if self._state != "failing":
            self._enter("failing")
            logger.error("the engine failed: %s", type(error).__name__)
            self.announce(Event("failing", error=error))

    def _fail_permanently(self, error: Exception) -> None:
        self._enter("broken")
        logger.error("the service cannot score: %s", type(error).__name__)
        self.announce(Event("failed", error=error))
        self.on_fatal(error)


async def in_daemon_thread(work: Callable[[], T], *, name: str = "qwen-rerank-loading") -> T:
    """Run blocking work in a daemon thread, which unlike a pool's does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 (raised where the future is awaited)
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
