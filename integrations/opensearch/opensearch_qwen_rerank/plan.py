"""Compares what should be in the cluster with what is there, and gives the steps from one to the other.

The order of the steps is what keeps a cluster usable while they run and after they were interrupted: what must be
remembered is written before what it speaks of is changed, settings before the model is deployed (from 3.4 on a
deployed model keeps those it was deployed with), and what is no longer needed goes last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opensearch_qwen_rerank import bodies, shared
from opensearch_qwen_rerank.cluster import NOT_FOUND, Cluster
from opensearch_qwen_rerank.errors import ClusterError, ForeignObjectError, UnsupportedClusterError
from opensearch_qwen_rerank.memory import SHARED, Earlier, Record
from opensearch_qwen_rerank.settings import OpenSearchSettings
from opensearch_qwen_rerank.state import (
    DEFAULT_PIPELINE,
    KINDS,
    Found,
    Resource,
    read_default_pipelines,
    read_state,
)
from opensearch_qwen_rerank.steps import (
    IDLE,
    UNKNOWN,
    Change,
    Plan,
    Run,
    Step,
    differences,
    undeploy,
    wait_for_model,
    wait_for_task,
)
from qwen_rerank_plugins import ConfigurationError

__all__ = ["Plan", "index_step", "is_ours", "plan_apply", "removal"]


def plan_apply(
    cluster: Cluster, settings: OpenSearchSettings, *, service_key: str | None = None, force: bool = False
) -> Plan:
    """Find out what it takes to make the cluster rerank as the settings say; nothing is changed.

    Args:
        cluster: Where.
        settings: What shall be there.
        service_key: The rerank service's API key, if it wants one from the cluster.
        force: Replace the default pipeline of an index that has another one.

    Raises:
        ClusterError: The cluster cannot be reached, or refuses to tell.
        ConfigurationError: A setting is missing, or names an index that is not there.
        ForeignObjectError: Something is in the way that this package did not make.
        UnsupportedClusterError: The version or the plugins cannot do it.
    """
    found = read_state(cluster, settings.pipeline, bodies.object_name(settings))
    _check(found, settings)
    wanted = _wanted_indices(cluster, found, settings, force=force)
    planner = _Planner(found, settings, service_key)
    steps = planner.steps(wanted, _dropped_indices(cluster, found, settings, wanted))
    return Plan(settings.pipeline, str(found.version), tuple(steps), _warnings(settings), planner.ids)


class _Planner:
    """One comparison: what was found, and what it should become."""

    def __init__(self, found: Found, settings: OpenSearchSettings, service_key: str | None) -> None:
        self.found = found
        self.settings = settings
        self.name = bodies.object_name(settings)
        self.connector = bodies.connector_body(settings, found.version, service_key=service_key)
        self.group = bodies.group_body(settings)
        self.ids = {kind: objects[0].id for kind, objects in found.objects.items() if objects}

    def steps(
        self, wanted: Mapping[str, tuple[str | None, str | None]], dropped: Mapping[str, str | None]
    ) -> list[Step]:
        """Give all steps, for these indices (→ default pipeline now, and before us) and those that leave."""
        objects = [*self._connector_steps(), *self._group_steps()]
        model = self._model_steps()
        needed = bodies.shared_settings(self.settings, self.found.version)
        values = shared.grown(self.found.settings, needed)
        old = self.found.memory.records.get(self.settings.pipeline, Record())
        deploys = bool(objects or model or values or old.pending or self._state != "DEPLOYED")
        record = Record(needed, {name: before for name, (_, before) in wanted.items()}, self._about())
        first, last = self._settings_steps(values, old, record, pending=deploys)
        return [
            *first,
            *(self._undeploy_steps() if deploys else []),
            *objects,
            *model,
            *self._leftovers(),
            *([Step("model", "deploy", self.name, _deploy)] if deploys else []),
            *self._pipeline_steps(),
            *self._index_steps(wanted, dropped),
            *last,
        ]

    @property
    def _state(self) -> str:
        model = self.found.model
        return "" if model is None else str(model.body.get("model_state"))

    def _about(self) -> dict[str, Any]:
        chosen = self.settings
        return {"recipe": chosen.recipe, "fields": list(chosen.fields), "query_path": chosen.query_path}

    def _settings_steps(
        self, values: dict[str, Any], old: Record, new: Record, *, pending: bool
    ) -> tuple[list[Step], list[Step]]:
        """Give what is written before everything else, and what is written when all is done."""
        pipeline, memory, state = self.settings.pipeline, self.found.memory, self.found.settings
        persistent = state.persistent
        in_force = {name: state.in_force(name) for name in SHARED}
        earlier = {
            name: Earlier(persistent.get(name), in_force[name])
            for name in new.shared
            if name not in memory.earlier
        }
        # While the steps run, what was needed before and what is needed from now on are both there.
        both = new.after(
            shared=_union(old.shared, new.shared),
            indices={**old.indices, **new.indices},
            pending=pending,
        )
        first, last = [], []
        if values or earlier or both != old:
            body = shared.with_memory(
                values, pipeline, both, earlier={**memory.earlier, **earlier} if earlier else None
            )
            first.append(_settings_step("update", values, in_force, body))
        leaving = shared.shrunk({**persistent, **values}, memory, pipeline, old=both, new=new)
        if leaving or both != new:
            body = shared.with_memory(leaving, pipeline, new, earlier=None)
            last.append(_settings_step("finish", leaving, {**in_force, **values}, body))
        return first, last

    def _undeploy_steps(self) -> list[Step]:
        model = self.found.model
        if model is None or self._state in IDLE:
            return []
        return [Step("model", "undeploy", self.name, lambda run: undeploy(run.cluster, model.id))]

    def _connector_steps(self) -> list[Step]:
        there = self.found.objects["connector"]
        shown = {key: value for key, value in self.connector.items() if key != "credential"}
        if not there:
            return [Step("connector", "create", self.name, self._create_connector, _all_new(shown))]
        changes = tuple(differences(there[0].body, shown))
        if not changes:
            return []
        address, model = f"/_plugins/_ml/connectors/{there[0].id}", self.found.model
        user = None if model is None else model.id
        return [
            Step(
                "connector",
                "update",
                self.name,
                lambda run: run.send("PUT", address, self.connector, idle=user),
                changes,
            )
        ]

    def _create_connector(self, run: Run) -> None:
        told = run.send("POST", "/_plugins/_ml/connectors/_create", self.connector)
        run.ids["connector"] = told["connector_id"]

    def _group_steps(self) -> list[Step]:
        if self.found.objects["model group"]:
            return []
        return [Step("model group", "create", self.name, self._create_group, _all_new(self.group))]

    def _create_group(self, run: Run) -> None:
        told = run.send("POST", "/_plugins/_ml/model_groups/_register", self.group)
        run.ids["model group"] = told["model_group_id"]

    def _model_body(self, ids: Mapping[str, str]) -> dict[str, Any]:
        return bodies.model_body(
            self.settings,
            connector_id=ids.get("connector", UNKNOWN),
            group_id=ids.get("model group", UNKNOWN),
        )

    def _model_steps(self) -> list[Step]:
        model = self.found.model
        body = self._model_body(self.ids)
        if model is None:
            return [Step("model", "create", self.name, self._register_model, _all_new(body))]
        fixed = {"connector_id": body["connector_id"], "description": body["description"]}
        changes = tuple(differences(model.body, fixed))
        if not changes:
            return []
        return [Step("model", "update", self.name, lambda run: self._update_model(run, model.id), changes)]

    def _register_model(self, run: Run) -> None:
        told = run.send("POST", "/_plugins/_ml/models/_register", self._model_body(run.ids))
        # A remote model has its id at once; some versions give it with the task.
        run.ids["model"] = told.get("model_id") or wait_for_task(run.cluster, told["task_id"])["model_id"]

    def _update_model(self, run: Run, model_id: str) -> None:
        body = self._model_body(run.ids)
        changed = {"connector_id": body["connector_id"], "description": body["description"]}
        run.send("PUT", f"/_plugins/_ml/models/{model_id}", changed, idle=model_id)

    def _leftovers(self) -> list[Step]:
        """Give the removal of second copies, which an interrupted request may have left; models go first."""
        return [
            Step(kind, "delete", one.id, removal(kind, one))
            for kind in reversed(KINDS)
            for one in self.found.objects[kind][1:]
        ]

    def _pipeline_steps(self) -> list[Step]:
        def body(ids: Mapping[str, str]) -> dict[str, Any]:
            model_id = ids.get("model", UNKNOWN)
            return bodies.pipeline_body(self.settings, self.found.version, model_id=model_id)

        def put(run: Run) -> None:
            run.send("PUT", f"/_search/pipeline/{self.settings.pipeline}", body(run.ids))

        new, old = body(self.ids), self.found.pipeline
        if old == new:
            return []
        if old is None:
            return [Step("pipeline", "create", self.settings.pipeline, put, _all_new(new))]
        changes = tuple(differences(old, new)) or (Change("", dict(old), new),)
        return [Step("pipeline", "update", self.settings.pipeline, put, changes)]

    def _index_steps(
        self, wanted: Mapping[str, tuple[str | None, str | None]], dropped: Mapping[str, str | None]
    ) -> list[Step]:
        pipeline = self.settings.pipeline
        return [
            *(
                index_step("update", name, now, pipeline)
                for name, (now, _) in wanted.items()
                if now != pipeline
            ),
            *(index_step("restore", name, pipeline, before) for name, before in dropped.items()),
        ]


def _check(found: Found, settings: OpenSearchSettings) -> None:
    bodies.check_supported(settings, found.version)
    for kind, needed in bodies.processors_needed(settings).items():
        missing = sorted(needed - found.processors[kind])
        if missing:
            hint = (
                "allowed: --oversample 1"
                if missing[0] in {"oversample", "truncate_hits"}
                else ("it comes with the plugins opensearch-ml and opensearch-neural-search")
            )
            raise UnsupportedClusterError(f"the cluster has no search processor {missing[0]!r}; {hint}")
    if found.pipeline is not None and not is_ours(found, settings.pipeline):
        raise ForeignObjectError(
            f"a search pipeline {settings.pipeline!r} is there that was not made by this command; "
            "allowed: another name by --pipeline, or its removal"
        )


def is_ours(found: Found, pipeline: str) -> bool:
    """Tell whether the search pipeline that is there carries this package's mark."""
    marker = bodies.parse_marker((found.pipeline or {}).get("description"))
    return marker is not None and marker[0] == pipeline


