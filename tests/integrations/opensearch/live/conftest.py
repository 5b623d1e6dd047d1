"""Fixtures of the contract tests: a cluster that can call this machine, texts, and the core to compare with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integrations.opensearch.live.recipes import KINDS, Connection, Kind, Recipe, allow_loopback, set_up
from tests.integrations.opensearch.live.texts import INDEX, PASSAGES
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.services import RerankService


@pytest.fixture(scope="module")
def ready(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with the index `passages` that can call services of this machine; empty after the module."""
    cluster.reset()
    allow_loopback(cluster)
    cluster.load(INDEX, [{"text": text, "number": number} for number, text in enumerate(PASSAGES)])
    yield cluster
    cluster.reset()


@pytest.fixture(scope="module")
def strict(ready: Cluster, service: RerankService) -> dict[Kind, Recipe]:
    """All recipes over the project's service; a failure fails the search."""
    return {kind: set_up(ready, kind, Connection(service.rerank_url)) for kind in KINDS}


@pytest.fixture(scope="module")
def lenient(ready: Cluster, service: RerankService) -> dict[Kind, Recipe]:
    """All recipes, ignoring failures: a search that cannot be reranked keeps the first stage's order."""
    to = Connection(service.rerank_url, ignore_failure=True)
    return {kind: set_up(ready, kind, to) for kind in KINDS}
