"""Reads what a cluster has of the parts of a pipeline. It changes nothing and makes no decisions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opensearch_qwen_rerank.cluster import CHECK_ADDRESS, Cluster, get_or_none
from opensearch_qwen_rerank.cluster_version import ClusterVersion
from opensearch_qwen_rerank.errors import ClusterError, UnsupportedClusterError
from opensearch_qwen_rerank.ownership import Ownership, PipelineRecord
from opensearch_qwen_rerank.request_bodies import parse_marker

__all__ = [
    "DEFAULT_PIPELINE",
    "RESOURCE_PATHS",
    "ClusterSettings",
    "CurrentState",
    "Resource",
    "read_current_state",
    "read_default_pipelines",
    "read_indices_using",
    "read_ownership",
    "read_version",
    "search_existing",
]

DEFAULT_PIPELINE: Final = "index.search.default_pipeline"
RESOURCE_PATHS: Final = {"connector": "connectors", "model group": "model_groups", "model": "models"}
"""Kind of ML Commons resource → its name in paths, in the order of creation."""

MAX_SEARCHES: Final = 20
"""Searches for a resource that may exist without a recorded id: a search may not find a new one yet."""
SEARCH_INTERVAL_S = 0.25
_MAX_HITS: Final = 1000
_NO_ROOT: Final = (404, 405)
"""Statuses that OpenSearch never answers `GET /` with."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A connector, model group or model with this package's marker.

    Attributes:
        id: The id that the cluster gave it.
        hash: The hash of the body that it was created from.
        body: The resource as the cluster returns it.
    """

    id: str
    hash: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The settings of a cluster in their flat form.

    Attributes:
        persistent: Settings that survive a restart.
        transient: Settings that are lost in a restart; they override persistent ones.
        defaults: Settings that nobody set.
    """

    persistent: Mapping[str, Any]
    transient: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def effective(self, name: str) -> Any:
        """Return the value in effect; None if this version does not know the setting."""
        return next(
            (tier[name] for tier in (self.transient, self.persistent, self.defaults) if name in tier), None
        )


@dataclass(frozen=True, slots=True)
class CurrentState:
    """What a cluster has.

    Attributes:
        version: Version of the cluster.
        processors: Kind of search processor → the types that every node has.
        settings: Settings of the cluster.
        ownership: The records that are stored in the settings.
        resources: Kind → this pipeline's resources: the recorded ones first, in the order of the record, then by age.
        pipeline: The search pipeline of this name, whoever created it, or None.
    """

    version: ClusterVersion
    processors: Mapping[str, set[str]]
    settings: ClusterSettings
    ownership: Ownership
    resources: Mapping[str, list[Resource]]
    pipeline: Mapping[str, Any] | None

    @property
    def model(self) -> Resource | None:
        """The model in use, or None."""
        return next(iter(self.resources["model"]), None)


def read_current_state(cluster: Cluster, pipeline: str, name: str) -> CurrentState:
    """Read everything that belongs to a pipeline.

    Args:
        cluster: The cluster.
        pipeline: Name of the search pipeline.
        name: Name of its connector, model group and model.

    Raises:
        ClusterError: The cluster cannot be reached, or refused a request.
        UnsupportedClusterError: The address is not an OpenSearch cluster.
    """
    version = read_version(cluster)
    settings = _read_settings(cluster)
    ownership = Ownership.from_settings(settings.persistent)
    found = get_or_none(cluster, f"/_search/pipeline/{pipeline}")
    processors = _read_processors(cluster)
    has_ml = bool(processors["response_processors"] & {"rerank", "ml_inference"})
    return CurrentState(
        version=version,
        processors=processors,
        settings=settings,
        ownership=ownership,
        resources=_read_resources(cluster, pipeline, name, ownership.records.get(pipeline))
        if has_ml
        else {kind: [] for kind in RESOURCE_PATHS},
        pipeline=found.get(pipeline) if found else None,
    )


def read_version(cluster: Cluster) -> ClusterVersion:
    """Read the version of the cluster.

    Raises:
        ClusterError: The cluster cannot be reached, or refused a request.
        UnsupportedClusterError: The address is not an OpenSearch cluster.
    """
    try:
        root = cluster.request("GET", "/")
    except ClusterError as error:
        if error.status not in _NO_ROOT:
            raise
        raise UnsupportedClusterError(
            f"this is not an OpenSearch cluster: GET / was answered with status {error.status}. {CHECK_ADDRESS}"
        ) from None
    version = root.get("version") if isinstance(root, Mapping) else None
    if not isinstance(version, Mapping):
        raise UnsupportedClusterError(
            f"this is not an OpenSearch cluster: GET / returned no version. {CHECK_ADDRESS}"
        )
    if version.get("distribution", "opensearch") != "opensearch" or "build_flavor" in version:
        raise UnsupportedClusterError(
            f"this is not an OpenSearch cluster: {version.get('distribution') or 'Elasticsearch'!r}. {CHECK_ADDRESS}"
        )
    return ClusterVersion.parse(str(version.get("number")))


