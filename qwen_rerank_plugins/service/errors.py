"""One table from exceptions to HTTP statuses, and the body of every error answer.

Every client can read the body: Cohere's read `message` and `id`, Jina's, Xinference's and Voyage's `detail`, TEI's
`error` and `error_type`, DashScope's `code`, `message` and `request_id`; `type` is RFC 9457's. All values are strings. The body contains no
text of the request, no path and no traceback.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from qwen_rerank_plugins import errors

__all__ = [
    "PROBLEM_SCHEMA",
    "STATUSES",
    "BodyError",
    "ClientGoneError",
    "Problem",
    "ProblemError",
    "Status",
    "problem_of",
]

CLIENT_CLOSED = 499  # never sent; for logs and metrics
SERVER_ERRORS = 500

RETRY_S = 5.0  # `Retry-After` while the service is loading, recovering or draining


class Status(NamedTuple):
    """What an error status means.

    Attributes:
        code: Machine-readable name, unique.
        error_type: Machine-readable kind, in the words of TEI's clients.
        meaning: What happened.
        remedy: What to do.
    """

    code: str
    error_type: str
    meaning: str
    remedy: str

    @property
    def anchor(self) -> str:
        """The anchor of this error in the page `/docs` and in docs/errors.md."""
        return f"error-{self.code}"


STATUSES: Mapping[int, Status] = {
    400: Status(
        "bad_request",
        "Validation",
        "The body is invalid JSON, or contains nothing to rank; or the host name is unknown.",
        "Send a JSON object in UTF-8 with at least one document, without NaN and duplicate keys, nested at most 32 levels deep. "
        "For a host name, set `allowed_hosts` or API keys.",
    ),
    401: Status(
        "unauthorized",
        "Unauthorized",
        "The API key is missing or invalid.",
        "Send `Authorization: Bearer KEY` with a key that the service accepts.",
    ),
    404: Status(
        "not_found",
        "NotFound",
        "No such address, no such job of this API key, or (with `strict_model`) no such model.",
        "Compare the address with those in `/docs`; a model's name with that in `/info`.",
    ),
    405: Status(
        "method_not_allowed",
        "MethodNotAllowed",
        "The address does not support the method; `Allow` lists those it supports.",
        "Use one of the methods in `Allow`.",
    ),
    408: Status(
        "request_timeout",
        "Timeout",
        "The head or the body did not arrive in time.",
        "Send it faster, or raise `receive_timeout_s`.",
    ),
    409: Status(
        "conflict",
        "Conflict",
        "The job has no such file: it is not done, has failed, or rejected no row.",
        "Read the job's `state` first.",
    ),
    413: Status(
        "payload_too_large",
        "Validation",
        "The size of the body or upload, or the number of documents or pairs, exceeds the limit.",
        "Send fewer documents per request, or raise `max_body_bytes`, `max_documents`, `max_pairs` or, for uploads, "
        "`jobs_max_upload_bytes`.",
    ),
    415: Status(
        "unsupported_media_type",
        "Validation",
        "`Content-Type` or `Content-Encoding` is not supported.",
        "Send `Content-Type: application/json` and an uncompressed body; for uploads, the type of the file.",
    ),
    422: Status(
        "invalid_request",
        "Validation",
        "A value is missing, has the wrong type, is out of range, or is too long; or a text would be truncated "
        "although the request forbids it.",
        "The message names the field. Texts are limited by `max_query_chars` and `max_document_chars`.",
    ),
    429: Status(
        "overloaded",
        "Overloaded",
        "The service is overloaded, or the API key has too many jobs; retry after the seconds in `Retry-After`.",
        "Retry after that time. If it happens often, use a faster machine or several machines, or raise `max_wait_s`. "
        "For jobs, delete finished ones.",
    ),
    500: Status(
        "internal_error",
        "Backend",
        "Scoring failed.",
        "See the log of the service: the lines with this request id have the cause.",
    ),
    503: Status(
        "unavailable",
        "Unhealthy",
        "The model is loading, recovering or shutting down; retry after the seconds in `Retry-After`.",
        "Wait until `/ready` returns 200.",
    ),
    504: Status(
        "timeout",
        "Timeout",
        "The deadline of the service passed.",
        "Send fewer documents per request, use a faster machine or a smaller model, or raise `request_timeout_s`.",
    ),
    507: Status(
        "insufficient_storage",
        "Storage",
        "The files of all jobs have reached `jobs_max_total_bytes`, or the disk is full.",
        "Delete finished jobs, or raise that limit if the disk has room.",
    ),
}
"""HTTP status → what it means. The page `/docs`, the OpenAPI description and docs/errors.md are made from it."""


PROBLEM_SCHEMA = {
    "type": "object",
    "description": "An error, in the fields of every dialect.",
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "Where the service explains the error, as `/docs#error-overloaded` (RFC 9457).",
        },
        "id": {"type": "string", "description": "The request id, as in the header `X-Request-Id`."},
        "request_id": {"type": "string", "description": "The same value."},
        "message": {"type": "string", "description": "What happened and what to do."},
        "detail": {"type": "string", "description": "The same value."},
        "error": {"type": "string", "description": "The same value."},
        "error_type": {"type": "string", "enum": sorted({one.error_type for one in STATUSES.values()})},
        "code": {"type": "string", "enum": sorted(one.code for one in STATUSES.values())},
    },
    "required": ["type", "id", "request_id", "message", "detail", "error", "error_type", "code"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error answer.

    Attributes:
        status: One of `STATUSES`.
        message: What happened, the value, and what to do; no text of the request.
        headers: Additional headers.
        reason: One word for logs and metrics.
    """

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    def body(self, request_id: str, root_path: str = "") -> dict[str, str]:
        """Return the body.

        Args:
            request_id: The id of the request.
            root_path: Prefix of every address of the service.
        """
        status = STATUSES.get(self.status, STATUSES[400 if self.status < SERVER_ERRORS else SERVER_ERRORS])
        return {
            "type": f"{root_path}/docs#{status.anchor}",
            "id": request_id,
            "request_id": request_id,
            "message": self.message,
            "detail": self.message,
            "error": self.message,
            "error_type": status.error_type,
            "code": status.code,
        }


