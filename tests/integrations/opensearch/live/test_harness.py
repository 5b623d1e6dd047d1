"""The nodes have the expected version, plugins and user, and can be reset."""

from __future__ import annotations

import os
from pathlib import Path

import qwen_rerank_plugins
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.releases import PLUGINS


def test_the_node_has_the_version_and_the_plugins(cluster: Cluster) -> None:
    assert cluster.request("GET", "/")["version"]["number"] == cluster.version
    listed = cluster.request("GET", "/_cat/plugins", format="json")
    versions = {one["component"]: one["version"] for one in listed}
    assert versions.pop("qwen-rerank") == qwen_rerank_plugins.__version__
    expected = {name.replace("neural-search", "opensearch-neural-search") for name in PLUGINS}
    assert {name.replace("opensearch-ml", "opensearch-ml-plugin") for name in versions} == expected
    assert set(versions.values()) == {f"{cluster.version}.0"}


def test_the_node_does_not_run_as_root(cluster: Cluster) -> None:
    owner = Path(f"/proc/{cluster.node.process.pid}").stat().st_uid
    assert owner != 0
    assert (owner == os.geteuid()) == (os.geteuid() != 0)


def test_a_reset_removes_everything_that_was_created(clean_cluster: Cluster) -> None:
    cluster = clean_cluster
    empty = cluster.inventory()
    assert empty["settings"] == {"persistent": {}, "transient": {}}
    assert not any(value for name, value in empty.items() if name != "settings")
    cluster.request("PUT", "/_cluster/settings", {"persistent": {"cluster.metadata.ours": "x"}})
    cluster.load("some", [{"a": 1}])
    processor = {"rerank": {"by_field": {"target_field": "a"}}}
    cluster.request("PUT", "/_search/pipeline/some", {"response_processors": [processor]})
    changed = cluster.inventory()
    assert changed["settings"]["persistent"] == {"cluster.metadata.ours": "x"}
    assert set(changed["indices"]) == {"some"}
    assert set(changed["pipelines"]) == {"some"}
    cluster.reset()
    assert cluster.inventory() == empty