def _wanted_indices(
    cluster: Cluster, found: Found, settings: OpenSearchSettings, *, force: bool
) -> dict[str, tuple[str | None, str | None]]:
    """Give each index that shall have the pipeline as default → the one that it has, and the one before ours."""
    record = found.memory.records.get(settings.pipeline, Record())
    wanted: dict[str, tuple[str | None, str | None]] = {}
    for given in settings.default_for:
        there = read_default_pipelines(cluster, given)
        if not there:
            raise ConfigurationError(
                f"default_for names no index: {given!r}; allowed: indices that are there"
            )
        for name, now in there.items():
            if now not in {None, settings.pipeline} and not force:
                raise ForeignObjectError(
                    f"index {name!r} has another default pipeline: {now!r}; "
                    "allowed: --force to replace it until destroy"
                )
            wanted[name] = (now, record.indices.get(name) if now == settings.pipeline else now)
    return wanted


def _dropped_indices(
    cluster: Cluster, found: Found, settings: OpenSearchSettings, wanted: Mapping[str, Any]
) -> dict[str, str | None]:
    """Give each index that no longer shall have the pipeline as default, and still has it → the one before."""
    record = found.memory.records.get(settings.pipeline, Record())
    dropped = {}
    for name, before in record.indices.items():
        there = {} if name in wanted else read_default_pipelines(cluster, name) or {}
        if there.get(name) == settings.pipeline:
            dropped[name] = before
    return dropped


