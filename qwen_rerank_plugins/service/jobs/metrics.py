"""Figures of jobs for Prometheus. No label holds what a client sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwen_rerank_plugins.service.jobs.records import Job

__all__ = ["Figures"]

SHOWN = ("queued", "running", "done", "failed")
ENDS = ("done", "failed", "cancelled")


class Figures(Collector):
    """What is counted of a service's jobs.

    Args:
        jobs: All jobs there are, read when somebody asks.
    """

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self._jobs = jobs
        self._ends: Counter[str] = Counter()
        self.num_pairs = self.num_rows = 0

    def add_pairs(self, number: int) -> None:
        """Count pairs that were scored."""
        self.num_pairs += number

    def add_rows(self, number: int) -> None:
        """Count rows that are done; a run that resumes begins below where the last one ended."""
        self.num_rows += max(0, number)

    def add_finished(self, job: Job) -> None:
        """Count a job's end."""
        self._ends[job.state] += 1

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read everything."""
        jobs = list(self._jobs.values())
        states = GaugeMetricFamily("rerank_jobs", "Upload jobs, by state.", labels=["state"])
        for state in SHOWN:
            states.add_metric([state], sum(job.state == state for job in jobs))
        ends = CounterMetricFamily("rerank_jobs_finished", "Jobs that ended, by how.", labels=["state"])
        for state in ENDS:
            ends.add_metric([state], self._ends[state])
        stored = sum(job.stored_bytes for job in jobs)
        yield states
        yield ends
        yield GaugeMetricFamily("rerank_jobs_bytes", "Bytes that jobs' files may take.", value=stored)
        yield CounterMetricFamily("rerank_job_rows", "Rows of jobs that are done.", self.num_rows)
        yield CounterMetricFamily("rerank_job_pairs", "Pairs that were scored for jobs.", self.num_pairs)
