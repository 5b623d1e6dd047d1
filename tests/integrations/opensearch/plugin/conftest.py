"""Nodes with the native plugin: the core alone in three versions, and beside ML Commons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integrations.opensearch.conftest import EVERY_NODE
from tests.integrations.opensearch.live.texts import INDEX, PASSAGES
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.faulty import FaultyService

NUMBERS = "numbers"
NUM_NUMBERS = 60

on_every_node = pytest.mark.parametrize("cluster", EVERY_NODE, indirect=True, scope="session")


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


@pytest.fixture(scope="module")
def native(cluster: Cluster) -> Iterator[Native]:
    """A node with the plugin."""
    cluster.reset()
    cluster.load(INDEX, [{"text": text} for text in PASSAGES])
    numbers = range(NUM_NUMBERS)
    sources = [{"text": f"0.{number:02d} whales", "title": "Whales", "number": number} for number in numbers]
    cluster.load(NUMBERS, sources)
    yield Native(cluster)
    cluster.reset()


@pytest.fixture
def faulty(native: Native, faulty_service: FaultyService) -> FaultyService:
    """The faulty service, which the node may call."""
    native.allow(faulty_service.url)
    return faulty_service
