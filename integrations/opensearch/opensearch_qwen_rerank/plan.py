"""Compares the settings with what the cluster has, and returns the steps from one to the other.

Searches are reranked while the steps run and after an interruption: a connector or a model is never changed, but a new one is
created beside it, deployed and tried; then the pipeline switches to it in one request, and the old ones are removed. A record is
written before the values that it describes change. Settings change before the model is deployed, since from 3.4 on a deployed
model keeps the settings that it was deployed with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from opensearch_qwen_rerank import request_bodies, shared_settings, smoke_test
from opensearch_qwen_rerank.cluster import Cluster
from opensearch_qwen_rerank.current_state import (
    DEFAULT_PIPELINE,
    RESOURCE_PATHS,
    CurrentState,
    Resource,
    read_current_state,
    read_default_pipelines,
)
from opensearch_qwen_rerank.errors import (
    ForeignObjectError,
    OpenSearchError,
    UnsupportedClusterError,
    VerificationError,
)
from opensearch_qwen_rerank.ownership import SHARED_SETTINGS, OriginalSetting, PipelineRecord
from opensearch_qwen_rerank.plan_warnings import plan_warnings
from opensearch_qwen_rerank.settings import OpenSearchSettings
from opensearch_qwen_rerank.steps import (
    UNKNOWN_ID,
    Change,
    ExecutionContext,
    Plan,
    Step,
    create_connector,
    create_model_group,
    delete_resource,
    deploy,
    diff,
    wait_for_task,
)
from qwen_rerank_plugins import ConfigurationError

__all__ = ["OF_CLUSTER", "Plan", "default_pipeline_step", "is_ours", "plan_apply"]

OF_CLUSTER: Final = "of the cluster"
_REMEDIES: Final = dict.fromkeys(("oversample", "truncate_hits"), "Use --oversample 1") | {
    "qwen_rerank": "Install the plugin qwen-rerank on every node"
}


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
    warnings = plan_warnings(settings, planner.values)
    return Plan(settings.pipeline, str(current.version), tuple(steps), warnings, planner.ids)


class _Planner:
    """Compares the current state with the settings."""

    def __init__(self, current: CurrentState, settings: OpenSearchSettings, service_key: str | None) -> None:
        self.current = current
        self.settings = settings
        self.name = request_bodies.resource_name(settings)
        self.kinds = () if settings.recipe == "native" else tuple(RESOURCE_PATHS)
        self.connector = request_bodies.connector_body(settings, current.version, service_key=service_key)
        self.group = request_bodies.model_group_body(settings)
        self.required = request_bodies.required_settings(settings, current.version)
        self.values = shared_settings.extended_values(current.settings, self.required)
        self.old = current.ownership.records.get(settings.pipeline, PipelineRecord())
        models = [one.id for one in current.resources["model"]]
        self.stale = tuple(models if self.values else (one for one in models if one in self.old.stale))
        self.targets = self._find_targets()
        self.ids = {kind: one.id for kind, one in self.targets.items()}
        self.pending_record = PipelineRecord()
        """The record while the steps run."""

    def _find_targets(self) -> dict[str, Resource]:
        """Return the resources that already are as the settings say, by kind."""
        if not self.kinds:
            return {}
        found = self.current.resources
        connectors = [one for one in found["connector"] if not any(diff(one.body, self._shown_connector))]
        targets = {"connector": connectors[0]} if connectors else {}
        if found["model group"]:
            targets["model group"] = found["model group"][0]
        if len(targets) == len(RESOURCE_PATHS) - 1:
            body = self._model_body({kind: one.id for kind, one in targets.items()})
            compared = {"connector_id": body["connector_id"], "description": body["description"]}
            for one in found["model"]:
                if one.id not in self.stale and not any(diff(one.body, compared)):
                    return {**targets, "model": one}
        return targets

    def steps(
        self, wanted: Mapping[str, tuple[str | None, str | None]], dropped: Mapping[str, str | None]
    ) -> list[Step]:
        """Return all steps.

        Args:
            wanted: Index that should have this default pipeline → its present one, and the one to restore later.
            dropped: Index that should no longer have it → the one to restore now.
        """
        creating = tuple(kind for kind in self.kinds if kind not in self.ids)
        resources = (
            [*self._connector_steps(), *self._group_steps(), *self._model_steps()] if self.kinds else []
        )
        removals = self._removal_steps()
        replaced = {name: before for name, (_, before) in wanted.items()}
        ids = {kind: (one,) for kind, one in self.ids.items()}
        new = PipelineRecord(self.required, replaced, self._search_settings(), ids)
        pending = replace(
            new,
            ids={kind: found for kind in RESOURCE_PATHS if (found := self._existing_ids(kind))},
            pending=bool(resources or removals),
            creating=creating,
            stale=self.stale,
        )
        first, last = self._settings_steps(new, pending)
        return [
            *first,
            *resources,
            *self._pipeline_steps(),
            *self._index_steps(wanted, dropped),
            *removals,
            *last,
        ]

    def _existing_ids(self, kind: str) -> tuple[str, ...]:
        """Return the ids of the resources of a kind, the target first."""
        target = self.targets.get(kind)
        found = [one.id for one in self.current.resources[kind] if target is None or one.id != target.id]
        return tuple(found if target is None else [target.id, *found])

    def _search_settings(self) -> dict[str, Any]:
        chosen = self.settings
        return {"recipe": chosen.recipe, "fields": list(chosen.fields), "query_path": chosen.query_path}

    def _settings_steps(self, new: PipelineRecord, pending: PipelineRecord) -> tuple[list[Step], list[Step]]:
        """Return the steps that write settings before all others, and those after all others."""
        pipeline, ownership, values, old = (
            self.settings.pipeline,
            self.current.ownership,
            self.values,
            self.old,
        )
        persistent = self.current.settings.persistent
        effective = {name: self.current.settings.effective(name) for name in SHARED_SETTINGS}
        originals = {
            name: OriginalSetting(persistent.get(name), effective[name])
            for name in new.shared_settings
            if name not in ownership.originals
        }
        # While the steps run, the cluster has what the pipeline needed before and what it needs from now on.
        both = self.pending_record = replace(
            pending,
            shared_settings=_union(old.shared_settings, new.shared_settings),
            replaced_defaults={**old.replaced_defaults, **new.replaced_defaults},
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
                Step("settings", "finish", OF_CLUSTER, lambda run: self._finish(run, obsolete, new), changes)
            )
        return first, last

    def _finish(self, context: ExecutionContext, values: Mapping[str, Any], record: PipelineRecord) -> None:
        record = replace(record, ids={kind: (one,) for kind, one in context.ids.items()})
        _put_settings(context, shared_settings.settings_body(values, self.settings.pipeline, record))

    def _record_id(self, context: ExecutionContext, kind: str, resource_id: str) -> None:
        """Record the id of a new resource at once; an interruption would otherwise leave it to a search."""
        context.ids[kind] = resource_id
        record = self.pending_record
        ids = {**record.ids, kind: (resource_id, *record.ids.get(kind, ()))}
        creating = tuple(one for one in record.creating if one != kind)
        record = self.pending_record = replace(record, ids=ids, creating=creating)
        _put_settings(context, shared_settings.settings_body({}, self.settings.pipeline, record))

    @property
    def _shown_connector(self) -> dict[str, Any]:
        return {key: value for key, value in self.connector.items() if key != "credential"}

    def _connector_steps(self) -> list[Step]:
        if "connector" in self.ids:
            return []
        found = self.current.resources["connector"]
        changes = (
            tuple(diff(found[0].body, self._shown_connector)) if found else _all_new(self._shown_connector)
        )
        return [Step("connector", "create", self.name, self._create_connector, changes)]

    def _create_connector(self, context: ExecutionContext) -> None:
        self._record_id(context, "connector", create_connector(context, self.connector))

    def _group_steps(self) -> list[Step]:
        if "model group" in self.ids:
            return []
        return [Step("model group", "create", self.name, self._create_group, _all_new(self.group))]

    def _create_group(self, context: ExecutionContext) -> None:
        self._record_id(context, "model group", create_model_group(context, self.group))

    def _model_body(self, ids: Mapping[str, str]) -> dict[str, Any]:
        return request_bodies.model_body(
            self.settings,
            connector_id=ids.get("connector", UNKNOWN_ID),
            group_id=ids.get("model group", UNKNOWN_ID),
        )

    def _model_steps(self) -> list[Step]:
        """Return the creation and the deployment of the model; before it replaces another one, it must answer."""
        target, pipeline = self.targets.get("model"), self.current.pipeline
        steps = []
        if target is None:
            changes = _all_new(self._model_body(self.ids))
            steps.append(Step("model", "create", self.name, self._register_model, changes))
        if target is None or target.body.get("model_state") != "DEPLOYED":
            steps.append(Step("model", "deploy", self.name, lambda run: deploy(run, run.ids["model"])))
        if pipeline is not None and (target is None or target.id not in json.dumps(pipeline)):
            steps.append(Step("model", "verify", self.name, self._verify))
        return steps

    def _register_model(self, context: ExecutionContext) -> None:
        answer = context.send("POST", "/_plugins/_ml/models/_register", self._model_body(context.ids))
        # Some versions return the id of a remote model with the task only.
        model_id = answer.get("model_id") or wait_for_task(context.cluster, answer["task_id"])["model_id"]
        self._record_id(context, "model", model_id)

    def _verify(self, context: ExecutionContext) -> None:
        recipe = self.settings.recipe
        path, body = smoke_test.predict_request(recipe, context.ids["model"], self.settings.fields[0])
        try:
            smoke_test.read_scores(recipe, context.cluster.request("POST", path, body))
        except OpenSearchError as error:
            raise VerificationError(
                f"the new model does not rank, so the pipeline keeps its present one: {error} "
                "Correct the cause and run `apply` again."
            ) from error

    def _removal_steps(self) -> list[Step]:
        """Return the removal of what was replaced, and of what a lost response left; models first."""
        return [
            Step(kind, "delete", one.id, delete_resource(kind, one, drain=kind == "model"))
            for kind in reversed(RESOURCE_PATHS)
            for one in self.current.resources[kind]
            if one.id != self.ids.get(kind)
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
            remedy = _REMEDIES.get(
                missing[0], "Install the plugins opensearch-ml and opensearch-neural-search"
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
