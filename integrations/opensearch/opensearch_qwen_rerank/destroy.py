"""Plans the removal of a pipeline, which leaves the cluster as it was before.

The records are removed last, so that an interrupted removal can be repeated.
"""

from __future__ import annotations

from opensearch_qwen_rerank import shared_settings
from opensearch_qwen_rerank.cluster import Cluster, get_or_none
from opensearch_qwen_rerank.current_state import (
    RESOURCE_PATHS,
    CurrentState,
    read_current_state,
    read_indices_using,
)
from opensearch_qwen_rerank.errors import ForeignObjectError
from opensearch_qwen_rerank.ownership import OriginalSetting, PipelineRecord, record_setting
from opensearch_qwen_rerank.plan import OF_CLUSTER, default_pipeline_step, is_ours
from opensearch_qwen_rerank.request_bodies import resource_name
from opensearch_qwen_rerank.settings import OpenSearchSettings
from opensearch_qwen_rerank.smoke_test import smoke_test_index
from opensearch_qwen_rerank.steps import Plan, Step, delete_resource

__all__ = ["plan_destroy"]


def plan_destroy(cluster: Cluster, settings: OpenSearchSettings, *, force: bool = False) -> Plan:
    """Plan the removal of a pipeline and of everything that was created for it; changes nothing.

    Args:
        cluster: The cluster.
        settings: The settings, of which only the name of the pipeline is used.
        force: Also reset indices that somebody else set to this pipeline.

    Raises:
        ClusterError: The cluster cannot be reached, or refused a request.
        ForeignObjectError: An index uses the pipeline, and this package did not set it.
    """
    current = read_current_state(cluster, settings.pipeline, resource_name(settings))
    record = current.ownership.records.get(settings.pipeline, PipelineRecord())
    steps = [
        *_index_steps(cluster, settings.pipeline, record, current, force=force),
        *_smoke_test_steps(cluster, settings.pipeline),
        *_pipeline_steps(current, settings.pipeline),
        *_resource_steps(current),
        *_settings_steps(current, settings.pipeline),
    ]
    return Plan(settings.pipeline, str(current.version), tuple(steps), _warnings(current, settings.pipeline))


def _index_steps(
    cluster: Cluster, pipeline: str, record: PipelineRecord, current: CurrentState, *, force: bool
) -> list[Step]:
    if current.pipeline is not None and not is_ours(current, pipeline):
        return []
    users = read_indices_using(cluster, pipeline)
    foreign = [name for name in users if name not in record.replaced_defaults]
    if foreign and not force:
        raise ForeignObjectError(
            f"index {foreign[0]!r} has {pipeline!r} as default pipeline, which this command did not set. "
            "Use --force to unset it."
        )
    return [
        default_pipeline_step("restore", name, pipeline, record.replaced_defaults.get(name)) for name in users
    ]


def _smoke_test_steps(cluster: Cluster, pipeline: str) -> list[Step]:
    """Return the removal of the index that an interrupted `verify` left."""
    name = smoke_test_index(pipeline)
    if get_or_none(cluster, f"/{name}") is None:
        return []
    return [Step("index", "delete", name, lambda run: run.send("DELETE", f"/{name}"))]


def _pipeline_steps(current: CurrentState, pipeline: str) -> list[Step]:
    if not is_ours(current, pipeline):
        return []
    path = f"/_search/pipeline/{pipeline}"
    return [Step("pipeline", "delete", pipeline, lambda run: run.send("DELETE", path))]


def _resource_steps(current: CurrentState) -> list[Step]:
    return [
        Step(kind, "delete", one.id, delete_resource(kind, one))
        for kind in reversed(RESOURCE_PATHS)
        for one in current.resources[kind]
    ]


def _settings_steps(current: CurrentState, pipeline: str) -> list[Step]:
    persistent, ownership = current.settings.persistent, current.ownership
    if record_setting(pipeline) not in persistent:
        return []
    values = shared_settings.restored_values(persistent, ownership, pipeline)
    originals: dict[str, OriginalSetting] | None = None if ownership.others(pipeline) else {}
    body = shared_settings.settings_body(values, pipeline, None, originals=originals)
    changes = shared_settings.setting_changes(persistent, values)
    return [
        Step(
            "settings",
            "restore",
            OF_CLUSTER,
            lambda run: run.send("PUT", "/_cluster/settings", body),
            changes,
        )
    ]


def _warnings(current: CurrentState, pipeline: str) -> tuple[str, ...]:
    if current.pipeline is None or is_ours(current, pipeline):
        return ()
    return (f"the search pipeline {pipeline!r} was not created by this command and is kept.",)
