"""What is in the cluster now, of everything that a pipeline is made of. Reads only, and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from opensearch_qwen_rerank.bodies import parse_marker
from opensearch_qwen_rerank.cluster import Cluster, find
from opensearch_qwen_rerank.errors import UnsupportedClusterError
from opensearch_qwen_rerank.memory import Memory
from opensearch_qwen_rerank.version import ClusterVersion

__all__ = [
    "DEFAULT_PIPELINE",
    "KINDS",
    "Found",
    "Resource",
    "State",
    "read_default_pipelines",
    "read_state",
    "read_users",
]

DEFAULT_PIPELINE: Final = "index.search.default_pipeline"
KINDS: Final = {"connector": "connectors", "model group": "model_groups", "model": "models"}
"""What ML Commons keeps, as messages and as addresses name it."""

_MANY: Final = 1000


@dataclass(frozen=True, slots=True)
class Resource:
    """An object that carries this package's mark.

    Attributes:
        id: The cluster's name for it.
        hash: The hash of the body that it was made from.
        body: The object as the cluster gives it.
    """

    id: str
    hash: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class State:
    """Settings of a cluster, in their flat form.

    Attributes:
        persistent: What was set for good.
        transient: What was set until the next restart, which goes before.
        defaults: What nobody set.
    """

    persistent: Mapping[str, Any]
    transient: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def in_force(self, name: str) -> Any:
        """Give the value that counts; None for a setting that this version does not know."""
        return next(
            (tier[name] for tier in (self.transient, self.persistent, self.defaults) if name in tier), None
        )


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that is there.

    Attributes:
        version: The cluster's.
        processors: Kind of search processor → the types that every node knows.
        settings: The cluster's settings.
        memory: What was remembered in them.
        objects: Kind → this pipeline's marked objects, oldest first; more than one is a leftover.
        pipeline: The search pipeline of this name, whoever made it, or None.
    """

    version: ClusterVersion
    processors: Mapping[str, set[str]]
    settings: State
    memory: Memory
    objects: Mapping[str, list[Resource]]
    pipeline: Mapping[str, Any] | None

    @property
    def model(self) -> Resource | None:
        """The model, if there is one."""
        return next(iter(self.objects["model"]), None)


def read_state(cluster: Cluster, pipeline: str, name: str) -> Found:
    """Read what belongs to a pipeline.

    Args:
        cluster: Where.
        pipeline: The search pipeline's name.
        name: What its connector, model group and model are called.

    Raises:
        ClusterError: The cluster cannot be reached, or refuses to tell.
        UnsupportedClusterError: It is no OpenSearch, or has no ML Commons.
    """
    version = _read_version(cluster)
    settings = _read_settings(cluster)
    found = find(cluster, f"/_search/pipeline/{pipeline}")
    return Found(
        version=version,
        processors=_read_processors(cluster),
        settings=settings,
        memory=Memory.read(settings.persistent),
        objects={kind: _read_objects(cluster, kind, pipeline, name) for kind in KINDS},
        pipeline=found.get(pipeline) if found else None,
    )


def _read_version(cluster: Cluster) -> ClusterVersion:
    told = cluster.request("GET", "/").get("version", {})
    if told.get("distribution", "opensearch") != "opensearch" or "build_flavor" in told:
        raise UnsupportedClusterError(
            f"the cluster is no OpenSearch: {told.get('distribution') or 'Elasticsearch'!r}"
        )
    return ClusterVersion.parse(str(told.get("number")))


def _read_settings(cluster: Cluster) -> State:
    told = cluster.request(
        "GET", "/_cluster/settings", params={"include_defaults": "true", "flat_settings": "true"}
    )
    return State(told["persistent"], told["transient"], told.get("defaults", {}))


def _read_processors(cluster: Cluster) -> dict[str, set[str]]:
    nodes = cluster.request("GET", "/_nodes/search_pipelines").get("nodes", {}).values()
    told = [node.get("search_pipelines", {}) for node in nodes]
    kinds = ("request_processors", "response_processors")
    return {
        kind: set.intersection(*({one["type"] for one in node.get(kind, [])} for node in told))
        if told
        else set()
        for kind in kinds
    }


def _read_objects(cluster: Cluster, kind: str, pipeline: str, name: str) -> list[Resource]:
    address = f"/_plugins/_ml/{KINDS[kind]}"
    body = {"query": {"match_phrase": {"name": name}}, "size": _MANY}
    hits = cluster.request("POST", f"{address}/_search", body)["hits"]["hits"]
    found = []
    for hit in hits:
        # A search may lag behind; what counts is the object itself.
        told = find(cluster, f"{address}/{hit['_id']}") if hit["_source"].get("name") == name else None
        if told is None:
            continue
        marker = parse_marker(told.get("description"))
        if marker is not None and marker[0] == pipeline:
            found.append(Resource(hit["_id"], marker[1], told))
    return sorted(found, key=lambda one: (one.body.get("created_time", 0), one.id))


def read_default_pipelines(cluster: Cluster, index: str) -> dict[str, str | None] | None:
    """Give the default pipeline of an index, or of all that an alias or a pattern stands for.

    Returns:
        Index → its default pipeline, None for none; or None where there is no such index.
    """
    told = find(cluster, f"/{index}/_settings", params={"flat_settings": "true"})
    if told is None:
        return None
    return {name: one["settings"].get(DEFAULT_PIPELINE) for name, one in told.items()}


def read_users(cluster: Cluster, pipeline: str) -> list[str]:
    """Name the indices that have a pipeline as default."""
    told = find(cluster, f"/_all/_settings/{DEFAULT_PIPELINE}", params={"flat_settings": "true"}) or {}
    return sorted(name for name, one in told.items() if one["settings"].get(DEFAULT_PIPELINE) == pipeline)