def read_ownership(cluster: Cluster) -> Ownership:
    """Read the records that are stored in the cluster's settings.

    Raises:
        ClusterError: The cluster cannot be reached, or refused a request.
    """
    return Ownership.from_settings(_read_settings(cluster).persistent)


def _read_settings(cluster: Cluster) -> ClusterSettings:
    answer = cluster.request(
        "GET", "/_cluster/settings", params={"include_defaults": "true", "flat_settings": "true"}
    )
    return ClusterSettings(answer["persistent"], answer["transient"], answer.get("defaults", {}))


def _read_processors(cluster: Cluster) -> dict[str, set[str]]:
    nodes = cluster.request("GET", "/_nodes/search_pipelines").get("nodes", {}).values()
    listed = [node.get("search_pipelines", {}) for node in nodes]
    kinds = ("request_processors", "response_processors")
    return {
        kind: set.intersection(*({one["type"] for one in node.get(kind, [])} for node in listed))
        if listed
        else set()
        for kind in kinds
    }


def _read_resources(
    cluster: Cluster, pipeline: str, name: str, record: PipelineRecord | None
) -> dict[str, list[Resource]]:
    """Return the resources of each kind, including one that an interrupted `apply` created and did not record."""
    record = record or PipelineRecord()
    resources: dict[str, list[Resource]] = {}
    for kind in RESOURCE_PATHS:
        recorded = record.ids.get(kind, ())
        may_exist = kind in record.creating[:1]
        for _ in range(MAX_SEARCHES if may_exist else 1):
            resources[kind] = _find_resources(cluster, kind, pipeline, name, recorded)
            if not may_exist or any(one.id not in recorded for one in resources[kind]):
                break
            time.sleep(SEARCH_INTERVAL_S)
    return resources


def _find_resources(
    cluster: Cluster, kind: str, pipeline: str, name: str, recorded: Sequence[str]
) -> list[Resource]:
    resources = []
    for resource_id, found in search_existing(cluster, kind, "name", name, also=recorded).items():
        marker = parse_marker(found.get("description"))
        if marker is not None and marker[0] == pipeline:
            resources.append(Resource(resource_id, marker[1], found))
    places = {one: place for place, one in enumerate(recorded)}
    return sorted(
        resources,
        key=lambda one: (places.get(one.id, len(places)), one.body.get("created_time", 0), one.id),
    )


def search_existing(
    cluster: Cluster, kind: str, field: str, value: str, *, also: Sequence[str] = ()
) -> dict[str, Mapping[str, Any]]:
    """Search for the resources of a kind with this value of a field, and read each one by its id.

    A search still finds what was deleted up to a second ago; a GET by id does not.

    Args:
        cluster: The cluster.
        kind: The kind, one of `RESOURCE_PATHS`.
        field: Field of the resources.
        value: Its value.
        also: Ids to read although the search may not find them.

    Returns:
        Id → the resource as the cluster returns it.

    Raises:
        ClusterError: The cluster cannot be reached, or refused a request.
    """
    path = f"/_plugins/_ml/{RESOURCE_PATHS[kind]}"
    body = {"query": {"match_phrase": {field: value}}, "size": _MAX_HITS}
    hits = cluster.request("POST", f"{path}/_search", body)["hits"]["hits"]
    ids = dict.fromkeys([*also, *(hit["_id"] for hit in hits if hit["_source"].get(field) == value)])
    found = {one: get_or_none(cluster, f"{path}/{one}") for one in ids}
    return {one: resource for one, resource in found.items() if resource is not None}


def read_default_pipelines(cluster: Cluster, index: str) -> dict[str, str | None] | None:
    """Read the default pipeline of an index, or of each index that an alias or a pattern matches.

    Returns:
        Index → its default pipeline, None if it has none; or None if there is no such index.
    """
    found = get_or_none(cluster, f"/{index}/_settings", params={"flat_settings": "true"})
    if found is None:
        return None
    return {name: one["settings"].get(DEFAULT_PIPELINE) for name, one in found.items()}


def read_indices_using(cluster: Cluster, pipeline: str) -> list[str]:
    """Return the names of the indices whose default pipeline this is."""
    path = f"/_all/_settings/{DEFAULT_PIPELINE}"
    found = get_or_none(cluster, path, params={"flat_settings": "true"}) or {}
    return sorted(name for name, one in found.items() if one["settings"].get(DEFAULT_PIPELINE) == pipeline)
