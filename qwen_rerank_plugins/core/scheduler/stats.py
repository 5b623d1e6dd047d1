"""The figures that a scheduler gives for logs and metrics."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DeviceStats", "SchedulerStats"]


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """Figures of one device.

    Attributes:
        name: The engine's name.
        budget_tokens: Tokens that its next batch may have; below the maximum after memory ran out.
        batches: Batches that it computed.
        sequences: Prompts that it computed.
        computed_tokens: Tokens that it computed, shared segments once a batch.
        oom_splits: Batches that were cut in two because memory ran out.
        compute_s: Seconds that it computed.
        tokens_per_s: Its recent speed; 0 before the first batch.
        restarts: How often its worker was restarted.
        is_alive: False once its worker died too often.
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
    """Figures of a scheduler: what is in it now, and what happened since it was made, or the process forked.

    Attributes:
        pending_requests: Requests without an answer.
        queued_requests: Requests of which something is in the queue.
        queued_tokens: Tokens in the queue, without those that are being computed.
        waiting_requests: Requests of which something stands in line before the queue.
        batches: Batches that were computed.
        sequences: Prompts that were computed.
        computed_tokens: Tokens that were computed, shared segments once a batch.
        oom_splits: Batches that were cut in two because memory ran out.
        queue_s: Seconds that requests waited until the first of their prompts was computed, summed.
        compute_s: Seconds that the devices computed, summed.
        worker_restarts: Workers that were replaced.
        completed: Requests whose scores were all computed before anybody gave up.
        failed: Requests that got an error other than the following.
        rejected: Requests refused because the queue was full.
        expired: Requests whose deadline passed.
        cancelled: Requests whose caller cancelled.
        devices: One entry a device.
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
