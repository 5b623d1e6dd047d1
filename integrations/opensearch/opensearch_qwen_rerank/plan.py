"""Compares the settings with what the cluster has, and returns the steps from one to the other.

The order of the steps keeps the cluster usable while they run and after an interruption. A record is written before the values
that it describes change. Settings change before the model is deployed, since from 3.4 on a deployed model keeps the
settings that it was deployed with. What is no longer needed is removed last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from opensearch_qwen_rerank import request_bodies, shared_settings
from opensearch_qwen_rerank.cluster import NOT_FOUND, Cluster
from opensearch_qwen_rerank.current_state import (
    DEFAULT_PIPELINE,
    RESOURCE_PATHS,
    CurrentState,
    Resource,
    read_current_state,
    read_default_pipelines,
)
from opensearch_qwen_rerank.errors import ClusterError, ForeignObjectError, UnsupportedClusterError
from opensearch_qwen_rerank.ownership import SHARED_SETTINGS, OriginalSetting, PipelineRecord
from opensearch_qwen_rerank.settings import OpenSearchSettings
from opensearch_qwen_rerank.steps import (
    UNDEPLOYED_STATES,
    UNKNOWN_ID,
    Change,
    ExecutionContext,
    Plan,
    Step,
    diff,
    undeploy,
    wait_for_model,
    wait_for_task,
)
from qwen_rerank_plugins import ConfigurationError

__all__ = ["OF_CLUSTER", "Plan", "default_pipeline_step", "delete_resource", "is_ours", "plan_apply"]

OF_CLUSTER: Final = "of the cluster"


def plan_apply(
    cluster: Cluster, settings: OpenSearchSettings, *, service_key: str | None = None, force: bool = False
) -> Plan:
    """Plan what makes the cluster rerank as the settings say; changes nothing.

    Args:
        cluster: The cluster.
        settings: What the cluster should have.
        service_key: The rerank service's API key, if the cluster must send one.
        force: Replace the default pipeline of an index that has another one.

    Raises:
        ClusterError: The cluster cannot be reached, or refused a request.
        ConfigurationError: A setting is missing, or names an index that does not exist.
        ForeignObjectError: An object that this package did not create is in the way.
        UnsupportedClusterError: The version or the plugins lack a feature.
    """
    current = read_current_state(cluster, settings.pipeline, request_bodies.resource_name(settings))
    _check(current, settings)
    wanted = _wanted_indices(cluster, current, settings, force=force)
    planner = _Planner(current, settings, service_key)
    steps = planner.steps(wanted, _dropped_indices(cluster, current, settings, wanted))
    return Plan(settings.pipeline, str(current.version), tuple(steps), _warnings(settings), planner.ids)


class _Planner:
    """Compares the current state with the settings."""

    def __init__(self, current: CurrentState, settings: OpenSearchSettings, service_key: str | None) -> None:
        self.current = current
        self.settings = settings
        self.name = request_bodies.resource_name(settings)
        self.connector = request_bodies.connector_body(settings, current.version, service_key=service_key)
        self.group = request_bodies.model_group_body(settings)
        self.ids = {kind: found[0].id for kind, found in current.resources.items() if found}
        self.pending_record = PipelineRecord()
        """The record while the steps run."""

    def steps(
        self, wanted: Mapping[str, tuple[str | None, str | None]], dropped: Mapping[str, str | None]
    ) -> list[Step]:
        """Return all steps.

        Args:
            wanted: Index that should have this default pipeline → its present one, and the one to restore later.
            dropped: Index that should no longer have it → the one to restore now.
        """
        resources = [*self._connector_steps(), *self._group_steps()]
        model = self._model_steps()
        required = request_bodies.required_settings(self.settings, self.current.version)
        values = shared_settings.extended_values(self.current.settings, required)
        old = self.current.ownership.records.get(self.settings.pipeline, PipelineRecord())
        deploys = bool(resources or model or values or old.pending or self._model_state != "DEPLOYED")
        replaced = {name: before for name, (_, before) in wanted.items()}
        new = PipelineRecord(required, replaced, self._search_settings(), self.ids)
        first, last = self._settings_steps(values, old, new, pending=deploys)
        return [
            *first,
            *(self._undeploy_steps() if deploys else []),
            *resources,
            *model,
            *self._duplicate_steps(),
            *([Step("model", "deploy", self.name, _deploy)] if deploys else []),
            *self._pipeline_steps(),
            *self._index_steps(wanted, dropped),
            *last,
        ]

    @property
    def _model_state(self) -> str:
        model = self.current.model
        return "" if model is None else str(model.body.get("model_state"))

    def _search_settings(self) -> dict[str, Any]:
        chosen = self.settings
        return {"recipe": chosen.recipe, "fields": list(chosen.fields), "query_path": chosen.query_path}

    def _settings_steps(
        self, values: dict[str, Any], old: PipelineRecord, new: PipelineRecord, *, pending: bool
    ) -> tuple[list[Step], list[Step]]:
        """Return the steps that write settings before all others, and those after all others."""
        pipeline, ownership = self.settings.pipeline, self.current.ownership
        persistent = self.current.settings.persistent
        effective = {name: self.current.settings.effective(name) for name in SHARED_SETTINGS}
        originals = {
            name: OriginalSetting(persistent.get(name), effective[name])
            for name in new.shared_settings
            if name not in ownership.originals
        }
        # While the steps run, the cluster has what the pipeline needed before and what it needs from now on.
        both = self.pending_record = replace(
            new,
            shared_settings=_union(old.shared_settings, new.shared_settings),
            replaced_defaults={**old.replaced_defaults, **new.replaced_defaults},
            pending=pending,
        )
        first, last = [], []
        if values or originals or both != old:
            body = shared_settings.settings_body(
                values,
                pipeline,
                both,
                originals={**ownership.originals, **originals} if originals else None,
            )
            changes = shared_settings.setting_changes(effective, values)
            first.append(
                Step("settings", "update", OF_CLUSTER, lambda run: _put_settings(run, body), changes)
            )
        after = {**persistent, **values}
        obsolete = shared_settings.reduced_values(after, ownership, pipeline, old=both, new=new)
        if obsolete or both != new:
            changes = shared_settings.setting_changes({**effective, **values}, obsolete)
            last.append(
                Step("settings", "finish", OF_CLUSTER, lambda run: self._record(run, obsolete, new), changes)
            )
        return first, last

    def _record(self, context: ExecutionContext, values: Mapping[str, Any], record: PipelineRecord) -> None:
        """Write settings, and the record with all ids that are known by now."""
        record = replace(record, ids=dict(context.ids))
        _put_settings(context, shared_settings.settings_body(values, self.settings.pipeline, record))

    def _record_id(self, context: ExecutionContext, kind: str, resource_id: str) -> None:
        """Record the id of a new resource at once; an interruption would otherwise leave it to a search."""
        context.ids[kind] = resource_id
        self._record(context, {}, self.pending_record)

    def _undeploy_steps(self) -> list[Step]:
        model = self.current.model
        if model is None or self._model_state in UNDEPLOYED_STATES:
            return []
        return [Step("model", "undeploy", self.name, lambda run: undeploy(run.cluster, model.id))]

    def _connector_steps(self) -> list[Step]:
        found = self.current.resources["connector"]
        shown = {key: value for key, value in self.connector.items() if key != "credential"}
        if not found:
            return [Step("connector", "create", self.name, self._create_connector, _all_new(shown))]
        changes = tuple(diff(found[0].body, shown))
        if not changes:
            return []
        path, model = f"/_plugins/_ml/connectors/{found[0].id}", self.current.model
        model_id = None if model is None else model.id
        return [
            Step(
                "connector",
                "update",
                self.name,
                lambda run: run.send("PUT", path, self.connector, undeployed=model_id),
                changes,
            )
        ]

    def _create_connector(self, context: ExecutionContext) -> None:
        answer = context.send("POST", "/_plugins/_ml/connectors/_create", self.connector)
        self._record_id(context, "connector", answer["connector_id"])

    def _group_steps(self) -> list[Step]:
        if self.current.resources["model group"]:
            return []
        return [Step("model group", "create", self.name, self._create_group, _all_new(self.group))]

    def _create_group(self, context: ExecutionContext) -> None:
        answer = context.send("POST", "/_plugins/_ml/model_groups/_register", self.group)
        self._record_id(context, "model group", answer["model_group_id"])

    def _model_body(self, ids: Mapping[str, str]) -> dict[str, Any]:
        return request_bodies.model_body(
            self.settings,
            connector_id=ids.get("connector", UNKNOWN_ID),
            group_id=ids.get("model group", UNKNOWN_ID),
        )

    def _model_steps(self) -> list[Step]:
        model = self.current.model
        body = self._model_body(self.ids)
        if model is None:
            return [Step("model", "create", self.name, self._register_model, _all_new(body))]
        compared = {"connector_id": body["connector_id"], "description": body["description"]}
        changes = tuple(diff(model.body, compared))
        if not changes:
            return []
        return [Step("model", "update", self.name, lambda run: self._update_model(run, model.id), changes)]

    def _register_model(self, context: ExecutionContext) -> None:
        answer = context.send("POST", "/_plugins/_ml/models/_register", self._model_body(context.ids))
        # Some versions return the id of a remote model with the task only.
        model_id = answer.get("model_id") or wait_for_task(context.cluster, answer["task_id"])["model_id"]
        self._record_id(context, "model", model_id)

    def _update_model(self, context: ExecutionContext, model_id: str) -> None:
        body = self._model_body(context.ids)
        changed = {"connector_id": body["connector_id"], "description": body["description"]}
        context.send("PUT", f"/_plugins/_ml/models/{model_id}", changed, undeployed=model_id)

    def _duplicate_steps(self) -> list[Step]:
        """Return the removal of duplicates, which a lost response may have left; models first."""
        return [
            Step(kind, "delete", one.id, delete_resource(kind, one))
            for kind in reversed(RESOURCE_PATHS)
            for one in self.current.resources[kind][1:]
        ]

    def _pipeline_steps(self) -> list[Step]:
        def body(ids: Mapping[str, str]) -> dict[str, Any]:
            model_id = ids.get("model", UNKNOWN_ID)
            return request_bodies.pipeline_body(self.settings, self.current.version, model_id=model_id)

        def put(context: ExecutionContext) -> None:
            context.send("PUT", f"/_search/pipeline/{self.settings.pipeline}", body(context.ids))

        new, old = body(self.ids), self.current.pipeline
        if old == new:
            return []
        if old is None:
            return [Step("pipeline", "create", self.settings.pipeline, put, _all_new(new))]
        changes = tuple(diff(old, new)) or (Change("", dict(old), new),)
        return [Step("pipeline", "update", self.settings.pipeline, put, changes)]

    def _index_steps(
        self, wanted: Mapping[str, tuple[str | None, str | None]], dropped: Mapping[str, str | None]
    ) -> list[Step]:
        pipeline = self.settings.pipeline
        return [
            *(
                default_pipeline_step("update", name, now, pipeline)
                for name, (now, _) in wanted.items()
                if now != pipeline
            ),
            *(default_pipeline_step("restore", name, pipeline, before) for name, before in dropped.items()),
        ]


def _check(current: CurrentState, settings: OpenSearchSettings) -> None:
    request_bodies.check_supported(settings, current.version)
    for kind, needed in request_bodies.processors_needed(settings).items():
        missing = sorted(needed - current.processors[kind])
        if missing:
            remedy = (
                "Use --oversample 1"
                if missing[0] in {"oversample", "truncate_hits"}
                else "Install the plugins opensearch-ml and opensearch-neural-search"
            )
            raise UnsupportedClusterError(f"the cluster has no search processor {missing[0]!r}. {remedy}.")
    if current.pipeline is not None and not is_ours(current, settings.pipeline):
        raise ForeignObjectError(
            f"a search pipeline {settings.pipeline!r} exists that this command did not create. "
            "Choose another name with --pipeline, or delete it."
        )


def is_ours(current: CurrentState, pipeline: str) -> bool:
    """Whether the search pipeline in the cluster has this package's marker."""
    marker = request_bodies.parse_marker((current.pipeline or {}).get("description"))
    return marker is not None and marker[0] == pipeline