def index_step(action: str, name: str, before: str | None, after: str | None) -> Step:
    """Give the step that sets an index's default pipeline."""
    return Step(
        "index",
        action,
        name,
        lambda run: run.send("PUT", f"/{name}/_settings", {DEFAULT_PIPELINE: after}),
        (Change(DEFAULT_PIPELINE, before, after),),
    )


def _settings_step(
    action: str, values: Mapping[str, Any], before: Mapping[str, Any], body: Mapping[str, Any]
) -> Step:
    return Step(
        "settings",
        action,
        "of the cluster",
        lambda run: run.send("PUT", "/_cluster/settings", body),
        shared.changes_of(before, values),
    )


def _union(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    union = {**old, **new}
    for name, value in union.items():
        if isinstance(value, list):
            union[name] = list(dict.fromkeys([*old.get(name, []), *new.get(name, [])]))
    return union


def _all_new(body: Mapping[str, Any]) -> tuple[Change, ...]:
    return tuple(Change(key, None, value) for key, value in body.items())


def _deploy(run: Run) -> None:
    told = run.send("POST", f"/_plugins/_ml/models/{run.ids['model']}/_deploy")
    wait_for_task(run.cluster, told["task_id"])
    wait_for_model(run.cluster, run.ids["model"])


def removal(kind: str, one: Resource) -> Callable[[Run], None]:
    """Give what deletes an object, a model after it was taken out of service; what is gone already is no error."""
    is_model = kind == "model"

    def remove(run: Run) -> None:
        try:
            if is_model and one.body.get("model_state") not in IDLE:
                undeploy(run.cluster, one.id)
            run.send("DELETE", f"/_plugins/_ml/{KINDS[kind]}/{one.id}", idle=one.id if is_model else None)
        except ClusterError as error:
            if error.status != NOT_FOUND:
                raise

    return remove


def _warnings(settings: OpenSearchSettings) -> tuple[str, ...]:
    if settings.recipe == "rich" or len(settings.fields) == 1:
        return ()
    glued = "".join(settings.fields)
    warning = (
        f"the recipe 'simple' glues fields together with nothing between them ({glued}); use the recipe 'rich', "
        "or name one field that each search builds with script_fields"
    )
    return (warning,)
