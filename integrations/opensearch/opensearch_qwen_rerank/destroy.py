"""The steps that take a pipeline out of a cluster and leave the cluster as it was found.

What was remembered is the last to go, so that a removal that was interrupted can be taken up again.
"""

from __future__ import annotations

from typing import Final

from opensearch_qwen_rerank import shared
from opensearch_qwen_rerank.bodies import object_name
from opensearch_qwen_rerank.cluster import Cluster, find
from opensearch_qwen_rerank.errors import ForeignObjectError
from opensearch_qwen_rerank.memory import Record, recorded_as
from opensearch_qwen_rerank.plan import index_step, is_ours, removal
from opensearch_qwen_rerank.settings import OpenSearchSettings
from opensearch_qwen_rerank.state import Found, read_state, read_users
from opensearch_qwen_rerank.steps import Plan, Step
from opensearch_qwen_rerank.trial import trial_index

__all__ = ["plan_destroy"]

_REMOVAL_ORDER: Final = ("model", "model group", "connector")


def plan_destroy(cluster: Cluster, settings: OpenSearchSettings, *, force: bool = False) -> Plan:
    """Find out what it takes to remove a pipeline and all that was made for it; nothing is changed.

    Args:
        cluster: Where.
        settings: Of which only the pipeline's name counts.
        force: Also take the pipeline from indices that somebody else gave it to.

    Raises:
        ClusterError: The cluster cannot be reached, or refuses to tell.
        ForeignObjectError: An index uses the pipeline that this package did not give it to.
    """
    found = read_state(cluster, settings.pipeline, object_name(settings))
    record = found.memory.records.get(settings.pipeline, Record())
    steps = [
        *_index_steps(cluster, settings.pipeline, record, found, force=force),
        *_trial_steps(cluster, settings.pipeline),
        *_pipeline_steps(found, settings.pipeline),
        *_object_steps(found),
        *_settings_steps(found, settings.pipeline),
    ]
    return Plan(settings.pipeline, str(found.version), tuple(steps), _warnings(found, settings.pipeline))


def _index_steps(cluster: Cluster, pipeline: str, record: Record, found: Found, *, force: bool) -> list[Step]:
    if found.pipeline is not None and not is_ours(found, pipeline):
        return []
    users = read_users(cluster, pipeline)
    foreign = [name for name in users if name not in record.indices]
    if foreign and not force:
        raise ForeignObjectError(
            f"index {foreign[0]!r} has {pipeline!r} as default pipeline, which was not set by this command; "
            "allowed: --force to take it away"
        )
    return [index_step("restore", name, pipeline, record.indices.get(name)) for name in users]


def _trial_steps(cluster: Cluster, pipeline: str) -> list[Step]:
    """Give the removal of an index that an interrupted `verify` left."""
    name = trial_index(pipeline)
    if find(cluster, f"/{name}") is None:
        return []
    return [Step("index", "delete", name, lambda run: run.send("DELETE", f"/{name}"))]


def _pipeline_steps(found: Found, pipeline: str) -> list[Step]:
    if not is_ours(found, pipeline):
        return []
    address = f"/_search/pipeline/{pipeline}"
    return [Step("pipeline", "delete", pipeline, lambda run: run.send("DELETE", address))]


def _object_steps(found: Found) -> list[Step]:
    return [
        Step(kind, "delete", one.id, removal(kind, one))
        for kind in _REMOVAL_ORDER
        for one in found.objects[kind]
    ]


def _settings_steps(found: Found, pipeline: str) -> list[Step]:
    persistent, memory = found.settings.persistent, found.memory
    if recorded_as(pipeline) not in persistent:
        return []
    values = shared.restored(persistent, memory, pipeline)
    body = shared.with_memory(values, pipeline, None, earlier=None if memory.others(pipeline) else {})
    changes = shared.changes_of(persistent, values)
    return [
        Step(
            "settings",
            "restore",
            "of the cluster",
            lambda run: run.send("PUT", "/_cluster/settings", body),
            changes,
        )
    ]


def _warnings(found: Found, pipeline: str) -> tuple[str, ...]:
    if found.pipeline is None or is_ours(found, pipeline):
        return ()
    return (f"the search pipeline {pipeline!r} was not made by this command and stays",)
