"""All recipes written by hand, independent of what `opensearch-qwen-rerank` builds.

`simple` is the processor `rerank` with a model that uses ML Commons' functions for Cohere's API; a search must have
`ext.rerank`. `rich` is `ml_inference`, which writes the model's scores into the hits, and `rerank` by that field. `native` is
this project's plugin, without its request half unless a window is set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from opensearch_qwen_rerank.steps import DEPLOY_TIMEOUT_S
from opensearchpy.exceptions import NotFoundError

from tests.integrations.opensearch.nodes.cluster import Cluster

Kind = Literal["simple", "rich", "native"]
KINDS: tuple[Kind, ...] = ("simple", "rich", "native")

every_kind = pytest.mark.parametrize("kind", KINDS)
by_configuration = pytest.mark.parametrize("kind", ["simple", "rich"])

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

SETTINGS = {
    "plugins.ml_commons.trusted_connector_endpoints_regex": ["^http://127\\.0\\.0\\.1:.*$"],
    "plugins.ml_commons.connector.private_ip_enabled": True,
    "qwen_rerank.circuit_breaker.failures": 1_000_000,
}

CLIENT_CONFIG = {
    "max_connection": 10,
    "connection_timeout": 3,  # in seconds, like all timeouts from 2.14 on
    "read_timeout": 60,
    "max_retry_times": 0,
}

_REQUEST_BODIES: dict[Kind, str] = {
    "simple": (
        '{"model": "any", "query": "${parameters.query}", "documents": ${parameters.documents}, '
        '"top_n": ${parameters.top_n}, "instruction": "${parameters.instruction}"}'
    ),
    "rich": (
        '{"model": "any", "query": "${parameters.query}", "documents": ${parameters.documents}, '
        '"instruction": "${parameters.instruction}"}'
    ),
}
KEY_RETRIES = 20
WINDOW_SIZE = 2


@dataclass(frozen=True, slots=True)
class Connection:
    """How a pipeline reaches a service.

    Attributes:
        url: The service's address.
        ignore_failure: Whether a search keeps the first stage's order if reranking fails.
        fields: The ranked fields.
        client_config: Timeouts and retries that override `CLIENT_CONFIG`.
        parameters: Parameters of the connector beside the instruction.
        key: The service's key; `native` sends the key of the node instead.
        window: Number of reranked hits of a search for `WINDOW_SIZE` hits; None for the hits that a search returns.
        ignore_missing: Whether `ml_inference` skips hits without the field.
    """

    url: str
    ignore_failure: bool = False
    fields: Sequence[str] = ("text",)
    client_config: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    key: str = "none"
    window: int | None = None
    ignore_missing: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """A pipeline in a cluster.

    Attributes:
        cluster: The cluster.
        kind: The recipe.
        name: Name of the pipeline.
    """

    cluster: Cluster
    kind: Kind
    name: str

    def search(
        self,
        index: str,
        query_text: str | None,
        *,
        query: Mapping[str, Any] | None = None,
        instruction: str = INSTRUCTION,
        params: Mapping[str, Any] | None = None,
        **body: Any,
    ) -> Any:
        """Search through the pipeline, by default for all documents, and return the response.

        Args:
            index: The index.
            query_text: The query for the model; None for a search without one.
            query: The first stage's query.
            instruction: What relevance means (not with `simple`).
            params: Query parameters.
            body: Other keys of the search body; `from_` for `from`.

        Raises:
            TransportError: The cluster answered with an error.
        """
        if "from_" in body:
            body["from"] = body.pop("from_")
        ext = {} if query_text is None else {"ext": self.ext(query_text, instruction)}
        whole = {"query": dict(query or {"match_all": {}}), **ext, **body}
        named = {"search_pipeline": self.name, **(params or {})}
        return self.cluster.client.search(index=index, body=whole, params=named)

    def ext(self, query_text: str, instruction: str) -> dict[str, Any]:
        """Return the `ext` of a search for the recipe."""
        if self.kind == "simple":
            return {"rerank": {"query_context": {"query_text": query_text}}}
        name = "ml_inference" if self.kind == "rich" else "qwen_rerank"
        return {name: {"query_text": query_text, "instruction": instruction}}


def allow_loopback(cluster: Cluster) -> None:
    """Allow the cluster to call services of this machine, whose addresses are private."""
    cluster.request("PUT", "/_cluster/settings", {"persistent": SETTINGS})


def set_up(cluster: Cluster, kind: Kind, to: Connection) -> Recipe:
    """Create a pipeline, and for the recipes by configuration connector and model."""
    body = _native(cluster, to) if kind == "native" else _configured(cluster, kind, to)
    name = cluster.unique(f"{kind}-pipeline")
    cluster.request("PUT", f"/_search/pipeline/{name}", body)
    return Recipe(cluster, kind, name)


def _configured(cluster: Cluster, kind: Kind, to: Connection) -> dict[str, Any]:
    model_id = _model(cluster, _connector(cluster, kind, to))
    processors = (_simple if kind == "simple" else _rich)(model_id, to)
    if to.window is None:
        return {"response_processors": processors}
    return {
        "request_processors": [{"oversample": {"sample_factor": to.window / WINDOW_SIZE}}],
        "response_processors": [*processors, {"truncate_hits": {}}],
    }


def _native(cluster: Cluster, to: Connection) -> dict[str, Any]:
    """Return the body of a pipeline, and allow its service beside those of earlier ones."""
    settings = cluster.request("GET", "/_cluster/settings", flat_settings="true")["persistent"]
    endpoint = to.url.removesuffix("/v1/rerank")
    allowed = {*settings.get("qwen_rerank.allowed_endpoints", []), endpoint}
    change = {"qwen_rerank.allowed_endpoints": sorted(allowed)}
    cluster.request("PUT", "/_cluster/settings", {"persistent": change})
    options = {
        "endpoint": endpoint,
        "fields": list(to.fields),
        "instruction": INSTRUCTION,
        "on_failure": "keep_order" if to.ignore_failure else "fail",
        "timeout": f"{to.client_config.get('read_timeout', CLIENT_CONFIG['read_timeout'])}s",
        "keep_first_score": "previous_score",
    }
    body: dict[str, Any] = {"response_processors": [{"qwen_rerank": options}]}
    if to.window is not None:
        body["request_processors"] = [{"qwen_rerank": {"window": to.window}}]
    return body


def _connector(cluster: Cluster, kind: Kind, to: Connection) -> str:
    action = {
        "action_type": "predict",
        "method": "POST",
        "url": to.url,
        "headers": {"Authorization": "Bearer ${credential.api_key}", "Content-Type": "application/json"},
        "request_body": _REQUEST_BODIES[kind],
    }
    if kind == "simple":
        action |= {
            "pre_process_function": "connector.pre_process.cohere.rerank",
            "post_process_function": "connector.post_process.cohere.rerank",
        }
    body = {
        "name": "by hand",
        "description": "a reranker",
        "version": "1",
        "protocol": "http",
        "credential": {"api_key": to.key},
        "parameters": {"instruction": INSTRUCTION, **to.parameters},
        "client_config": {**CLIENT_CONFIG, **to.client_config},
        "actions": [action],
    }
    for _ in range(KEY_RETRIES):
        try:
            return str(cluster.request("POST", "/_plugins/_ml/connectors/_create", body)["connector_id"])
        except NotFoundError:
            time.sleep(1)
    raise AssertionError("the cluster created no encryption key")


def _model(cluster: Cluster, connector_id: str) -> str:
    body = {
        "name": "by hand",
        "function_name": "remote",
        "description": "a model",
        "connector_id": connector_id,
    }
    made = cluster.request("POST", "/_plugins/_ml/models/_register", body, deploy="true")
    model_id = str(made["model_id"])
    _wait_until_deployed(cluster, model_id)
    return model_id


def _wait_until_deployed(cluster: Cluster, model_id: str) -> None:
    """Wait for a model's state: on a busy machine the registration returns before, and a search is refused."""
    end_s = time.monotonic() + DEPLOY_TIMEOUT_S
    while cluster.request("GET", f"/_plugins/_ml/models/{model_id}")["model_state"] != "DEPLOYED":
        assert time.monotonic() < end_s, "the model is not deployed"
        time.sleep(0.1)


def _simple(model_id: str, to: Connection) -> list[dict[str, Any]]:
    processor = {
        "ignore_failure": to.ignore_failure,
        "ml_opensearch": {"model_id": model_id},
        "context": {"document_fields": list(to.fields)},
    }
    return [{"rerank": processor}]


def _rich(model_id: str, to: Connection) -> list[dict[str, Any]]:
    (text_field,) = to.fields
    inputs = {
        "documents": text_field,
        "query": "$._request.ext.ml_inference.query_text",
        "instruction": "$._request.ext.ml_inference.instruction",
    }
    inference = {
        "model_id": model_id,
        "function_name": "remote",
        "full_response_path": False,
        "one_to_one": False,
        "override": True,
        "ignore_missing": to.ignore_missing,
        "ignore_failure": to.ignore_failure,
        "input_map": [inputs],
        "output_map": [{"rerank_score": "scores"}],
    }
    by_field = {
        "ignore_failure": to.ignore_failure,
        "by_field": {
            "target_field": "rerank_score",
            "remove_target_field": True,
            "keep_previous_score": True,
        },
    }
    return [{"ml_inference": inference}, {"rerank": by_field}]
