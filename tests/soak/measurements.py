"""Memory, descriptors and threads of the service over the number of answered requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

MEGABYTE = 1_000_000
PER_REQUESTS = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment."""

    num_answered: int
    rss_mb: float
    num_fds: int
    num_threads: int

    @classmethod
    def of(cls, process: psutil.Process, num_answered: int) -> Sample:
        """Measure a process."""
        with process.oneshot():
            rss = process.memory_info().rss / MEGABYTE
            return cls(num_answered, rss, process.num_fds(), process.num_threads())


def growth(samples: Sequence[Sample], name: str) -> float:
    """Return the growth of a value per 10,000 requests, by least squares."""
    if len(samples) < 2:
        return 0.0
    xs = [sample.num_answered / PER_REQUESTS for sample in samples]
    ys = [float(getattr(sample, name)) for sample in samples]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    variance = sum((x - x_mean) ** 2 for x in xs)
    return (
        sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / variance if variance else 0.0
    )


@dataclass(slots=True)
class Figures:
    """What a run measured.

    Attributes:
        minutes: Duration.
        requests: Requests sent, answered by status, cancelled by their client, and those with a problem.
        jobs: Jobs by outcome.
        disturbances: How often each disturbance was applied.
        max_difference: Largest difference of a score from the reference.
        before: The idle service after the warm-up.
        after: The idle service at the end.
        num_samples: Samples after the warm-up.
        growth: Growth per 10,000 requests after the warm-up, by least squares.
        problems: What went wrong; none in a good run.
    """

    minutes: float
    requests: dict[str, int]
    jobs: dict[str, int]
    disturbances: dict[str, int]
    max_difference: float
    before: Sample
    after: Sample
    num_samples: int
    growth: dict[str, float]
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the figures as one line of JSON."""
        return json.dumps(asdict(self))

    def table(self) -> str:
        """Return the figures as a table."""
        rows: list[tuple[str, Any]] = [("minutes", round(self.minutes, 1))]
        for title, counts in (
            ("requests", self.requests),
            ("jobs", self.jobs),
            ("struck", self.disturbances),
        ):
            rows += [(f"{title}: {name}", count) for name, count in counts.items()]
        rows.append(("largest difference of a score", f"{self.max_difference:.1e}"))
        for name in ("rss_mb", "num_fds", "num_threads"):
            idle = f"{getattr(self.before, name):.0f} -> {getattr(self.after, name):.0f}"
            rows.append((f"{name}, idle, after warm-up -> at the end", idle))
            rows.append((f"{name}, growth per 10,000 requests", f"{self.growth[name]:+.3f}"))
        rows.append((f"{self.num_samples} samples; problems", len(self.problems)))
        return "\n".join(f"{name:<50}{value!s:>16}" for name, value in rows)
