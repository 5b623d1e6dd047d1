"""OpenAPI descriptions of the endpoints of jobs: parameters, bodies, answers, statuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from qwen_rerank_plugins.service.errors import STATUSES
from qwen_rerank_plugins.service.jobs.records import JobState
from qwen_rerank_plugins.service.jobs.spec import FORMATS, MEDIA_TYPES, PARAMETERS, UPLOAD_TYPES
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["JOB_SCHEMAS", "JOB_STATUSES", "Described", "describe"]

JOB_STATUSES = (409, 507)
"""Statuses that only endpoints of jobs return."""


@dataclass(frozen=True, slots=True)
class Described:
    """Additions to the description of an endpoint of jobs.

    Attributes:
        problems: Error statuses in addition to those of every endpoint.
        operation: Parameters and body.
        answer: Headers and content of a successful answer.
    """

    problems: tuple[int, ...] = ()
    operation: Mapping[str, Any] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=dict)


_NUMBER_OR_NULL = {"type": ["number", "null"]}
_COUNT_OR_NULL = {"type": ["integer", "null"], "minimum": 0}
_TIME = {"type": ["integer", "null"], "description": "Unix time in seconds."}


def _object(properties: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_PROGRESS = _object(
    {
        "phase": {"type": "string", "enum": ["scoring", "writing"]},
        "fraction": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Fraction of the current phase.",
        },
        "num_rows": {"type": "integer", "minimum": 0},
        "num_pairs": {"type": "integer", "minimum": 0},
        "num_rejected": {"type": "integer", "minimum": 0, "description": "Rows that were rejected."},
        "pairs_per_s": _NUMBER_OR_NULL,
        "seconds_left": _NUMBER_OR_NULL,
    },
    "Progress of the job.",
)
_PROBLEM = _object(
    {
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted(code for code, _, _ in STATUSES.values())},
        "error_type": {"type": "string", "enum": sorted({kind for _, kind, _ in STATUSES.values()})},
        "message": {"type": "string"},
    },
    "Why the job failed, in the fields of an error answer.",
)
_JOB = _object(
    {
        "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "state": {"type": "string", "enum": [state for state in get_args(JobState) if state != "cancelled"]},
        "name": {"type": "string"},
        "input_format": {"type": "string", "enum": list(FORMATS)},
        "output_format": {"type": "string", "enum": list(FORMATS)},
        "options": {"type": "object", "additionalProperties": {"type": "string"}},
        "num_bytes": {"type": "integer", "minimum": 0},
        "created": {"type": "integer", "description": "Unix time in seconds."},
        "started": _TIME,
        "finished": _TIME,
        "expires": _TIME,
        "num_ahead": {
            **_COUNT_OR_NULL,
            "description": "Number of jobs before it in the queue; null unless it is queued.",
        },
        "progress": _PROGRESS,
        "model": {"type": ["string", "null"]},
        "num_written": _COUNT_OR_NULL,
        "result_bytes": _COUNT_OR_NULL,
        "rejected_bytes": _COUNT_OR_NULL,
        "problem": {"oneOf": [_PROBLEM, {"type": "null"}]},
    },
    "An upload job.",
)
_REFERENCE = {"$ref": "#/components/schemas/job"}
JOB_SCHEMAS = {
    "job": _JOB,
    "jobs": _object(
        {"object": {"const": "list"}, "data": {"type": "array", "items": _REFERENCE}}, "Newest first."
    ),
}

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
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": meaning}
        for name, (schema, meaning) in PARAMETERS.items()
    ]
    body = {
        "required": True,
        "description": f"The file, uncompressed, with at most {settings.jobs_max_upload_bytes} bytes and "
        f"{settings.jobs_max_rows} rows.",
        "content": {kind: {"schema": _BINARY | {"minLength": 1}} for kind in UPLOAD_TYPES},
    }
    return {"parameters": parameters, "requestBody": body}


def _answer(schema: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _file(kinds: Iterable[str]) -> dict[str, Any]:
    content = {kind: {"schema": _BINARY} for kind in kinds}
    return {"content": content}
