"""The parts of a plan: steps that describe a change and can carry it out. Knows no pipelines and no settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from opensearch_qwen_rerank.cluster import (
    BAD_REQUEST,
    CONFLICT,
    NOT_FOUND,
    SERVICE_UNAVAILABLE,
    Cluster,
    get_or_none,
    send_with_retries,
)
from opensearch_qwen_rerank.current_state import RESOURCE_PATHS, Resource, search_existing
from opensearch_qwen_rerank.errors import ClusterError

__all__ = [
    "UNKNOWN_ID",
    "Change",
    "ExecutionContext",
    "Plan",
    "Step",
    "create_connector",
    "create_model_group",
    "delete_resource",
    "deploy",
    "diff",
    "wait_for_task",
]

UNKNOWN_ID: Final = "(known after apply)"
"""Placeholder in a plan for the id of a resource that does not exist yet."""

_UNDEPLOYED_STATES: Final = {"REGISTERED", "UNDEPLOYED", "DEPLOY_FAILED"}
"""States of a model that is not deployed."""

DRAIN_S = 2.0
"""Pause before a model is removed that searches have just stopped to use."""

STALE_SEARCH_TIMEOUT_S = 10.0
"""How long a search may find what was deleted; the indices of ML Commons are refreshed every second."""

_IN_USE: Final = {CONFLICT, 500}
"""Statuses of a refusal to delete what models use; 500 up to 2.18."""

DEPLOY_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.1
_POLLS_PER_UNDEPLOY = 20
_FAILED_TASK_STATES = {"FAILED", "COMPLETED_WITH_ERROR", "CANCELLED", "EXPIRED"}


@dataclass(frozen=True, slots=True)
class Change:
    """One value that a step changes.

    Attributes:
        path: Dotted path of the value.
        before: The present value; None if there is none.
        after: The new value; None if it is removed.
    """

    path: str
    before: Any
    after: Any


@dataclass(slots=True)
class ExecutionContext:
    """What the steps of one execution share.

    Attributes:
        cluster: The cluster.
        ids: Resource kind → id, of the resources that exist by now.
    """

    cluster: Cluster
    ids: dict[str, str]

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request that changes something.

        Raises:
            ClusterError: The cluster refused the request.
        """
        return self.cluster.request(method, path, body)


@dataclass(frozen=True, slots=True)
class Step:
    """One action on one resource.

    Attributes:
        resource: Kind of the resource: settings, connector, model group, model, pipeline, index.
        action: The action: create, update, delete, deploy, verify, restore, finish.
        name: Name of the resource.
        changes: The values that change, as far as they can be shown.
        run: Carries out the action.
    """

    resource: str
    action: str
    name: str
    run: Callable[[ExecutionContext], object] = field(repr=False, compare=False)
    changes: tuple[Change, ...] = ()

    def __str__(self) -> str:
        """Return the step as one line."""
        return f"{self.action} {self.resource} {self.name}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order of execution.

    Attributes:
        pipeline: Name of the pipeline.
        version: Version of the cluster.
        steps: The steps; empty if the cluster needs no change.
        warnings: What the user should know before the execution.
        ids: Resource kind → id, of the resources that exist already.
    """

    pipeline: str
    version: str
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)

    def run(self, cluster: Cluster) -> Iterator[tuple[Step, float]]:
        """Execute the steps one after the other.

        Yields:
            Each finished step and its duration in milliseconds.

        Raises:
            ClusterError: The cluster refused a step. A new plan continues from there.
        """
        context = ExecutionContext(cluster, dict(self.ids))
        for step in self.steps:
            started_s = time.perf_counter()
            step.run(context)
            yield step, (time.perf_counter() - started_s) * 1e3

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON types."""
        return {
            "pipeline": self.pipeline,
            "version": self.version,
            "changes": bool(self.steps),
            "steps": [
                {
                    "action": step.action,
                    "resource": step.resource,
                    "name": step.name,
                    "changes": [
                        {"path": one.path, "before": one.before, "after": one.after} for one in step.changes
                    ],
                }
                for step in self.steps
            ],
            "warnings": list(self.warnings),
        }