def _wanted_indices(
    cluster: Cluster, current: CurrentState, settings: OpenSearchSettings, *, force: bool
) -> dict[str, tuple[str | None, str | None]]:
    """Return each index that should have the pipeline as default → its present default, and the one before ours."""
    record = current.ownership.records.get(settings.pipeline, PipelineRecord())
    wanted: dict[str, tuple[str | None, str | None]] = {}
    for given in settings.default_for:
        found = read_default_pipelines(cluster, given)
        if not found:
            raise ConfigurationError(f"default_for names an index that does not exist: {given!r}.")
        for name, now in found.items():
            if now not in {None, settings.pipeline} and not force:
                raise ForeignObjectError(
                    f"index {name!r} has another default pipeline: {now!r}. "
                    "Use --force to replace it; `destroy` restores it."
                )
            wanted[name] = (now, record.replaced_defaults.get(name) if now == settings.pipeline else now)
    return wanted


def _dropped_indices(
    cluster: Cluster, current: CurrentState, settings: OpenSearchSettings, wanted: Mapping[str, Any]
) -> dict[str, str | None]:
    """Return each index that has the pipeline as default and should not any more → its default before ours."""
    record = current.ownership.records.get(settings.pipeline, PipelineRecord())
    dropped = {}
    for name, before in record.replaced_defaults.items():
        found = {} if name in wanted else read_default_pipelines(cluster, name) or {}
        if found.get(name) == settings.pipeline:
            dropped[name] = before
    return dropped


