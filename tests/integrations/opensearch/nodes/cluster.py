"""A cluster for tests: a client, unique names, an inventory of its contents, and a reset."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError
from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_fixed

from tests.integrations.opensearch.nodes.node import Node, running_node

_ALL = {"query": {"match_all": {}}, "size": 1000}
_MODELS = "/_plugins/_ml/models"
_CONNECTORS = "/_plugins/_ml/connectors"


@dataclass
class Cluster:
    """A cluster of one node.

    Attributes:
        node: The node.
        client: A client of opensearch-py without retries.
        version: OpenSearch's version, such as "2.19.1".
        url: The address, without a trailing slash.
    """

    node: Node
    client: OpenSearch
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def version(self) -> str:
        return self.node.version

    @property
    def url(self) -> str:
        return self.node.url

    @property
    def major(self) -> int:
        """The major version."""
        return int(self.version.partition(".")[0])

    @property
    def can_oversample(self) -> bool:
        """Whether it has the processors `oversample` and `truncate_hits`, which are not published for 2.19.1."""
        return self.major >= 3

    def unique(self, prefix: str) -> str:
        """Return a name that no other test in this cluster uses."""
        return f"{prefix}-{next(self._numbers)}"

    def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """Send a request, and return the JSON value of the response.

        Raises:
            TransportError: The cluster answered with an error (opensearch-py's class for the status).
        """
        return self.client.transport.perform_request(method, path, params=params or None, body=body)

    def load(self, index: str, documents: list[dict[str, Any]], **mappings: Any) -> None:
        """Create an index with documents, whose positions in the list are their ids, and refresh it."""
        settings = {"number_of_shards": 1, "number_of_replicas": 0}
        self.client.indices.create(index=index, body={"settings": settings, "mappings": mappings})
        lines: list[dict[str, Any]] = []
        for number, document in enumerate(documents):
            lines += [{"index": {"_index": index, "_id": str(number)}}, document]
        assert not self.client.bulk(body=lines, params={"refresh": "true"})["errors"]

    def inventory(self) -> dict[str, Any]:
        """Return everything that an integration can create: settings, connectors, models, groups, pipelines, indices.

        Two inventories are equal if nothing changed between them.
        """
        return {
            "settings": self._settings(),
            "connectors": self._found(_CONNECTORS),
            "models": self._found(_MODELS),
            "model_groups": self._found("/_plugins/_ml/model_groups"),
            "pipelines": self._pipelines(),
            "indices": {name: self.request("GET", f"/{name}/_settings") for name in self._indices()},
        }

    def reset(self) -> None:
        """Remove everything that an inventory lists. ML Commons' own indices stay, with their encryption key."""
        for pipeline in self._pipelines():
            self.request("DELETE", f"/_search/pipeline/{pipeline}")
        for index in self._indices():
            self.client.indices.delete(index=index)
        for model in self._found(_MODELS):
            self._remove_model(model)
        for path in (_CONNECTORS, "/_plugins/_ml/model_groups"):
            for one in self._found(path):
                with suppress(NotFoundError):  # a group is deleted with its last model
                    self.request("DELETE", f"{path}/{one}")
        cleared = {kind: dict.fromkeys(values) for kind, values in self._settings().items() if values}
        if cleared:
            self.request("PUT", "/_cluster/settings", cleared)

    def _remove_model(self, model: str) -> None:
        """Delete a model; its state is written after the response, and again by a late deployment."""
        for attempt in Retrying(
            retry=retry_if_exception_message(match=".*cannot be deleted in deploying or deployed state.*"),
            wait=wait_fixed(0.2),
            stop=stop_after_delay(30),
            reraise=True,
        ):
            with attempt:
                self.request("POST", f"{_MODELS}/{model}/_undeploy")
                self.request("DELETE", f"{_MODELS}/{model}")

    def _settings(self) -> dict[str, dict[str, Any]]:
        settings = self.request("GET", "/_cluster/settings", flat_settings="true")
        return {kind: settings[kind] for kind in ("persistent", "transient")}

    def _found(self, path: str) -> dict[str, Any]:
        if not self.node.has_ml_commons:
            return {}
        # A search would otherwise miss what was created within the last second.
        self.request("POST", "/.plugins-ml-*/_refresh", expand_wildcards="all")
        try:
            hits = self.request("POST", f"{path}/_search", _ALL)["hits"]["hits"]
        except NotFoundError:  # nothing of this kind was ever created
            return {}
        # A search may return an older version.
        return {hit["_id"]: _without_progress(self.request("GET", f"{path}/{hit['_id']}")) for hit in hits}

    def _pipelines(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.request("GET", "/_search/pipeline")
        except NotFoundError:
            return {}
        return found

    def _indices(self) -> list[str]:
        listed = self.request("GET", "/_cat/indices", format="json", expand_wildcards="open,closed")
        return sorted(one["index"] for one in listed if not one["index"].startswith("."))


def _without_progress(resource: dict[str, Any]) -> dict[str, Any]:
    """Leave out what ML Commons writes into a model some time after it was deployed: times and numbers of nodes."""
    return {
        name: value
        for name, value in resource.items()
        if not name.startswith("last_") and "worker_node" not in name
    }


@contextmanager
def running_cluster(version: str, **options: Any) -> Iterator[Cluster]:
    """Run a cluster of one node until the block ends; the options are those of `running_node`."""
    with running_node(version, **options) as node:
        client = OpenSearch(node.url, timeout=60, max_retries=0)
        try:
            yield Cluster(node, client)
        finally:
            client.close()
