"""Builds the OpenAPI description from the table of endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.service.api.files import TABLE_SCHEMAS
from qwen_rerank_plugins.service.api.routes import Endpoint
from qwen_rerank_plugins.service.errors import PROBLEM_SCHEMA, STATUSES
from qwen_rerank_plugins.service.jobs.openapi import JOB_SCHEMAS, JOB_STATUSES
from qwen_rerank_plugins.service.middleware.auth import is_open
from qwen_rerank_plugins.service.schemas import answer_schema, examples, request_schema
from qwen_rerank_plugins.service.schemas.dialect import Route
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["openapi_document"]

_RANKING_STATUSES = (400, 401, 404, 405, 408, 413, 415, 422, 429, 500, 503, 504)
_ALWAYS = (400, 401, 405, 500)
_WITH_RETRY_AFTER = (429, 503)

_MODEL_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "Any name; with `strict_model`, the served model's.",
    "schema": {"type": "string", "minLength": 1},
}
_REQUEST_ID = {
    "description": "The request id: the client's if it matches [A-Za-z0-9._-]{1,128}, a new one otherwise.",
    "schema": {"type": "string"},
}


def openapi_document(
    endpoints: Iterable[Endpoint], settings: ServiceSettings, *, has_keys: bool
) -> dict[str, Any]:
    """Return the description in OpenAPI 3.1.

    Args:
        endpoints: The endpoints.
        settings: Settings of the service, for the limits of bodies.
        has_keys: Whether the service requires API keys.
    """
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        if one.summary:
            operation = _operation(one, settings.max_body_bytes)
            paths.setdefault(one.path.replace(":path", ""), {})[one.method.lower()] = operation
    has_jobs = settings.jobs_folder is not None
    statuses = [status for status in STATUSES if has_jobs or status not in JOB_STATUSES]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Qwen Rerank",
            "version": __version__,
            "description": "Reranking with Qwen3-Reranker in the dialects of Cohere, Jina, vLLM, TEI, Voyage, DashScope, "
            "Weaviate and OpenSearch. Keys that a dialect does not define are ignored.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": {
                "Problem": PROBLEM_SCHEMA,
                **_ranking_schemas(),
                **TABLE_SCHEMAS,
                **(JOB_SCHEMAS if has_jobs else {}),
            },
            "responses": {str(status): _problem(status) for status in statuses},
            "headers": {"RequestId": _REQUEST_ID},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "One of the accepted API keys."}
            },
        },
        "security": [{"key": []}] if has_keys else [{}, {"key": []}],
    }


def _ranking_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for route in Route:
        schemas[f"{route.value}_request"] = request_schema(route)
        schemas[f"{route.value}_answer"] = answer_schema(route)
    return schemas


def _operation(endpoint: Endpoint, max_body_bytes: int) -> dict[str, Any]:
    described = endpoint.described
    statuses = (
        _RANKING_STATUSES if endpoint.ranking else (*_ALWAYS, *(described.problems if described else ()))
    )
    good = [status for status in endpoint.statuses if status not in STATUSES]
    errors = sorted(
        {*statuses, *endpoint.statuses} - set(good) - ({401} if is_open(endpoint.path) else set())
    )
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}{re.sub('[.{}]|:path', '', endpoint.path).replace('/', '_')}",
        "summary": endpoint.summary,
        "tags": ["ranking" if endpoint.ranking else "jobs" if "/jobs" in endpoint.path else "service"],
        "responses": {str(status): _answer(endpoint, status) for status in good}
        | {str(status): {"$ref": f"#/components/responses/{status}"} for status in errors},
    }
    if is_open(endpoint.path):
        operation["security"] = []
    if described:
        operation |= described.operation
    elif "{id:path}" in endpoint.path:
        operation["parameters"] = [_MODEL_ID]
    if endpoint.ranking:
        schema = {"$ref": f"#/components/schemas/{endpoint.ranking.value}_request"}
        operation["requestBody"] = {
            "required": True,
            "description": f"JSON in UTF-8, at most {max_body_bytes} bytes, without duplicate keys.",
            "content": {"application/json": {"schema": schema, "examples": examples(endpoint.ranking)}},
        }
    return operation


def _answer(endpoint: Endpoint, status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": "Success.",
        "headers": {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}},
    }
    if endpoint.described:
        answer |= endpoint.described.answer
    elif endpoint.ranking:
        schema: dict[str, Any] = {"$ref": f"#/components/schemas/{endpoint.ranking.value}_answer"}
        answer["content"] = {"application/json": {"schema": schema}}
    elif endpoint.media_type and status != 204:  # noqa: PLR2004 (no content)
        schema = {"type": "object"} if endpoint.media_type == "application/json" else {"type": "string"}
        answer["content"] = {endpoint.media_type: {"schema": schema}}
    return answer


def _problem(status: int) -> dict[str, Any]:
    headers: dict[str, Any] = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    if status in _WITH_RETRY_AFTER:
        headers["Retry-After"] = {
            "description": "Seconds after which to retry.",
            "schema": {"type": "integer", "minimum": 1},
        }
    if status == 401:  # noqa: PLR2004 (the status itself)
        headers["WWW-Authenticate"] = {"schema": {"type": "string", "const": "Bearer"}}
    return {
        "description": STATUSES[status].meaning,
        "headers": headers,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
