"""A device, the thread that serves it, and the thread's restarts. Knows no queue and no futures."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from qwen_rerank_plugins.core.scheduler.execution import BatchExecutor
from qwen_rerank_plugins.core.scheduler.queue import QueuedPrompt
from qwen_rerank_plugins.core.scheduler.stats import DeviceStats

__all__ = ["DeviceWorker"]

_MAX_RESTARTS = 3
"""Restarts of a device's worker within the window; after more, the device is out of service."""

_RESTART_WINDOW_S = 60.0


@dataclass(slots=True, eq=False)
class DeviceWorker:
    """A device and the thread that serves it.

    Attributes:
        needs_after_fork: Whether the engine comes from the parent process and `after_fork` is still to be
            called.
        in_flight: Prompts that are being computed.
        deaths: Monotonic times in seconds at which the thread died.
    """

    device: BatchExecutor
    needs_after_fork: bool
    thread: threading.Thread | None = None
    in_flight: Sequence[QueuedPrompt] = ()
    deaths: deque[float] = field(default_factory=deque)
    num_restarts: int = 0
    is_alive: bool = True

    @property
    def name(self) -> str:
        """The device's name, such as "cpu" or "cuda:0"."""
        return self.device.engine.name

    def can_restart(self) -> bool:
        """Record a death of the thread, and return whether it may be restarted."""
        now = time.monotonic()
        self.deaths.append(now)
        while self.deaths[0] < now - _RESTART_WINDOW_S:
            self.deaths.popleft()
        return len(self.deaths) <= _MAX_RESTARTS

    def stats(self) -> DeviceStats:
        """Return the counters of the device and of its thread."""
        device = self.device
        return DeviceStats(
            name=self.name,
            budget_tokens=device.budget_tokens,
            batches=device.num_batches,
            sequences=device.num_sequences,
            computed_tokens=device.num_tokens,
            oom_splits=device.num_oom_splits,
            compute_s=device.compute_s,
            tokens_per_s=device.tokens_per_s,
            restarts=self.num_restarts,
            is_alive=self.is_alive,
        )
