"""OpenAPI descriptions of the endpoints of jobs: parameters, bodies, answers, statuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen_rerank_plugins.service.jobs.records import HIDDEN, Job
from qwen_rerank_plugins.service.jobs.spec import MEDIA_TYPES, PARAMETERS, UPLOAD_TYPES, Parameters
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["JOB_SCHEMAS", "JOB_STATUSES", "Described", "describe", "describe_parameters"]

JOB_STATUSES = (409, 507)
"""Statuses that only endpoints of jobs return."""


@dataclass(frozen=True, slots=True)
class Described:
    """Additions to the description of an endpoint.

    Attributes:
        problems: Error statuses in addition to those of every endpoint.
        operation: Parameters and body.
        answer: Headers and content of a successful answer.
    """

    problems: tuple[int, ...] = ()
    operation: Mapping[str, Any] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=dict)


def _schemas() -> dict[str, Any]:
    job = Job.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    job["properties"] = {name: one for name, one in job["properties"].items() if name not in HIDDEN}
    job["required"] = [name for name in job["required"] if name not in HIDDEN]
    listing = {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/job"}},
    }
    return {
        "job": job,
        "jobs": {
            "type": "object",
            "description": "Newest first.",
            "properties": listing,
            "required": list(listing),
            "additionalProperties": False,
        },
        **job.pop("$defs"),
    }


JOB_SCHEMAS = _schemas()

_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_FOLLOWING = ("get_v1_jobs_id", "get_v1_jobs_id_result", "get_v1_jobs_id_rejected", "delete_v1_jobs_id")
_LINKS = {
    name: {
        "operationId": name,
        "parameters": {"id": "$response.body#/id"},
        "description": "Operation on the new job.",
    }
    for name in _FOLLOWING
}
_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[^/]+$"},
    "description": "Id of the job.",
}


def describe(name: str, settings: ServiceSettings) -> Described:
    """Return the additions for the endpoint whose handler has this name."""
    of_one: dict[str, Any] = {"parameters": [_ID]}
    table = {
        "create": lambda: Described(
            (404, 408, 413, 415, 422, 429, 503, 507), _upload(settings), _answer("job") | {"links": _LINKS}
        ),
        "listing": lambda: Described(answer=_answer("jobs")),
        "show": lambda: Described((404,), of_one, _answer("job")),
        "remove": lambda: Described((404,), of_one),
        "result": lambda: Described((404, 409), of_one, _file(MEDIA_TYPES.values())),
        "rejected": lambda: Described((404, 409), of_one, _file([MEDIA_TYPES["jsonl"]])),
    }
    return table[name]()


def _upload(settings: ServiceSettings) -> dict[str, Any]:
    body = {
        "required": True,
        "description": f"The file, uncompressed, with at most {settings.jobs_max_upload_bytes} bytes and "
        f"{settings.jobs_max_rows} rows.",
        "content": {kind: {"schema": _BINARY | {"minLength": 1}} for kind in UPLOAD_TYPES},
    }
    return {"parameters": describe_parameters(PARAMETERS), "requestBody": body}


def describe_parameters(described: Parameters) -> list[dict[str, Any]]:
    """Return the OpenAPI description of query parameters."""
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": meaning}
        for name, (schema, meaning) in described.items()
    ]


def _answer(schema: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _file(kinds: Iterable[str]) -> dict[str, Any]:
    content = {kind: {"schema": _BINARY} for kind in kinds}
    return {"content": content}