class BodyError(errors.InputError):
    """A body does not follow its dialect. The message names the place and contains no text of the request.

    Attributes:
        status: 400 if no dialect could accept the body (no JSON object, nothing to rank), 422 for a wrong value.
    """

    def __init__(self, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class ProblemError(errors.RerankError):
    """The service answers a request with a problem.

    Attributes:
        problem: The answer.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class ClientGoneError(errors.RerankError):
    """The client closed the connection before the answer."""


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header in whole seconds, at least 1."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def overloaded(message: str, retry_after_s: float, *, reason: str) -> Problem:
    """Return the answer to a request that exceeds the current capacity."""
    # OpenSearch 2.15 to 3.7 retry only with this header.
    headers = retry_after(retry_after_s) | {"x-amzn-ErrorType": "ThrottlingException"}
    return Problem(429, message, headers, reason)


def unavailable(message: str, *, reason: str) -> Problem:
    """Return the answer while the service cannot score."""
    return Problem(503, message, retry_after(RETRY_S), reason)


def _of_body(error: BodyError) -> Problem:
    return Problem(error.status, str(error), reason="body")


def _of_overload(error: errors.OverloadedError) -> Problem:
    return overloaded("the queue is full; retry later", error.retry_after_s, reason="queue")


def _of_remote_status(error: errors.RemoteStatusError) -> Problem:
    """Translate the status of another service for our caller."""
    if error.status == 429:  # noqa: PLR2004 (the status itself)
        message = "the scoring service is overloaded; retry later"
        return overloaded(message, error.retry_after_s or 1.0, reason="remote")
    if error.status in {400, 413, 422}:
        return Problem(422, "the scoring service rejected the request", reason="remote")
    if error.status >= SERVER_ERRORS:
        return unavailable("the scoring service failed; retry later", reason="remote")
    return Problem(500, "the scoring service denied access; see the log", reason="remote")


_ToProblem = Callable[[errors.RerankError], Problem]

_TABLE: Mapping[type[errors.RerankError], _ToProblem] = {
    ProblemError: lambda error: error.problem,  # type: ignore[attr-defined]
    ClientGoneError: lambda _: Problem(CLIENT_CLOSED, "the client closed the connection", reason="client"),
    BodyError: _of_body,  # type: ignore[dict-item]
    errors.InputError: lambda error: Problem(422, str(error), reason="input"),
    errors.ConfigurationError: lambda _: Problem(
        500, "server configuration error; see the log", reason="configuration"
    ),
    errors.CheckpointError: lambda _: unavailable(
        "loading the model failed; see the log", reason="checkpoint"
    ),
    errors.EngineError: lambda _: Problem(500, "scoring failed", reason="engine"),
    errors.EngineOutOfMemoryError: lambda _: unavailable(
        "out of device memory; retry later, with fewer or shorter documents", reason="memory"
    ),
    errors.DeviceLostError: lambda _: unavailable(
        "the device was lost; the service must be restarted", reason="engine"
    ),
    errors.WorkerDiedError: lambda _: unavailable("the engine stopped; retry later", reason="engine"),
    errors.OverloadedError: _of_overload,  # type: ignore[dict-item]
    errors.DeadlineExceededError: lambda _: Problem(
        504, "the deadline passed; send fewer or shorter documents", reason="deadline"
    ),
    errors.RequestError: lambda _: unavailable(
        "the request was not processed; retry later", reason="request"
    ),
    errors.ClosedError: lambda _: unavailable("the service is shutting down", reason="closed"),
    errors.RemoteError: lambda _: unavailable(
        "the scoring service did not answer; retry later", reason="remote"
    ),
    errors.RemoteStatusError: _of_remote_status,  # type: ignore[dict-item]
    errors.RemoteProtocolError: lambda _: Problem(
        500, "the answer of the scoring service does not match the configured dialect", reason="remote"
    ),
    errors.RerankError: lambda _: Problem(500, "scoring failed", reason="unexpected"),
}
"""Exception class → answer. The most derived class applies."""


def problem_of(error: BaseException) -> Problem:
    """Return the answer to an exception. One from outside the package is an internal error."""
    for kind in type(error).__mro__:
        if kind in _TABLE:
            return _TABLE[kind](error)  # type: ignore[arg-type]
    return Problem(500, "internal error", reason="unexpected")
