"""A service under load and faults answers every request with the right scores, and keeps its memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.soak.measurements import Figures
from tests.soak.soak import DOSE, long_plan, soak

pytestmark = pytest.mark.loopback

MAX_GROWTH_MB = 1.0  # per 10,000 requests
MAX_IDLE_FDS = 8  # more than after the warm-up: caches and jobs open files when they need them
MAX_IDLE_THREADS = 8  # pools of threads grow up to their limit


def assert_good(figures: Figures) -> None:
    print(figures.table(), figures.to_json(), sep="\n")
    assert figures.problems == []
    assert figures.jobs["done"] > 0
    assert figures.after.num_fds <= figures.before.num_fds + MAX_IDLE_FDS
    assert figures.after.num_threads <= figures.before.num_threads + MAX_IDLE_THREADS


@pytest.mark.timeout(1800)
def test_a_dose_of_every_disturbance_loses_no_request(tmp_path: Path) -> None:
    assert_good(asyncio.run(soak(tmp_path, DOSE)))


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_an_hour_of_disturbances_loses_no_request_and_no_memory(tmp_path: Path) -> None:
    figures = asyncio.run(soak(tmp_path, long_plan(60.0)))
    assert_good(figures)
    assert figures.growth["rss_mb"] < MAX_GROWTH_MB
