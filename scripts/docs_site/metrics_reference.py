"""The reference page of the service's metrics, from the collectors that register them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from prometheus_client.core import Metric

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.service import metrics as service_metrics
from qwen_rerank_plugins.service.app import create_app
from qwen_rerank_plugins.service.app_state import AppState
from qwen_rerank_plugins.service.jobs.metrics import JobMetrics
from qwen_rerank_plugins.service.metrics import Metrics
from scripts.settings_table import table_of_rows

__all__ = ["described_metrics", "metrics_page"]


def metrics_page() -> str:
    """Return the page with every metric."""
    rows = [("metric", "type", "labels", "meaning")]
    for name, kind, labels, meaning in described_metrics():
        rows.append((f'<a id="{name}"></a>`{name}`', kind, ", ".join(f"`{one}`" for one in labels), meaning))
    return (
        "# Metrics\n\nThe metrics of `/metrics`, in the text format of Prometheus. No label value comes from a client. A "
        "histogram has the series `_bucket`, `_sum` and `_count`. Metrics of the engine appear once the model is loaded, those "
        f"of jobs with `jobs_folder`, `process_*` on Linux. [Operations](../operations.md#metrics) groups them by purpose.\n\n{table_of_rows(rows)}\n"
    )


def described_metrics() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Return name as scraped, type, labels and meaning of every metric."""
    state: AppState = create_app(RerankConfig(backend="lexical")).state.service
    metrics = Metrics(state.admission, all_stats, state._state_for_metrics)  # noqa: SLF001
    metrics.registry.register(JobMetrics(lambda: ()))
    state.close()
    labels = {one.describe()[0].name: tuple(one._labelnames) for one in registered(metrics)}  # noqa: SLF001 (no public name)
    described = []
    for family in metrics.registry.collect():
        names = labels.get(family.name) or tuple(getattr(family, "_labelnames", ()))
        suffix = "_total" if family.type == "counter" else ""
        described.append((family.name + suffix, family.type, names, family.documentation))
    return described


def registered(metrics: Metrics) -> Iterator[Any]:
    """Yield the metrics that are attributes: those with labels have no sample before the first request."""
    for value in vars(metrics).values():
        if hasattr(value, "_labelnames") and not isinstance(value, Metric):
            yield value


def all_stats() -> Mapping[str, Any]:
    """Return stats of a scorer in which every value that a metric reads exists."""
    stats: dict[str, Any] = {"max_batch_tokens": 1}
    tables = service_metrics._GAUGES + service_metrics._COUNTERS  # noqa: SLF001 (no public name)
    for _, _, path in tables:
        place = stats
        for key in path[:-1]:
            place = cast(dict[str, Any], place.setdefault(key, {}))
        place[path[-1]] = 1
    return stats
