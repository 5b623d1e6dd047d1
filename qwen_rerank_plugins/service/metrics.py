"""Prometheus metrics, one registry per app.

No label value comes from a client: routes are templates, dialects a fixed set, keys those that are configured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from qwen_rerank_plugins.service.admission import AdmissionController

__all__ = ["MEDIA_TYPE", "Metrics", "ScorerStats"]

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

ScorerStats = Mapping[str, Any]
"""The result of a scorer's `info`: nested plain JSON types."""

# Name, help, and path in `ScorerStats`.
_GAUGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("rerank_queue_tokens", "Tokens in the scheduler's queue.", ("scheduler", "queued_tokens")),
    ("rerank_queue_requests", "Requests with queued work.", ("scheduler", "queued_requests")),
    ("rerank_cache_entries", "Scores in the memory cache.", ("cache", "entries")),
)
_COUNTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("rerank_batches", "Computed batches.", ("scheduler", "batches")),
    ("rerank_computed_sequences", "Computed prompts.", ("scheduler", "sequences")),
    (
        "rerank_computed_tokens",
        "Computed tokens; shared tokens count once.",
        ("scheduler", "computed_tokens"),
    ),
    ("rerank_worker_restarts", "Restarts of device workers.", ("scheduler", "worker_restarts")),
    ("rerank_oom_splits", "Batches that were split because memory ran out.", ("scheduler", "oom_splits")),
    ("rerank_queue_seconds", "Seconds that requests spent in the queue.", ("scheduler", "queue_s")),
    ("rerank_compute_seconds", "Seconds of computation on devices.", ("scheduler", "compute_s")),
    ("rerank_encode_seconds", "Seconds of tokenization.", ("encode_s",)),
    ("rerank_cache_hits", "Pairs with a cached score.", ("cache", "hits")),
    ("rerank_cache_misses", "Pairs without a cached score.", ("cache", "misses")),
)


def _stat(stats: ScorerStats, path: tuple[str, ...]) -> float | None:
    value: Any = stats
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _batch_fill(stats: ScorerStats) -> float | None:
    """Return the mean number of tokens per batch as a fraction of `max_batch_tokens`."""
    tokens = _stat(stats, ("scheduler", "computed_tokens"))
    batches, limit = _stat(stats, ("scheduler", "batches")), _stat(stats, ("max_batch_tokens",))
    return tokens / (batches * limit) if tokens is not None and batches and limit else None


class _LiveCollector(Collector):
    """Metrics that are read at scrape time: the counters of admission and the scorer's stats."""

    def __init__(
        self,
        admission: AdmissionController,
        stats: Callable[[], ScorerStats],
        state: Callable[[], tuple[bool, dict[str, str]]],
    ) -> None:
        self._admission, self._stats, self._state = admission, stats, state

    def describe(self) -> Iterable[Metric]:
        """Return nothing, since the scorer may not be loaded at registration."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read the current values."""
        yield from self._admission_metrics()
        is_ready, labels = self._state()
        yield GaugeMetricFamily("rerank_ready", "1 if the service is ready.", value=float(is_ready))
        info = GaugeMetricFamily("rerank_model_info", "The loaded model; always 1.", labels=list(labels))
        info.add_metric(list(labels.values()), 1.0)
        yield info
        yield from self._scorer_metrics(self._stats())

    def _admission_metrics(self) -> Iterable[Metric]:
        admission = self._admission
        yield GaugeMetricFamily(
            "rerank_pending_requests",
            "Accepted requests that are not answered.",
            value=admission.pending_requests,
        )
        yield GaugeMetricFamily(
            "rerank_pending_tokens", "Estimated tokens of pending requests.", value=admission.pending_tokens
        )
        yield GaugeMetricFamily(
            "rerank_pending_bytes", "Bytes of request bodies in memory.", value=admission.pending_bytes
        )
        yield CounterMetricFamily("rerank_accepted", "Accepted requests.", admission.accepted)
        yield CounterMetricFamily(
            "rerank_answered", "Accepted requests that were answered, including errors.", admission.answered
        )
        yield CounterMetricFamily(
            "rerank_cancelled", "Accepted requests whose client disconnected.", admission.cancelled
        )

    @staticmethod
    def _scorer_metrics(stats: ScorerStats) -> Iterable[Metric]:
        for name, text, path in _GAUGES:
            if (value := _stat(stats, path)) is not None:
                yield GaugeMetricFamily(name, text, value=value)
        for name, text, path in _COUNTERS:
            if (value := _stat(stats, path)) is not None:
                yield CounterMetricFamily(name, text, value)
        if (fill := _batch_fill(stats)) is not None:
            yield GaugeMetricFamily(
                "rerank_batch_fill_ratio", "Mean tokens per batch / max_batch_tokens.", value=fill
            )


class Metrics:
    """The metrics of one app.

    Args:
        admission: Counters of requests.
        stats: Returns the scorer's stats; empty while no scorer is loaded.
        state: Returns whether the service is ready, and the labels of `rerank_model_info`.
    """

    def __init__(
        self,
        admission: AdmissionController,
        stats: Callable[[], ScorerStats],
        state: Callable[[], tuple[bool, dict[str, str]]],
    ) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "rerank_requests",
            "Answers, by route template, dialect and status.",
            ["route", "dialect", "status"],
            registry=registry,
        )
        self.duration = Histogram(
            "rerank_request_duration_seconds",
            "Seconds from the end of the request's head to the end of the answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "rerank_stage_duration_seconds",
            "Seconds of each stage of a request: read, parse, score, write.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.rejected = Counter("rerank_rejected", "Error answers, by reason.", ["reason"], registry=registry)
        self.pairs = Counter("rerank_pairs", "Scored pairs.", registry=registry)
        self.tokens = Counter("rerank_tokens", "Tokens of scored pairs, without sharing.", registry=registry)
        self.cached = Counter(
            "rerank_cached_pairs", "Scored pairs whose score was cached.", registry=registry
        )
        self.truncated = Counter("rerank_truncated_documents", "Truncated documents.", registry=registry)
        self.warnings = Counter(
            "rerank_text_warnings",
            "Requests with a warning about their texts.",
            ["warning"],
            registry=registry,
        )
        self.key_requests = Counter(
            "rerank_key_requests", "Answers, by id of the API key.", ["key"], registry=registry
        )
        self.key_documents = Counter(
            "rerank_key_documents", "Documents in requests, by id of the API key.", ["key"], registry=registry
        )
        self.key_tokens = Counter(
            "rerank_key_tokens", "Tokens of scored pairs, by id of the API key.", ["key"], registry=registry
        )
        registry.register(_LiveCollector(admission, stats, state))
        ProcessCollector(registry=registry)

    def render(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)
