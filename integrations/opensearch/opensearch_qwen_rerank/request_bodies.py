"""The bodies of all requests to a cluster, as pure functions of the settings and the cluster's version.

This module does not know what the cluster has already. `cluster_version.py` has the versions since which a key exists.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from opensearch_qwen_rerank.cluster_version import (
    NESTED_FIELDS,
    PREVIOUS_SCORE_FIELD,
    PRIVATE_ENDPOINTS,
    SKIP_VALIDATION,
    ClusterVersion,
    check_recipe,
)
from opensearch_qwen_rerank.errors import OpenSearchError, UnsupportedClusterError
from opensearch_qwen_rerank.settings import OpenSearchSettings
from qwen_rerank_plugins import ConfigurationError

__all__ = [
    "ALLOWED_SETTING",
    "PRIVATE_ENDPOINTS_SETTING",
    "PRIVATE_IP_SETTING",
    "SCORE_FIELD",
    "TRUSTED_SETTING",
    "check_supported",
    "connector_body",
    "endpoint_regex",
    "make_marker",
    "model_body",
    "model_group_body",
    "parse_marker",
    "pipeline_body",
    "processors_needed",
    "required_settings",
    "resource_name",
]

TRUSTED_SETTING: Final = "plugins.ml_commons.trusted_connector_endpoints_regex"
PRIVATE_IP_SETTING: Final = "plugins.ml_commons.connector.private_ip_enabled"
PRIVATE_ENDPOINTS_SETTING: Final = "plugins.ml_commons.trusted_connector_private_endpoints_regex"

ALLOWED_SETTING: Final = "qwen_rerank.allowed_endpoints"
"""The native plugin's list of addresses that it may call."""

SCORE_FIELD: Final = "qwen_rerank_score"
"""Field that holds a hit's score between the two processors of the recipe `rich`."""

_MAX_REGEX: Final = 256  # versions from 3.7 on refuse longer ones
_REGEX_SPECIAL: Final = re.compile(r"([\\.+*?()\[\]{}|^$])")
# From 3.6 on a description may only have letters, digits, spaces and .,!?():@-_'/"
_MARKER: Final = re.compile(r"\(qwen-rerank pipeline:([a-z0-9_-]+) hash:([0-9a-f]+)\)")
_DUMMY_KEY: Final = "none"  # a connector must have a credential, even if the service needs none


def check_supported(settings: OpenSearchSettings, version: ClusterVersion) -> None:
    """Raise if a version does not support the settings.

    Raises:
        ConfigurationError: `fields` is empty.
        UnsupportedClusterError: The version is too old for the recipe or for one of its settings.
    """
    if not settings.fields:
        raise ConfigurationError("section 'opensearch': fields is empty: (). Name at least one field.")
    check_recipe(settings.recipe, version)
    dotted = [name for name in settings.fields if "." in name]
    if settings.recipe == "simple" and dotted and version < NESTED_FIELDS:
        raise UnsupportedClusterError(
            f"field {dotted[0]!r} would be empty with the recipe 'simple' on OpenSearch {version}. "
            f"Use the recipe 'rich', or OpenSearch {NESTED_FIELDS} or newer."
        )
    renamed = settings.first_score_field != "previous_score" and settings.recipe != "native"
    if renamed and version < PREVIOUS_SCORE_FIELD:
        raise UnsupportedClusterError(
            f"first_score_field cannot be set on OpenSearch {version}: {settings.first_score_field!r}. "
            f"Use 'previous_score', or OpenSearch {PREVIOUS_SCORE_FIELD} or newer."
        )


def processors_needed(settings: OpenSearchSettings) -> dict[str, set[str]]:
    """Return the types of search processors that the pipeline uses, by kind."""
    if settings.recipe == "native":
        return {"request_processors": {"qwen_rerank"}, "response_processors": {"qwen_rerank"}}
    response = {"rerank", "ml_inference"} if settings.recipe == "rich" else {"rerank"}
    if settings.oversample == 1:
        return {"request_processors": set(), "response_processors": response}
    return {"request_processors": {"oversample"}, "response_processors": response | {"truncate_hits"}}


def endpoint_regex(settings: OpenSearchSettings) -> str:
    """Return the regular expression, in Java's syntax, that matches the service's address and no other.

    It has no groups: from 3.7 on OpenSearch refuses groups with repetitions, and more than 256 characters.

    Raises:
        OpenSearchError: The address is too long.
    """
    escaped = _REGEX_SPECIAL.sub(r"\\\1", settings.service_url)
    regex = f"^{escaped}$"
    if len(regex) > _MAX_REGEX:
        raise OpenSearchError(
            f"the service's address is too long: {len(regex)} characters as a regular expression. "
            f"Use an address of at most {_MAX_REGEX} characters in this form."
        )
    return regex


