"""Nodes with the native plugin: the core alone in three versions, and beside ML Commons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from qwen_rerank_plugins import Reranker
from tests.integrations.opensearch.live.texts import INDEX, PASSAGES
from tests.integrations.opensearch.nodes.cluster import Cluster, running_cluster
from tests.integrations.opensearch.nodes.faulty import FaultyService
from tests.integrations.opensearch.nodes.native_plugin import build_plugin

KEY = "s3cret-key"
NUMBERS = "numbers"
NUM_NUMBERS = 60


@dataclass(frozen=True, slots=True)
class Native:
    """A cluster with the plugin and two indices: passages, and numbered texts that the faulty service ranks backwards."""

    cluster: Cluster

    def allow(self, *addresses: str) -> None:
        """Allow the nodes to call these addresses and no others."""
        setting = {"qwen_rerank.allowed_endpoints": list(addresses) or None}
        self.cluster.request("PUT", "/_cluster/settings", {"persistent": setting})

    def pipeline(self, endpoint: str, *, request: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Create a pipeline with both halves over an allowed service, and return its name."""
        name = self.cluster.unique("native")
        body = {
            "request_processors": [{"qwen_rerank": dict(request or {"window": 20})}],
            "response_processors": [
                {"qwen_rerank": {"endpoint": endpoint, "fields": ["text"], "timeout": "20s", **options}}
            ],
        }
        self.cluster.request("PUT", f"/_search/pipeline/{name}", body)
        return name

    def search(self, pipeline: str, index: str = NUMBERS, **body: Any) -> Any:
        """Search through a pipeline, by default for the numbered texts; `from_` is `from`."""
        if "from_" in body:
            body["from"] = body.pop("from_")
        whole = {"query": {"match": {"text": "whales"}}, **body}
        return self.cluster.client.search(index=index, body=whole, params={"search_pipeline": pipeline})

    def statistics(self) -> dict[str, Any]:
        """Return the only node's statistics."""
        (node,) = self.cluster.request("GET", "/_plugins/_qwen_rerank/stats")["nodes"].values()
        return dict(node)


@pytest.fixture(
    scope="session", params=[("2.19.1", True), ("3.6.0", True), ("3.6.0", False), ("3.9.0", True)], ids=str
)
def native(request: pytest.FixtureRequest) -> Iterator[Native]:
    """A node with the plugin."""
    version, core_only = request.param
    options: dict[str, Any] = {"heap": "512m" if core_only else "768m", "core_only": core_only}
    with running_cluster(
        version, plugins=[build_plugin(version)], secrets={"qwen_rerank.api_key": KEY}, **options
    ) as cluster:
        cluster.load(INDEX, [{"text": text} for text in PASSAGES])
        cluster.load(
            NUMBERS,
            [
                {"text": f"0.{number:02d} whales", "title": "Whales", "number": number}
                for number in range(NUM_NUMBERS)
            ],
        )
        yield Native(cluster)


@pytest.fixture
def faulty(native: Native, faulty_service: FaultyService) -> FaultyService:
    """The faulty service, which the node may call."""
    native.allow(faulty_service.url)
    return faulty_service


@pytest.fixture(scope="session")
def core() -> Iterator[Reranker]:
    """The service's model, in this process."""
    with Reranker(model="demo") as reranker:
        yield reranker
