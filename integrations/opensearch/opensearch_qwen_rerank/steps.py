"""What a plan is made of: steps that say what they change and can do it. Knows no pipeline and no setting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from opensearch_qwen_rerank.cluster import Cluster, find, request
from opensearch_qwen_rerank.errors import ClusterError

__all__ = [
    "IDLE",
    "UNKNOWN",
    "Change",
    "Plan",
    "Run",
    "Step",
    "differences",
    "undeploy",
    "wait_for_model",
    "wait_for_task",
]

UNKNOWN: Final = "(known after apply)"
"""Stands in a plan for the id of an object that is not there yet."""

IDLE: Final = {"REGISTERED", "UNDEPLOYED", "DEPLOY_FAILED"}
"""States of a model that is not in service."""

DEPLOY_PATIENCE_S = 120.0
_PAUSE_S = 0.1
_UNDEPLOY_AGAIN = 20  # looks at a model's state before it is undeployed once more
_ENDED = {"FAILED", "COMPLETED_WITH_ERROR", "CANCELLED", "EXPIRED"}


@dataclass(frozen=True, slots=True)
class Change:
    """One value that a step changes.

    Attributes:
        path: Where it stands, dotted.
        before: What it is; None where there is nothing.
        after: What it will be; None where there will be nothing.
    """

    path: str
    before: Any
    after: Any


@dataclass(slots=True)
class Run:
    """What the steps of one run share.

    Attributes:
        cluster: Where they run.
        ids: Kind of object → the cluster's id of it, as far as it is known.
    """

    cluster: Cluster
    ids: dict[str, str]

    def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, idle: str | None = None
    ) -> Any:
        """Send a request that changes something.

        Args:
            method: As HTTP names it.
            path: Where to, from the first slash on.
            body: What is sent.
            idle: A model that must not be in service for this. A search that comes in between deploys it again, so
                it is taken out of service before each repetition.

        Raises:
            ClusterError: The cluster refused it, or did so for too long.
        """
        if idle is None:
            return request(self.cluster, method, path, body)
        return request(self.cluster, method, path, body, before_again=lambda: undeploy(self.cluster, idle))


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done.

    Attributes:
        resource: What it is done to: settings, connector, model group, model, pipeline, index.
        action: What is done: create, update, delete, deploy, undeploy, restore, finish.
        name: Which one.
        changes: What that changes, as far as it can be shown.
        run: Does it.
    """

    resource: str
    action: str
    name: str
    run: Callable[[Run], object] = field(repr=False, compare=False)
    changes: tuple[Change, ...] = ()

    def __str__(self) -> str:
        """Give it in a few words."""
        return f"{self.action} {self.resource} {self.name}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done, in order.

    Attributes:
        pipeline: For which pipeline.
        version: The cluster's version.
        steps: None where everything is as it should be.
        warnings: What one should know beforehand.
        ids: Kind of object → its id, of those that are there.
    """

    pipeline: str
    version: str
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)

    def run(self, cluster: Cluster) -> Iterator[tuple[Step, float]]:
        """Do one step after the other.

        Yields:
            Each step when it is done, and the milliseconds that it took.

        Raises:
            ClusterError: The cluster refused a step. A new plan takes up where this one stopped.
        """
        run = Run(cluster, dict(self.ids))
        for step in self.steps:
            started = time.perf_counter()
            step.run(run)
            yield step, (time.perf_counter() - started) * 1e3

    def to_json(self) -> dict[str, Any]:
        """Give it as plain JSON types."""
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


def differences(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Compare plain JSON values, of objects only the keys of `after`: a cluster adds some of its own."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key, value in after.items():
            yield from differences(before.get(key), value, f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, f"{path}[{place}]")
    elif before != after and str(before).lower() != str(after).lower():
        # The cluster gives "true" for true, "5" for 5 and PREDICT for predict.
        yield Change(path, before, after)


def wait_for_task(cluster: Cluster, task_id: str) -> Mapping[str, Any]:
    """Wait for the end of something that ML Commons does in the background, and give what it tells.

    Raises:
        ClusterError: It failed, or takes too long.
    """
    end = time.monotonic() + DEPLOY_PATIENCE_S
    while True:
        told: Mapping[str, Any] = find(cluster, f"/_plugins/_ml/tasks/{task_id}") or {}
        state = told.get("state")
        if state == "COMPLETED":
            return told
        if state in _ENDED:
            raise ClusterError(f"the model cannot be deployed: {told.get('error') or state}")
        if time.monotonic() > end:
            raise ClusterError(f"the model is not deployed after {DEPLOY_PATIENCE_S:.0f} s: {state!r}")
        time.sleep(_PAUSE_S)


def wait_for_model(cluster: Cluster, model_id: str) -> None:
    """Wait until a model says that it is in service; the task that put it there may end a moment before.

    Raises:
        ClusterError: It takes too long.
    """
    end = time.monotonic() + DEPLOY_PATIENCE_S
    while (state := _state(cluster, model_id)) != "DEPLOYED":
        if time.monotonic() > end:
            raise ClusterError(f"the model is not deployed after {DEPLOY_PATIENCE_S:.0f} s: {state!r}")
        time.sleep(_PAUSE_S)


def undeploy(cluster: Cluster, model_id: str) -> None:
    """Take a model out of service, and wait until it says that it is.

    The cluster answers before the model's state is written, and what a deployment or a search began a moment ago may
    put the model back: then it is undeployed once more.

    Raises:
        ClusterError: It takes too long.
    """
    end = time.monotonic() + DEPLOY_PATIENCE_S
    looks = 0
    while True:
        if looks % _UNDEPLOY_AGAIN == 0:
            request(cluster, "POST", f"/_plugins/_ml/models/{model_id}/_undeploy")
        state = _state(cluster, model_id)
        if state is None or state in IDLE:
            return
        if time.monotonic() > end:
            raise ClusterError(f"the model is still in service after {DEPLOY_PATIENCE_S:.0f} s: {state!r}")
        looks += 1
        time.sleep(_PAUSE_S)


def _state(cluster: Cluster, model_id: str) -> str | None:
    """Give a model's state, or None where there is no such model."""
    found: Mapping[str, Any] = find(cluster, f"/_plugins/_ml/models/{model_id}") or {}
    return found.get("model_state")
