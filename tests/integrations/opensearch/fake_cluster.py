"""A cluster in memory that answers as OpenSearch does, including its errors, and can kill its caller after any request."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from opensearch_qwen_rerank.errors import ClusterError
from opensearch_qwen_rerank.lock import LOCK_INDEX
from opensearch_qwen_rerank.request_bodies import (
    ALLOWED_SETTING,
    PRIVATE_ENDPOINTS_SETTING,
    PRIVATE_IP_SETTING,
    TRUSTED_SETTING,
)

DEFAULTS: dict[str, Any] = {
    TRUSTED_SETTING: ["^https://api\\.cohere\\.ai/.*$", "^https://api\\.openai\\.com/.*$"],
    PRIVATE_IP_SETTING: "false",
    ALLOWED_SETTING: [],
}


REFUSED = "refused"
"""Message of refusals; the code under test decides by status and state."""


class Killed(BaseException):
    """Stands for SIGKILL, so the code under test must not catch it."""


class FakeCluster:
    """Answers the requests of this package from dictionaries.

    Args:
        version: The version that it reports.
        indices: Index → its default pipeline.
        search_lag: Returns, for each write, the number of requests after which searches see it.
    """

    def __init__(
        self,
        version: str = "3.6.0",
        indices: Mapping[str, str | None] | None = None,
        *,
        search_lag: Callable[[], int] = lambda: 0,
    ) -> None:
        self.version = version
        self.defaults = copy.deepcopy(DEFAULTS)
        if version >= "3.7":
            self.defaults[PRIVATE_ENDPOINTS_SETTING] = []
        self.persistent: dict[str, Any] = {}
        self.transient: dict[str, Any] = {}
        self.objects: dict[str, dict[str, Any]] = {"connectors": {}, "model_groups": {}, "models": {}}
        self.credentials: dict[str, Any] = {}
        self.pipelines: dict[str, Any] = {}
        self.indices: dict[str, str | None] = dict(indices or {})
        self.processors = {"oversample", "truncate_hits", "rerank", "ml_inference", "qwen_rerank"}
        self.writes: list[tuple[str, str, Any]] = []
        self.kill_after: int | None = None
        self.refusals: list[ClusterError] = []
        self.lag = 0  # reads of an undeployed model that still return DEPLOYED
        self.searches = 0  # searches to come that deploy an undeployed model again
        self.service_answers = True
        self.lock: dict[str, Any] | None = None  # the document; None without its index
        self._num_locks = 0
        self.on_write: Callable[[], object] = lambda: None
        self.late_deployments = 0  # undeployments to come that a deployment overwrites
        self._late: dict[str, int] = {}
        self._next_id = 0
        self._search_lag = search_lag
        self._num_requests = 0
        self._visible_from: dict[str, int] = {}  # id → first request whose searches find it
        self._ghosts: dict[
            str, tuple[str, int, Any]
        ] = {}  # deleted id → kind, last request whose searches find it, source

    def inventory(self) -> Any:
        """Return everything that a caller may have changed, without ids, which are never reused."""
        return copy.deepcopy(
            {
                "persistent": {
                    name: re.sub(r"id-\d+", "ID", value) if isinstance(value, str) else value
                    for name, value in self.persistent.items()
                },
                "transient": self.transient,
                "objects": {
                    kind: sorted(one["description"].partition(" hash")[0] for one in there.values())
                    for kind, there in self.objects.items()
                },
                "states": [one["model_state"] for one in self.objects["models"].values()],
                "bodies": [
                    {key: value for key, value in one.items() if key not in {"created_time", "description"}}
                    for one in self.objects["connectors"].values()
                ],
                "pipelines": json.loads(
                    re.sub(r"id-\d+|hash:\w+", "ID", json.dumps(self.pipelines, sort_keys=True))
                ),
                "indices": self.indices,
            }
        )

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Answer a request, and raise `Killed` after the last write that is allowed."""
        self._num_requests += 1
        body = copy.deepcopy(dict(body)) if body is not None else None
        changing = method in {"PUT", "DELETE"} or (method == "POST" and not path.endswith("_search"))
        if changing and self.refusals:
            raise self.refusals.pop(0)
        is_lock = path.startswith(f"/{LOCK_INDEX}")
        answer = self._lock(method, path, body, params or {}) if is_lock else self._answer(method, path, body)
        if is_lock:
            return copy.deepcopy(answer)
        if changing:
            self.writes.append((method, path, body))
            self.on_write()
            if self.kill_after is not None and len(self.writes) >= self.kill_after:
                raise Killed
        return copy.deepcopy(answer)

    def _answer(self, method: str, path: str, body: Any) -> Any:
        parts = path.strip("/").split("/")
        if path == "/":
            return {"version": {"number": self.version, "distribution": "opensearch"}}
        if parts[0] == "_cluster":
            return self._settings(body)
        if parts[0] == "_nodes":
            types = [{"type": name} for name in sorted(self.processors)]
            return {
                "nodes": {
                    "n": {"search_pipelines": {"request_processors": types, "response_processors": types}}
                }
            }
        if parts[:2] == ["_search", "pipeline"]:
            return self._pipeline(method, parts[2], body)
        if parts[:2] == ["_plugins", "_ml"]:
            return self._ml(method, parts[2:], body)
        return self._index(method, parts, body)

    def _settings(self, body: Any) -> Any:
        if body is not None:
            for name, value in body["persistent"].items():
                if value is None:
                    self.persistent.pop(name, None)
                else:
                    self.persistent[name] = value if isinstance(value, list | str) else str(value).lower()
        defaults = {name: value for name, value in self.defaults.items() if name not in self.persistent}
        return {"persistent": self.persistent, "transient": self.transient, "defaults": defaults}

    def _lock(self, method: str, path: str, body: Any, params: Mapping[str, str]) -> Any:
        """Answer for the index of the lock, with at most one document and its sequence number."""
        if path == f"/{LOCK_INDEX}":
            if method == "PUT" and self.lock is not None:
                raise ClusterError("index [.qwen-rerank-lock] already exists", status=400)
            if method != "PUT" and self.lock is None:
                raise ClusterError("no such index [.qwen-rerank-lock]", status=404)
            if method != "GET":
                self.lock = {} if method == "PUT" else None
            return {}
        if self.lock is None or (method != "PUT" and not self.lock):
            raise ClusterError("no such document", status=404)
        if method == "GET":
            return {"_source": self.lock, "_seq_no": self._num_locks, "_primary_term": 1}
        if method == "PUT" and self.lock:
            raise ClusterError("version conflict, document already exists", status=409)
        if method == "DELETE" and params.get("if_seq_no") != str(self._num_locks):
            raise ClusterError("version conflict, required seqNo", status=409)
        self.lock = dict(body) if method == "PUT" else {}
        self._num_locks += 1
        return {}

    def _pipeline(self, method: str, name: str, body: Any) -> Any:
        if method == "PUT":
            self.pipelines[name] = body
        elif name not in self.pipelines:
            raise ClusterError(f"pipeline [{name}] is missing", status=404)
        elif method == "DELETE":
            del self.pipelines[name]
            return {}
        return {name: self.pipelines[name]}

    def _index(self, method: str, parts: list[str], body: Any) -> Any:
        setting = "index.search.default_pipeline"
        if parts[0] == "_all":
            return {name: {"settings": {setting: value}} for name, value in self.indices.items() if value}
        if parts[0] not in self.indices:
            raise ClusterError(f"no such index [{parts[0]}]", status=404)
        if method == "PUT":
            self.indices[parts[0]] = body[setting]
        value = self.indices[parts[0]]
        return {parts[0]: {"settings": {} if value is None else {setting: value}}}

    def _ml(self, method: str, parts: list[str], body: Any) -> Any:
        kind = parts[0]
        if kind == "tasks":
            return {"state": "COMPLETED"}
        if "_predict" in parts:
            return self._predict(parts[2] if kind == "_predict" else parts[1])
        there = self.objects[kind]
        if parts[1] == "_search":
            ((field, wanted),) = body["query"]["match_phrase"].items()
            found = self._searched(kind).items()
            return {
                "hits": {"hits": [{"_id": key, "_source": one} for key, one in found if one[field] == wanted]}
            }
        if parts[1] in {"_create", "_register"}:
            return self._create(kind, body)
        if parts[1] not in there:
            raise ClusterError(f"no such {kind}", status=404)
        return self._change(method, kind, parts[1:], body)

    def _create(self, kind: str, body: Any) -> Any:
        there = self.objects[kind]
        if not re.fullmatch(r"[A-Za-z0-9 .,!?():@\-_'/\"]*", body["description"]):
            raise ClusterError("description can only contain letters", status=400)
        if kind == "connectors" and not self._allows(body["actions"][0]["url"]):
            raise ClusterError(
                "Connector URL is not matching the trusted connector endpoint regex", status=400
            )
        if kind == "model_groups" and any(
            one["name"] == body["name"] for one in self._searched(kind).values()
        ):
            raise ClusterError(REFUSED, status=400)
        self._next_id += 1
        key = f"id-{self._next_id}"
        if kind == "connectors":
            self.credentials[key] = body.pop("credential")
        there[key] = {**body, "created_time": self._next_id}
        self._visible_from[key] = self._num_requests + self._search_lag()
        if kind == "models":
            there[key]["model_state"] = "REGISTERED"
            there[key]["frozen"] = None
        names = {"connectors": "connector_id", "model_groups": "model_group_id", "models": "model_id"}
        return {names[kind]: key, "task_id": "t"}

    def _searched(self, kind: str) -> dict[str, Any]:
        """Return what a search finds, by id: new objects may be missing, deleted ones may still be found."""
        now = self._num_requests
        seen = {key: one for key, one in self.objects[kind].items() if self._visible_from.get(key, 0) <= now}
        ghosts = {
            key: one
            for key, (its_kind, until, one) in self._ghosts.items()
            if its_kind == kind and until > now
        }
        return seen | ghosts

    def _allows(self, url: str) -> bool:
        trusted = self.persistent.get(TRUSTED_SETTING, self.defaults[TRUSTED_SETTING])
        return any(re.fullmatch(one, url) for one in trusted)

    def _change(self, method: str, kind: str, parts: list[str], body: Any) -> Any:
        there, key = self.objects[kind], parts[0]
        if parts[1:] == ["_deploy"]:
            self._deploy(there[key])
        elif parts[1:] == ["_undeploy"] and self.late_deployments:
            self.late_deployments -= 1
        elif parts[1:] == ["_undeploy"]:
            self._late.setdefault(key, self.lag)
            self._undeploy(key)
        elif method == "DELETE":
            if kind == "models" and there[key]["model_state"] == "DEPLOYED":
                raise ClusterError(REFUSED, status=400)
            self._check_unused(key)
            self.credentials.pop(key, None)
            self._ghosts[key] = (kind, self._num_requests + self._search_lag(), there.pop(key))
        answer = {"task_id": "t", **there.get(key, {})}
        if method == "GET" and kind == "models":
            self._pass_time(key)
        return answer

    def _check_unused(self, key: str) -> None:
        """Raise if a search still finds a model that uses an object."""
        users = self._searched("models").values()
        if any(key in {one["connector_id"], one["model_group_id"]} for one in users):
            raise ClusterError(REFUSED, status=409)

    def _deploy(self, model: dict[str, Any]) -> None:
        """Deploy a model, which keeps the settings and the connector that it was deployed with."""
        connector = self.objects["connectors"][model["connector_id"]]
        model["model_state"] = "DEPLOYED"
        model["frozen"] = [self.persistent.get(PRIVATE_IP_SETTING), copy.deepcopy(connector["actions"])]

    def _undeploy(self, key: str) -> None:
        if self._late[key] == 0:
            del self._late[key]
            self.objects["models"][key]["model_state"] = "UNDEPLOYED"

    def _pass_time(self, key: str) -> None:
        """Do what happens in a cluster between two requests."""
        if self._late.get(key, 0) > 0:
            self._late[key] -= 1
            self._undeploy(key)
        elif self.searches and self.objects["models"][key]["model_state"] == "UNDEPLOYED":
            self.searches -= 1
            self._deploy(self.objects["models"][key])

    def _predict(self, key: str) -> Any:
        """Answer as a model that reranks, which a request deploys."""
        if not self.service_answers:
            raise ClusterError("Connection refused", status=500)
        self._deploy(self.objects["models"][key])
        scores = [{"data": [0.1]}, {"data": [0.9]}]
        return {"inference_results": [{"output": [{"dataAsMap": {"scores": [0.1, 0.9]}}, *scores]}]}

    def reranks(self, pipeline: str) -> bool:
        """Whether a search through a pipeline would be reranked now."""
        body = self.pipelines.get(pipeline, {})
        if any("qwen_rerank" in one for one in body.get("response_processors", [])):
            return True  # the native processor needs no model
        text = json.dumps(body)
        deployed = [key for key, one in self.objects["models"].items() if one["model_state"] == "DEPLOYED"]
        return any(f'"{key}"' in text for key in deployed)

    def serves(self) -> bool:
        """Whether each deployed model uses the present connector and settings."""
        return all(
            model["frozen"][0] in {"true", self.persistent.get(PRIVATE_IP_SETTING)}
            and model["frozen"][1] == self.objects["connectors"][model["connector_id"]]["actions"]
            for model in self.objects["models"].values()
        )
