"""Figures for Prometheus, one registry an app. No label holds what a client sent: routes are templates, dialects a fixed set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from qwen_rerank_plugins.service.admission import AdmissionController

__all__ = ["MEDIA_TYPE", "Figures", "Metrics"]

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

Figures = Mapping[str, Any]
"""What a scorer tells of itself: plain JSON types, nested."""

# Name, help, and where the figure stands in what the scorer tells of itself.
_GAUGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("rerank_queue_tokens", "Tokens in the scheduler's queue.", ("scheduler", "queued_tokens")),
    ("rerank_queue_requests", "Requests of which something is queued.", ("scheduler", "queued_requests")),
    ("rerank_cache_entries", "Scores in the cache's memory.", ("cache", "entries")),
)
_COUNTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("rerank_batches", "Batches that were computed.", ("scheduler", "batches")),
    ("rerank_computed_sequences", "Prompts that were computed.", ("scheduler", "sequences")),
    (
        "rerank_computed_tokens",
        "Tokens that were computed, shared ones once.",
        ("scheduler", "computed_tokens"),
    ),
    ("rerank_worker_restarts", "Workers of a device that were replaced.", ("scheduler", "worker_restarts")),
    ("rerank_oom_splits", "Batches that were cut because memory ran out.", ("scheduler", "oom_splits")),
    ("rerank_queue_seconds", "Seconds that requests stood in the queue.", ("scheduler", "queue_s")),
    ("rerank_compute_seconds", "Seconds of the device's work.", ("scheduler", "compute_s")),
    ("rerank_encode_seconds", "Seconds of turning text into tokens.", ("encode_s",)),
    ("rerank_cache_hits", "Pairs whose score was in the cache.", ("cache", "hits")),
    ("rerank_cache_misses", "Pairs whose score was not in the cache.", ("cache", "misses")),
)


def _figure(figures: Figures, path: tuple[str, ...]) -> float | None:
    value: Any = figures
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _batch_fill(figures: Figures) -> float | None:
    """Tokens of the mean batch, as a part of the largest there may be."""
    tokens = _figure(figures, ("scheduler", "computed_tokens"))
    batches, limit = _figure(figures, ("scheduler", "batches")), _figure(figures, ("max_batch_tokens",))
    return tokens / (batches * limit) if tokens is not None and batches and limit else None


class _Live(Collector):
    """What is read when somebody asks: the gate's books and the scorer's own figures."""

    def __init__(
        self,
        gate: AdmissionController,
        figures: Callable[[], Figures],
        state: Callable[[], tuple[bool, dict[str, str]]],
    ) -> None:
        self._gate, self._figures, self._state = gate, figures, state

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: the scorer may not be there yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read everything."""
        yield from self._of_gate()
        is_ready, labels = self._state()
        yield GaugeMetricFamily("rerank_ready", "1 while requests are served.", value=float(is_ready))
        info = GaugeMetricFamily("rerank_model_info", "What is served; always 1.", labels=list(labels))
        info.add_metric(list(labels.values()), 1.0)
        yield info
        yield from self._of_scorer(self._figures())

    def _of_gate(self) -> Iterable[Metric]:
        gate = self._gate
        yield GaugeMetricFamily(
            "rerank_pending_requests", "Accepted and not answered.", value=gate.pending_requests
        )
        yield GaugeMetricFamily(
            "rerank_pending_tokens", "Their tokens, estimated.", value=gate.pending_tokens
        )
        yield GaugeMetricFamily("rerank_pending_bytes", "Bytes of bodies held.", value=gate.pending_bytes)
        yield CounterMetricFamily("rerank_accepted", "Requests let in; answered + cancelled.", gate.accepted)
        yield CounterMetricFamily("rerank_answered", "Accepted and answered, errors too.", gate.answered)
        yield CounterMetricFamily("rerank_cancelled", "Accepted, but the client left.", gate.cancelled)

    @staticmethod
    def _of_scorer(figures: Figures) -> Iterable[Metric]:
        for name, text, path in _GAUGES:
            if (value := _figure(figures, path)) is not None:
                yield GaugeMetricFamily(name, text, value=value)
        for name, text, path in _COUNTERS:
            if (value := _figure(figures, path)) is not None:
                yield CounterMetricFamily(name, text, value)
        if (fill := _batch_fill(figures)) is not None:
            yield GaugeMetricFamily(
                "rerank_batch_fill_ratio", "Tokens of the mean batch / limit.", value=fill
            )


class Metrics:
    """The figures of one app.

    Args:
        gate: Whose books are shown.
        figures: Gives the scorer's own figures; empty while there is no scorer.
        state: Gives whether the service is ready, and the labels of `rerank_model_info`.
    """

    def __init__(
        self,
        gate: AdmissionController,
        figures: Callable[[], Figures],
        state: Callable[[], tuple[bool, dict[str, str]]],
    ) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "rerank_requests",
            "Answers, by the address's template, dialect and status.",
            ["route", "dialect", "status"],
            registry=registry,
        )
        self.duration = Histogram(
            "rerank_request_duration_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "rerank_stage_duration_seconds",
            "Seconds of one request's stage: read, parse, score, write.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.rejected = Counter(
            "rerank_rejected", "Requests answered with an error, by reason.", ["reason"], registry=registry
        )
        self.pairs = Counter("rerank_pairs", "Pairs that were scored.", registry=registry)
        self.tokens = Counter(
            "rerank_tokens", "Tokens of these pairs, each counted whole.", registry=registry
        )
        self.cached = Counter("rerank_cached_pairs", "Pairs whose score was known.", registry=registry)
        self.truncated = Counter("rerank_truncated_documents", "Documents that were cut.", registry=registry)
        registry.register(_Live(gate, figures, state))
        ProcessCollector(registry=registry)

    def render(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
