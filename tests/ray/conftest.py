"""A small Ray for the tests of this folder, on this machine, without usage reports and without files in the home folder."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Before Ray is imported: it would report usage, keep a token in the home folder, and draw progress bars.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
# Ray's default niceness of workers (15) lets them starve beside another suite.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)

with warnings.catch_warnings():
    # Ray declares its own settings in ways that pydantic has deprecated.
    warnings.simplefilter("ignore")
    import ray
    import ray.data
    from ray import serve

NUM_CPUS = 3
"""CPUs that Ray assumes: enough for the workers of the tests, whatever the machine has."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore Ray's own sockets: it leaves those of killed workers to the garbage collector, in any later test."""
    unclosed = "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(unclosed))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A Ray cluster of local processes, until the last test."""
    with running_cluster():
        yield


@contextmanager
def running_cluster() -> Iterator[None]:
    """Run a Ray cluster of local processes until the block ends."""
    folder = tempfile.mkdtemp(prefix="r")  # short: the paths of Ray's sockets have a limit
    _start(folder)
    try:
        yield
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: str, *, attempts: int = 3) -> None:
    """Start Ray; retry if a busy machine needs more than the 30 seconds that Ray allows its processes."""
    for attempt in range(1, attempts + 1):
        with warnings.catch_warnings():
            # What a start that timed out left open would otherwise be reported by whichever test is next.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        try:
            ray.init(
                _temp_dir=folder,
                address="local",
                num_cpus=NUM_CPUS,
                include_dashboard=False,
                object_store_memory=200_000_000,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == attempts:
                raise
        else:
            return