def default_pipeline_step(action: str, name: str, before: str | None, after: str | None) -> Step:
    """Return the step that sets an index's default pipeline."""
    return Step(
        "index",
        action,
        name,
        lambda run: run.send("PUT", f"/{name}/_settings", {DEFAULT_PIPELINE: after}),
        (Change(DEFAULT_PIPELINE, before, after),),
    )


def _put_settings(context: ExecutionContext, body: Mapping[str, Any]) -> None:
    context.send("PUT", "/_cluster/settings", body)


def _union(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    union = {**old, **new}
    for name, value in union.items():
        if isinstance(value, list):
            union[name] = list(dict.fromkeys([*old.get(name, []), *new.get(name, [])]))
    return union


def _all_new(body: Mapping[str, Any]) -> tuple[Change, ...]:
    return tuple(Change(key, None, value) for key, value in body.items())


def _deploy(context: ExecutionContext) -> None:
    answer = context.send("POST", f"/_plugins/_ml/models/{context.ids['model']}/_deploy")
    wait_for_task(context.cluster, answer["task_id"])
    wait_for_model(context.cluster, context.ids["model"])


def delete_resource(kind: str, one: Resource) -> Callable[[ExecutionContext], None]:
    """Return a function that deletes a resource, a model after undeploying it; a missing one is no error."""
    is_model = kind == "model"

    def delete(context: ExecutionContext) -> None:
        path = f"/_plugins/_ml/{RESOURCE_PATHS[kind]}/{one.id}"
        try:
            if is_model and one.body.get("model_state") not in UNDEPLOYED_STATES:
                undeploy(context.cluster, one.id)
            context.send("DELETE", path, undeployed=one.id if is_model else None)
        except ClusterError as error:
            if error.status != NOT_FOUND:
                raise

    return delete


def _warnings(settings: OpenSearchSettings) -> tuple[str, ...]:
    if settings.recipe == "rich" or len(settings.fields) == 1:
        return ()
    joined = "".join(settings.fields)
    warning = (
        f"the recipe 'simple' joins fields without a separator ({joined}). Use the recipe 'rich', "
        "or one field that each search builds with script_fields."
    )
    return (warning,)
