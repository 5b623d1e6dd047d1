"""Real clusters, one at a time, and services for them to call.

A test that takes `cluster` runs once a version. The node starts in the first such test and ends after the last one of its
version; pytest groups the tests so. It may open sockets to this machine, and it has more time where the node starts in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.opensearch.nodes.cluster import Cluster, running_cluster
from tests.integrations.opensearch.nodes.faulty import FaultyService, running_faulty_service
from tests.integrations.opensearch.nodes.releases import RELEASES
from tests.integrations.opensearch.nodes.services import RerankService, running_rerank_service

HERE = Path(__file__).parent
BOOT_TIMEOUT_S = 1800
"""For a test in which a node starts: the first time, its parts are fetched and Java may have to be installed."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests of clusters open sockets to this machine."""
    for item in _cluster_tests(items):
        item.add_marker(pytest.mark.loopback)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Give time to the tests in which a node starts, now that their order is known."""
    running = None
    for item in _cluster_tests(session.items):
        version = item.callspec.params["cluster"]
        if version != running:
            item.add_marker(pytest.mark.timeout(BOOT_TIMEOUT_S), append=False)
        running = version


def _cluster_tests(items: list[pytest.Item]) -> Iterator[pytest.Function]:
    for item in items:
        if isinstance(item, pytest.Function) and HERE in item.path.parents and "cluster" in item.fixturenames:
            yield item


@pytest.fixture(scope="session", params=list(RELEASES))
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of one node, of each version in turn; whatever a test leaves in it, the next one finds."""
    with running_cluster(request.param) as running:
        yield running


@pytest.fixture
def clean_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The same, with nothing set up in it before the test and after it."""
    cluster.reset()
    yield cluster
    cluster.reset()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RerankService]:
    """The project's service as people start it, with the demo model."""
    with running_rerank_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def faulty_service() -> Iterator[FaultyService]:
    """A service that misbehaves as the test wants, see nodes/faulty.py."""
    with running_faulty_service() as running:
        yield running
