"""No decision depends on a search index's refresh: resources are read by id, however late a search finds them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from opensearch_qwen_rerank import ClusterError, OpenSearchSettings
from opensearch_qwen_rerank.destroy import plan_destroy
from opensearch_qwen_rerank.plan import plan_apply
from opensearch_qwen_rerank.steps import ExecutionContext, create_connector

from tests.integrations.opensearch.fake_cluster import FakeCluster, Killed

MAX_LAG = 16
"""Requests after which searches see the slowest write; fewer than the searches for a resource that may exist."""
PIPELINES = ("books", "papers")
COMMANDS = 8


pytestmark = pytest.mark.usefixtures("no_pauses")


def settings(pipeline: str = "books", **changes: Any) -> OpenSearchSettings:
    return OpenSearchSettings(
        **{"pipeline": pipeline, "service": "http://reranker:8501", "fields": ("body",), **changes}
    )


def run(cluster: FakeCluster, command: str, chosen: OpenSearchSettings) -> None:
    """Plan and execute one command."""
    plan = (plan_apply if command == "apply" else plan_destroy)(cluster, chosen)
    for _ in plan.run(cluster):
        pass


def run_killed(cluster: FakeCluster, command: str, chosen: OpenSearchSettings, num_writes: int) -> bool:
    """Do the same and kill it after some writes; return whether it was killed."""
    cluster.kill_after = len(cluster.writes) + num_writes
    try:
        run(cluster, command, chosen)
    except Killed:
        return True
    finally:
        cluster.kill_after = None
    return False


def num_resources(cluster: FakeCluster, pipeline: str) -> list[int]:
    """Return the number of connectors, model groups and models of a pipeline."""
    mark = f"pipeline:{pipeline} "
    return [sum(mark in one["description"] for one in there.values()) for there in cluster.objects.values()]


@pytest.mark.parametrize("seed", range(50))
def test_killed_and_repeated_commands_end_in_the_same_state_under_any_lag(seed: int) -> None:
    """Eight commands on two pipelines, some killed after a random write."""
    random = Random(seed)
    cluster = FakeCluster(search_lag=lambda: random.randrange(MAX_LAG))
    untouched = cluster.inventory()
    for _ in range(COMMANDS):
        command, pipeline = random.choice(("apply", "apply", "destroy")), random.choice(PIPELINES)
        chosen = settings(pipeline, read_timeout_s=random.choice((10, 20)))
        if random.random() < 0.5:  # a killed command is followed by the same or the other one
            run_killed(cluster, command, chosen, random.randint(1, 12))
            command = random.choice(("apply", "destroy"))
        run(cluster, command, chosen)
        assert num_resources(cluster, pipeline) == ([1, 1, 1] if command == "apply" else [0, 0, 0])
        assert plan_apply(cluster, chosen).steps == () if command == "apply" else True
        assert cluster.serves()
    for pipeline in PIPELINES:
        run(cluster, "destroy", settings(pipeline))
    assert cluster.inventory() == untouched


@pytest.mark.parametrize("num_writes", range(1, 12))
@pytest.mark.parametrize("command", ["apply", "destroy"])
def test_after_a_kill_at_any_write_nothing_is_duplicated_or_left(num_writes: int, command: str) -> None:
    """Searches see each write as late as possible."""
    cluster = FakeCluster(search_lag=lambda: MAX_LAG - 1)
    untouched = cluster.inventory()
    run_killed(cluster, "apply", settings(), num_writes)
    before = {kind: list(there) for kind, there in cluster.objects.items()}
    run(cluster, command, settings())
    if command == "apply":
        assert num_resources(cluster, "books") == [1, 1, 1]
        assert {
            kind: [one for one in before[kind] if one in there] for kind, there in cluster.objects.items()
        } == before
        run(cluster, "destroy", settings())
    assert cluster.inventory() == untouched


def test_resources_that_no_search_finds_are_changed_and_destroyed() -> None:
    cluster = FakeCluster(search_lag=lambda: 10**9)
    run(cluster, "apply", settings())
    assert plan_apply(cluster, settings()).steps == ()
    cluster._search_lag = lambda: 0  # what is deleted would otherwise be found for ever
    plan = plan_apply(cluster, settings(service="http://other:9000"))
    assert "create connector qwen_rerank_books" in [str(step) for step, _ in plan.run(cluster)]
    assert num_resources(cluster, "books") == [1, 1, 1]
    assert [step.resource for step in plan_destroy(cluster, settings()).steps] == [
        "pipeline",
        "model",
        "model group",
        "connector",
        "settings",
    ]


def test_a_resource_deleted_by_hand_is_created_again_while_a_search_still_finds_it() -> None:
    cluster = FakeCluster()
    run(cluster, "apply", settings())
    (connector_id,) = cluster.objects["connectors"]
    cluster._ghosts[connector_id] = ("connectors", 10**9, cluster.objects["connectors"].pop(connector_id))
    run(cluster, "apply", settings())
    (model,) = cluster.objects["models"].values()
    assert model["connector_id"] in cluster.objects["connectors"]
    assert connector_id not in json.dumps(cluster.persistent)


@pytest.mark.parametrize("num_writes", [3, 5, 7])
def test_an_id_is_recorded_as_soon_as_its_resource_is_created(num_writes: int) -> None:
    """Killed after the record of the connector, the group or the model; no search finds any of them."""
    cluster = FakeCluster(search_lag=lambda: 10**9)
    assert run_killed(cluster, "apply", settings(), num_writes)
    assert sum(num_resources(cluster, "books")) == num_writes // 2
    run(cluster, "apply", settings())
    assert num_resources(cluster, "books") == [1, 1, 1]


class ClusterWithoutKey:
    """Refuses connectors until its encryption key can be read."""

    def __init__(self, *refusals: ClusterError) -> None:
        self.refusals = list(refusals)

    def request(self, *_: Any, **__: Any) -> Any:
        if self.refusals:
            raise self.refusals.pop(0)
        return {"connector_id": "c1"}


def test_a_connector_is_created_once_the_encryption_key_can_be_read() -> None:
    """Seen on 3.6.0: 404 before the key's index exists, and 503 while its shard recovers."""
    starting = ClusterError("No shard available for [get [.plugins-ml-config]]: RECOVERING", status=503)
    cluster = ClusterWithoutKey(ClusterError("no master key", status=404), starting, starting)
    assert create_connector(ExecutionContext(cluster, {}), {}) == "c1"
    assert cluster.refusals == []


def test_a_503_of_another_kind_is_not_repeated() -> None:
    """It may come from a proxy, behind which the connector was created."""
    cluster = ClusterWithoutKey(ClusterError("bad gateway", status=503))
    with pytest.raises(ClusterError, match="bad gateway"):
        create_connector(ExecutionContext(cluster, {}), {})
