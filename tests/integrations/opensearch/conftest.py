"""Real clusters, one at a time, and services for them to call.

A test with the fixture `cluster` runs once per node of `RELEASES`, or of `EVERY_NODE` if it says so. A node starts in the first such test
and ends after the last one, since pytest groups the tests. These tests may open sockets to this machine, and the first one has more time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opensearch_qwen_rerank import cluster as cluster_module
from opensearch_qwen_rerank import current_state as current_state_module
from opensearch_qwen_rerank import steps as steps_module

from qwen_rerank_plugins import Reranker
from tests.integrations.opensearch.nodes.cluster import Cluster, running_cluster
from tests.integrations.opensearch.nodes.faulty import FaultyService, running_faulty_service
from tests.integrations.opensearch.nodes.native_plugin import build_plugin
from tests.integrations.opensearch.nodes.releases import CORE_RELEASES, RELEASES
from tests.integrations.opensearch.nodes.services import RerankService, running_rerank_service

HERE = Path(__file__).parent
EVERY_NODE = (*RELEASES, "3.6.0-core", *(f"{version}-core" for version in CORE_RELEASES))
"""The nodes on which the native plugin is tested: with ML Commons, and the core alone."""

NATIVE_KEY = "s3cret-key"
"""Key that the native plugin sends to services."""

BOOT_TIMEOUT_S = 1800
"""Timeout of a test in which a node starts, which may have to fetch its parts and to install Java."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow tests of clusters to open sockets to this machine."""
    for item in _cluster_tests(items):
        item.add_marker(pytest.mark.loopback)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Extend the timeout of the tests in which a node starts, after their order is known."""
    running = None
    for item in _cluster_tests(session.items):
        node = item.callspec.params["cluster"]
        if node != running:
            item.add_marker(pytest.mark.timeout(BOOT_TIMEOUT_S), append=False)
        running = node


def _cluster_tests(items: list[pytest.Item]) -> Iterator[pytest.Function]:
    for item in items:
        if isinstance(item, pytest.Function) and HERE in item.path.parents and "cluster" in item.fixturenames:
            yield item


@pytest.fixture(scope="session", params=list(RELEASES))
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of one node with the native plugin, of each version in turn; tests share its contents."""
    version, _, core = request.param.partition("-")
    options: dict[str, Any] = {"core_only": True, "heap": "512m"} if core else {}
    secrets = {"qwen_rerank.api_key": NATIVE_KEY}
    with running_cluster(version, plugins=[build_plugin(version)], secrets=secrets, **options) as running:
        yield running


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting takes no time with a cluster in memory, whose clock counts requests; endless retries stop after seconds."""
    monkeypatch.setattr(cluster_module, "RETRY_INTERVAL_S", 0.0)
    monkeypatch.setattr(cluster_module, "RETRY_TIMEOUT_S", 20.0)
    monkeypatch.setattr(steps_module, "POLL_INTERVAL_S", 0.0)
    monkeypatch.setattr(steps_module, "DEPLOY_TIMEOUT_S", 20.0)
    monkeypatch.setattr(steps_module, "STALE_SEARCH_TIMEOUT_S", 20.0)
    monkeypatch.setattr(steps_module, "DRAIN_S", 0.0)
    monkeypatch.setattr(current_state_module, "SEARCH_INTERVAL_S", 0.0)


@pytest.fixture
def clean_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster that is empty before and after the test."""
    cluster.reset()
    yield cluster
    cluster.reset()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RerankService]:
    """The project's service as users start it, with the demo model."""
    environment = {"QWEN_RERANK_SERVICE_MAX_WAIT_S": "600"}  # a busy machine's service refuses nothing
    with running_rerank_service(tmp_path_factory.mktemp("service"), environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def core() -> Iterator[Reranker]:
    """The service's model, in this process."""
    with Reranker(model="demo") as reranker:
        yield reranker


@pytest.fixture
def faulty_service() -> Iterator[FaultyService]:
    """A service that fails as the test configures, see nodes/faulty.py."""
    with running_faulty_service() as running:
        yield running