def diff(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Compare JSON values; of objects only the keys of `after`, since a cluster adds keys."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key, value in after.items():
            yield from diff(before.get(key), value, f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from diff(old, new, f"{path}[{place}]")
    elif before != after and str(before).lower() != str(after).lower():
        # A cluster returns "true" for true, "5" for 5 and PREDICT for predict.
        yield Change(path, before, after)


def wait_for_task(cluster: Cluster, task_id: str) -> Mapping[str, Any]:
    """Wait until a task of ML Commons has ended, and return it.

    Raises:
        ClusterError: The task failed, or takes too long.
    """
    end_s = time.monotonic() + DEPLOY_TIMEOUT_S
    while True:
        task: Mapping[str, Any] = get_or_none(cluster, f"/_plugins/_ml/tasks/{task_id}") or {}
        state = task.get("state")
        if state == "COMPLETED":
            return task
        if state in _FAILED_TASK_STATES:
            raise ClusterError(f"the model cannot be deployed: {task.get('error') or state}")
        if time.monotonic() > end_s:
            raise ClusterError(f"the model is not deployed after {DEPLOY_TIMEOUT_S:.0f} s: {state!r}")
        time.sleep(POLL_INTERVAL_S)


def _wait_for_model(cluster: Cluster, model_id: str) -> None:
    """Wait until a model's state is DEPLOYED; the task that deploys it may end before.

    Raises:
        ClusterError: It takes too long.
    """
    end_s = time.monotonic() + DEPLOY_TIMEOUT_S
    while (state := _model_state(cluster, model_id)) != "DEPLOYED":
        if time.monotonic() > end_s:
            raise ClusterError(f"the model is not deployed after {DEPLOY_TIMEOUT_S:.0f} s: {state!r}")
        time.sleep(POLL_INTERVAL_S)


def _undeploy(cluster: Cluster, model_id: str) -> None:
    """Undeploy a model, and wait until its state says so.

    The cluster answers before it writes the state, and a deployment or a search that began before may deploy the model
    again. The request is therefore repeated.

    Raises:
        ClusterError: It takes too long.
    """
    end_s = time.monotonic() + DEPLOY_TIMEOUT_S
    num_polls = 0
    while True:
        if num_polls % _POLLS_PER_UNDEPLOY == 0:
            cluster.request("POST", f"/_plugins/_ml/models/{model_id}/_undeploy")
        state = _model_state(cluster, model_id)
        if state is None or state in _UNDEPLOYED_STATES:
            return
        if time.monotonic() > end_s:
            raise ClusterError(f"the model is still deployed after {DEPLOY_TIMEOUT_S:.0f} s: {state!r}")
        num_polls += 1
        time.sleep(POLL_INTERVAL_S)


def _model_state(cluster: Cluster, model_id: str) -> str | None:
    """Return the state of a model, or None if it does not exist."""
    model: Mapping[str, Any] = get_or_none(cluster, f"/_plugins/_ml/models/{model_id}") or {}
    return model.get("model_state")


def deploy(context: ExecutionContext, model_id: str) -> None:
    """Deploy a model, and wait until it is deployed.

    Raises:
        ClusterError: It cannot be deployed, or takes too long.
    """
    answer = context.send("POST", f"/_plugins/_ml/models/{model_id}/_deploy")
    wait_for_task(context.cluster, answer["task_id"])
    _wait_for_model(context.cluster, model_id)


def create_connector(context: ExecutionContext, body: Mapping[str, Any]) -> str:
    """Create a connector and return its id.

    The cluster creates its encryption key in the seconds after the first use. Without the key it answers with 404, and
    with 503 while the shard of the key's index starts.

    Raises:
        ClusterError: The cluster refused the request.
    """

    def is_transient(error: ClusterError) -> bool:
        return error.status == NOT_FOUND or (
            error.status == SERVICE_UNAVAILABLE and "No shard available" in str(error)
        )

    path = "/_plugins/_ml/connectors/_create"
    answer = send_with_retries(context.cluster, "POST", path, body, is_transient=is_transient)
    return str(answer["connector_id"])


def create_model_group(context: ExecutionContext, body: Mapping[str, Any]) -> str:
    """Create a model group and return its id. A name is refused while a search still finds a deleted group.

    Raises:
        ClusterError: The cluster refused the request, for example since another group has the name.
    """

    def is_transient(error: ClusterError) -> bool:
        return error.status == BAD_REQUEST and not search_existing(
            context.cluster, "model group", "name", body["name"]
        )

    path = "/_plugins/_ml/model_groups/_register"
    answer = send_with_retries(
        context.cluster, "POST", path, body, is_transient=is_transient, timeout_s=STALE_SEARCH_TIMEOUT_S
    )
    return str(answer["model_group_id"])


def delete_resource(kind: str, one: Resource, *, drain: bool = False) -> Callable[[ExecutionContext], None]:
    """Return a function that deletes a resource, a model after undeploying it; a missing one is not an error.

    Args:
        kind: Kind of the resource.
        one: The resource.
        drain: Wait for searches that began with it.
    """

    def delete(context: ExecutionContext) -> None:
        if drain:
            time.sleep(DRAIN_S)
        try:
            if kind == "model":
                _delete_model(context.cluster, one)
            else:
                _delete_unused(context.cluster, kind, one.id)
        except ClusterError as error:
            if error.status != NOT_FOUND:
                raise

    return delete


def _delete_model(cluster: Cluster, one: Resource) -> None:
    """Delete a model. A search or a late deployment deploys it again, so it is undeployed before each repetition."""
    if one.body.get("model_state") not in _UNDEPLOYED_STATES:
        _undeploy(cluster, one.id)
    send_with_retries(
        cluster,
        "DELETE",
        f"/_plugins/_ml/models/{one.id}",
        is_transient=lambda error: error.status == BAD_REQUEST,
        before_retry=lambda: _undeploy(cluster, one.id),
    )


def _delete_unused(cluster: Cluster, kind: str, resource_id: str) -> None:
    """Delete a connector or a model group, which is refused while a search still finds a deleted model of it."""
    field = f"{kind.replace(' ', '_')}_id"

    def is_transient(error: ClusterError) -> bool:
        return error.status in _IN_USE and not search_existing(cluster, "model", field, resource_id)

    path = f"/_plugins/_ml/{RESOURCE_PATHS[kind]}/{resource_id}"
    send_with_retries(cluster, "DELETE", path, is_transient=is_transient, timeout_s=STALE_SEARCH_TIMEOUT_S)