def required_settings(settings: OpenSearchSettings, version: ClusterVersion) -> dict[str, Any]:
    """Return what this pipeline needs of the settings that all pipelines share.

    The cluster's list must contain the entries of a list; true means that the setting must be true.
    """
    if settings.recipe == "native":
        return {ALLOWED_SETTING: [settings.service]}
    regex = endpoint_regex(settings)
    needed: dict[str, Any] = {TRUSTED_SETTING: [regex]}
    if settings.is_private:
        needed[PRIVATE_IP_SETTING] = True
        if version >= PRIVATE_ENDPOINTS:
            needed[PRIVATE_ENDPOINTS_SETTING] = [regex]
    return needed


def resource_name(settings: OpenSearchSettings) -> str:
    """Return the name of the connector, the model group and the model."""
    return f"qwen_rerank_{settings.pipeline}"


def make_marker(pipeline: str, content: Any) -> str:
    """Return the marker in a description that identifies a resource and the body that it was created from."""
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"(qwen-rerank pipeline:{pipeline} hash:{digest})"


def parse_marker(description: Any) -> tuple[str, str] | None:
    """Return the pipeline and the hash of the marker in a description, or None if it has no marker."""
    found = _MARKER.search(description) if isinstance(description, str) else None
    return (found[1], found[2]) if found else None


def connector_body(
    settings: OpenSearchSettings, version: ClusterVersion, *, service_key: str | None = None
) -> dict[str, Any]:
    """Return the connector: the address, the request, and its timeouts.

    Args:
        settings: The settings.
        version: Version of the cluster.
        service_key: The service's API key; None if it needs none or the cluster reads it from a secret.
    """
    body: dict[str, Any] = {
        "name": resource_name(settings),
        "version": "1",
        "protocol": "http",
        "client_config": _client_config(settings),
        "actions": [_action(settings, has_key=service_key is not None or settings.secret_arn is not None)],
    }
    if version >= SKIP_VALIDATION:
        body["parameters"] = {"skip_validating_missing_parameters": "true"}
    hashed = {**body, "credential": _credential_fingerprint(settings, service_key)}
    body["description"] = f"Reranks with Qwen3 {make_marker(settings.pipeline, hashed)}"
    return {**body, "credential": _credential(settings, service_key)}


def _client_config(settings: OpenSearchSettings) -> dict[str, Any]:
    # Timeouts are in seconds. Up to 3.5 the default is 30,000 seconds, so they are always set.
    return {
        "max_connection": settings.max_connections,
        "connection_timeout": settings.connect_timeout_s,
        "read_timeout": settings.read_timeout_s,
        "max_retry_times": settings.retries,
        "retry_backoff_policy": "exponential_full_jitter",
        "retry_backoff_millis": settings.retry_backoff_ms,
        "retry_timeout_seconds": settings.read_timeout_s,
    }


def _action(settings: OpenSearchSettings, *, has_key: bool) -> dict[str, Any]:
    action: dict[str, Any] = {
        "action_type": "predict",
        "method": "POST",
        "url": settings.service_url,
        "headers": {"Content-Type": "application/json"},
        "request_body": _request_body(settings),
    }
    if has_key:
        place = f"secretArn.{settings.secret_name}" if settings.secret_arn else "api_key"
        action["headers"]["Authorization"] = f"Bearer ${{credential.{place}}}"
    if settings.recipe == "simple":
        action["pre_process_function"] = "connector.pre_process.cohere.rerank"
        action["post_process_function"] = "connector.post_process.cohere.rerank"
    return action


def _request_body(settings: OpenSearchSettings) -> str:
    """Return the template of a rerank request; the cluster replaces `${parameters...}`."""
    if settings.recipe == "simple":
        parts = ['"query": "${parameters.query}"', '"documents": ${parameters.documents}']
    else:
        # The cluster writes an object as JSON, whatever its texts look like; see the service's dialect `opensearch`.
        parts = ['"search": ${parameters.search}', '"documents": ${parameters.documents}']
        parts.append(f'"rank_fields": {json.dumps(list(settings.fields))}')
    if settings.model is not None:
        parts.append(f'"model": {json.dumps(settings.model)}')
    if settings.instruction is not None:
        parts.append(f'"instruction": {json.dumps(settings.instruction)}')
    if settings.score == "log_odds":
        parts.append('"raw_scores": true')
    return f"{{ {', '.join(parts)} }}"


def _credential(settings: OpenSearchSettings, service_key: str | None) -> dict[str, str]:
    if settings.secret_arn is not None and settings.secret_role_arn is not None:
        return {"secretArn": settings.secret_arn, "roleArn": settings.secret_role_arn}
    return {"api_key": service_key or _DUMMY_KEY}


