"""The scheduler's counters for logs and metrics."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DeviceStats", "SchedulerStats"]


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """Counters of one device.

    Attributes:
        name: The engine's name.
        budget_tokens: Token budget of the next batch; below the maximum after memory ran out.
        batches: Computed batches.
        sequences: Computed prompts.
        computed_tokens: Computed tokens, shared segments once per batch.
        oom_splits: Batches that were split because memory ran out.
        compute_s: Seconds of computation.
        tokens_per_s: Recent speed; 0 before the first batch.
        restarts: Restarts of the worker.
        is_alive: Whether the device is in service.
    """

    name: str
    budget_tokens: int
    batches: int
    sequences: int
    computed_tokens: int
    oom_splits: int
    compute_s: float
    tokens_per_s: float
    restarts: int
    is_alive: bool


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """Counters of a scheduler: its present state, and totals since it was created or the process forked.

    Attributes:
        pending_requests: Requests without a result.
        queued_requests: Requests with prompts in the queue.
        queued_tokens: Tokens in the queue, without those that are being computed.
        waiting_requests: Requests with prompts that wait for admission.
        batches: Computed batches.
        sequences: Computed prompts.
        computed_tokens: Computed tokens, shared segments once per batch.
        oom_splits: Batches that were split because memory ran out.
        queue_s: Seconds that requests waited until the first of their prompts was computed, summed.
        compute_s: Seconds of computation on all devices, summed.
        worker_restarts: Restarts of workers.
        completed: Requests whose scores were all computed.
        failed: Requests that failed with an error other than the following.
        rejected: Requests rejected because the queue was full.
        expired: Requests whose deadline passed.
        cancelled: Requests that the caller cancelled.
        devices: One entry per device.
    """

    pending_requests: int
    queued_requests: int
    queued_tokens: int
    waiting_requests: int
    batches: int
    sequences: int
    computed_tokens: int
    oom_splits: int
    queue_s: float
    compute_s: float
    worker_restarts: int
    completed: int
    failed: int
    rejected: int
    expired: int
    cancelled: int
    devices: tuple[DeviceStats, ...]
