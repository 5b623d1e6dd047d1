"""Prometheus metrics of jobs. No label value comes from a client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwen_rerank_plugins.service.jobs.records import Job

__all__ = ["JobMetrics"]

SHOWN = ("queued", "running", "done", "failed")
ENDS = ("done", "failed", "cancelled")


class JobMetrics(Collector):
    """Collector of the metrics of all jobs.

    Args:
        jobs: All jobs, read at scrape time.
    """

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self._jobs = jobs
        self._ends: Counter[str] = Counter()
        self.num_pairs = self.num_rows = 0

    def add_pairs(self, number: int) -> None:
        """Count scored pairs."""
        self.num_pairs += number

    def add_rows(self, number: int) -> None:
        """Count processed rows. A resumed run may start below the last count; negative numbers are ignored."""
        self.num_rows += max(0, number)

    def add_finished(self, job: Job) -> None:
        """Count a job that ended."""
        self._ends[job.state] += 1

    def describe(self) -> Iterable[Metric]:
        """Return nothing, since the jobs are not loaded at registration."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read the current values."""
        jobs = list(self._jobs.values())
        states = GaugeMetricFamily("rerank_jobs", "Upload jobs, by state.", labels=["state"])
        for state in SHOWN:
            states.add_metric([state], sum(job.state == state for job in jobs))
        ends = CounterMetricFamily(
            "rerank_jobs_finished", "Jobs that ended, by final state.", labels=["state"]
        )
        for state in ENDS:
            ends.add_metric([state], self._ends[state])
        stored = sum(job.stored_bytes for job in jobs)
        yield states
        yield ends
        yield GaugeMetricFamily("rerank_jobs_bytes", "Estimated bytes of the files of jobs.", value=stored)
        yield CounterMetricFamily("rerank_job_rows", "Processed rows of jobs.", self.num_rows)
        yield CounterMetricFamily("rerank_job_pairs", "Scored pairs of jobs.", self.num_pairs)
