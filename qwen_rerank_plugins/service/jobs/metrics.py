"""Prometheus metrics of jobs. No label value comes from a client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwen_rerank_plugins.service.jobs.records import SHOWN_STATES

__all__ = ["JobMetrics"]

ENDS = ("done", "failed", "cancelled")


class JobMetrics(Collector):
    """Collector of the metrics of all jobs.

    Args:
        totals: Returns owner, state, number and bytes of jobs; called at scrape time.
    """

    def __init__(self, totals: Callable[[], Iterable[tuple[str, str, int, int]]]) -> None:
        self._totals = totals
        self._ends: Counter[str] = Counter()
        self.num_pairs = self.num_rows = 0

    def add_pairs(self, number: int) -> None:
        """Count scored pairs."""
        self.num_pairs += number

    def add_rows(self, number: int) -> None:
        """Count processed rows. Negative numbers are ignored: a run may start below the progress of an earlier one."""
        self.num_rows += max(0, number)

    def add_finished(self, state: str) -> None:
        """Count a job that ended."""
        self._ends[state] += 1

    def describe(self) -> Iterable[Metric]:
        """Return nothing, since `collect` reads the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read the current values."""
        numbers, stored = Counter[str](), 0
        for _, state, number, num_bytes in self._totals():
            numbers[state] += number
            stored += num_bytes
        states = GaugeMetricFamily("rerank_jobs", "Upload jobs, by state.", labels=["state"])
        for state in SHOWN_STATES:
            states.add_metric([state], numbers[state])
        ends = CounterMetricFamily(
            "rerank_jobs_finished", "Jobs that ended, by final state.", labels=["state"]
        )
        for state in ENDS:
            ends.add_metric([state], self._ends[state])
        yield states
        yield ends
        yield GaugeMetricFamily("rerank_jobs_bytes", "Estimated bytes of the files of jobs.", value=stored)
        yield CounterMetricFamily("rerank_job_rows", "Processed rows of jobs.", self.num_rows)
        yield CounterMetricFamily("rerank_job_pairs", "Scored pairs of jobs.", self.num_pairs)