def _credential_fingerprint(settings: OpenSearchSettings, service_key: str | None) -> Any:
    """Return a value that changes with the key and does not reveal it: 32 bits of a slow hash confirm no guess."""
    if service_key is None:
        return _credential(settings, None)
    return hashlib.pbkdf2_hmac("sha256", service_key.encode(), settings.pipeline.encode(), 200_000, 4).hex()


def model_group_body(settings: OpenSearchSettings) -> dict[str, Any]:
    """Return the model group; a cluster would create one by itself and keep it when the model is deleted."""
    body = {"name": resource_name(settings)}
    return {**body, "description": f"Reranks with Qwen3 {make_marker(settings.pipeline, body)}"}


def model_body(settings: OpenSearchSettings, *, connector_id: str, group_id: str) -> dict[str, Any]:
    """Return the model, which refers to the connector."""
    body = {
        "name": resource_name(settings),
        "function_name": "remote",
        "connector_id": connector_id,
        "model_group_id": group_id,
    }
    return {**body, "description": f"Reranks with Qwen3 {make_marker(settings.pipeline, body)}"}


def pipeline_body(settings: OpenSearchSettings, version: ClusterVersion, *, model_id: str) -> dict[str, Any]:
    """Return the search pipeline of the settings' recipe."""
    body: dict[str, Any] = {}
    if settings.recipe == "native":
        # With the fields, a search with a source filter fetches no more than it needs.
        window = {"window": settings.window, "fields": list(settings.fields)}
        body["request_processors"] = [{"qwen_rerank": window}]
        ranking = [{"qwen_rerank": _native(settings)}]
    elif settings.recipe == "simple":
        ranking = _simple(settings, model_id)
    else:
        ranking = _rich(settings, version, model_id)
    if settings.oversample > 1 and settings.recipe != "native":
        body["request_processors"] = [{"oversample": {"sample_factor": settings.oversample}}]
        # truncate_hits fails in a search without oversample, and must not fail the search.
        ranking = [*ranking, {"truncate_hits": {"ignore_failure": True}}]
    body["response_processors"] = ranking
    return {"description": f"Reranks with Qwen3 {make_marker(settings.pipeline, body)}", **body}


def _native(settings: OpenSearchSettings) -> dict[str, Any]:
    options = {
        "endpoint": settings.service,
        "fields": list(settings.fields),
        "timeout": f"{settings.read_timeout_s}s",
        "on_failure": "keep_order" if settings.on_error == "keep_order" else "fail",
        "keep_first_score": settings.first_score_field,
    }
    named = {"instruction": settings.instruction, "model": settings.model}
    return options | {name: text for name, text in named.items() if text is not None}


def _simple(settings: OpenSearchSettings, model_id: str) -> list[dict[str, Any]]:
    return [
        {
            "rerank": {
                "ignore_failure": settings.on_error == "keep_order",
                "ml_opensearch": {"model_id": model_id},
                "context": {"document_fields": list(settings.fields)},
            }
        }
    ]


def _rich(settings: OpenSearchSettings, version: ClusterVersion, model_id: str) -> list[dict[str, Any]]:
    ignored = settings.on_error == "keep_order"
    by_field: dict[str, Any] = {
        "target_field": SCORE_FIELD,
        "remove_target_field": True,
        "keep_previous_score": True,
    }
    if version >= PREVIOUS_SCORE_FIELD:
        by_field["previous_score_field"] = settings.first_score_field
    inference = {
        "ignore_failure": ignored,
        "model_id": model_id,
        "function_name": "remote",
        "full_response_path": False,
        "one_to_one": False,
        "ignore_missing": False,
        "override": True,
        "input_map": [{"documents": _documents_path(settings.fields), "search": _search_path(settings)}],
        "output_map": [{SCORE_FIELD: "scores"}],
    }
    return [
        {"ml_inference": inference},
        {"rerank": {"ignore_failure": ignored, "by_field": by_field}},
    ]


def _documents_path(fields: tuple[str, ...]) -> str:
    """Return the JSONPath of an object with a hit's fields.

    A path with several keys selects an object without the missing ones; a path with one key fails for a hit that does not have
    it. A single key is therefore named twice. For a dotted name, both the outer object and the dotted key are
    selected, since a document may have either form.
    """
    keys = [key for name in fields for key in dict.fromkeys((name.partition(".")[0], name))]
    keys = list(dict.fromkeys(keys))
    quoted = [f"'{key}'" for key in (keys if len(keys) > 1 else keys * 2)]
    return f"$[{','.join(quoted)}]"


def _search_path(settings: OpenSearchSettings) -> str:
    """Return the JSONPath of an object with the query and, if the search has one, the instruction."""
    if settings.query_path is None:
        return "$._request.ext.ml_inference['query_text','instruction']"
    parent, _, key = settings.query_path.rpartition(".")
    return f"$._request.{parent}['{key}','instruction']"
