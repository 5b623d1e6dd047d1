"""The one table from what went wrong to what is answered, and the one shape of that answer.

The body is readable by every client: Cohere's read `message` and `id`, Jina's, Xinference's and Voyage's `detail`, TEI's
`error` and `error_type`, DashScope's `code`, `message` and `request_id`. All of its values are strings. Nothing of a
request's text, no path and no traceback ever stands in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qwen_rerank_plugins import errors
from qwen_rerank_plugins.service.schemas.request import BodyError

__all__ = ["PROBLEM_SCHEMA", "STATUSES", "ClientGoneError", "Problem", "ProblemError", "problem_of"]

CLIENT_CLOSED = 499  # never sent: nobody is there to read it; it stands in logs and metrics
SERVER_ERRORS = 500

RETRY_S = 5.0  # after which a service that loads or drains may be asked again, here or behind the balancer

STATUSES: Mapping[int, tuple[str, str, str]] = {
    400: ("bad_request", "Validation", "The body cannot be read, or there is nothing in it to rank."),
    401: ("unauthorized", "Unauthorized", "No valid key came with the request."),
    404: (
        "not_found",
        "NotFound",
        "There is no such address, no such job, or (with `strict_model`) no such model.",
    ),
    405: ("method_not_allowed", "MethodNotAllowed", "The address does not take this method."),
    408: ("request_timeout", "Timeout", "The body did not arrive in time."),
    409: (
        "conflict",
        "Conflict",
        "The job has no such file: it is not done, has failed, or set no row aside.",
    ),
    413: ("payload_too_large", "Validation", "The body, or the number of its documents, is above the limit."),
    415: ("unsupported_media_type", "Validation", "The body is not declared as what the address takes."),
    422: ("invalid_request", "Validation", "A value is of the wrong kind, out of range, or too long."),
    429: (
        "overloaded",
        "Overloaded",
        "More work is waiting than is taken on; `Retry-After` says when to try again.",
    ),
    500: ("internal_error", "Backend", "Scoring failed."),
    503: ("unavailable", "Unhealthy", "The model is loading, failing or shutting down; try again later."),
    504: ("timeout", "Timeout", "There was no answer within the service's deadline."),
    507: ("insufficient_storage", "Storage", "There is no room for another job's files."),
}
"""Status → machine-readable code, the `error_type` that goes with it, and what it means."""

PROBLEM_SCHEMA = {
    "type": "object",
    "description": "What went wrong, in the words of every dialect.",
    "properties": {
        "id": {"type": "string", "description": "The request's id, as in the header `X-Request-Id`."},
        "request_id": {"type": "string", "description": "The same."},
        "message": {"type": "string", "description": "What was wrong, and what is allowed."},
        "detail": {"type": "string", "description": "The same."},
        "error": {"type": "string", "description": "The same."},
        "error_type": {"type": "string", "enum": sorted({kind for _, kind, _ in STATUSES.values()})},
        "code": {"type": "string", "enum": sorted(code for code, _, _ in STATUSES.values())},
    },
    "required": ["id", "request_id", "message", "detail", "error", "error_type", "code"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that is an error.

    Attributes:
        status: One of `STATUSES`.
        message: What was wrong, the value, what is allowed; nothing of a text.
        headers: What the status asks for.
        reason: A word for logs and metrics.
    """

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    def body(self, request_id: str) -> dict[str, str]:
        """The answer's body."""
        code, kind, _ = STATUSES.get(self.status, STATUSES[SERVER_ERRORS])
        return {
            "id": request_id,
            "request_id": request_id,
            "message": self.message,
            "detail": self.message,
            "error": self.message,
            "error_type": kind,
            "code": code,
        }


class ProblemError(errors.RerankError):
    """A request is answered with a problem that the service itself found.

    Attributes:
        problem: The answer.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class ClientGoneError(errors.RerankError):
    """The client closed the connection; there is nobody to answer."""


def retry_after(seconds: float) -> dict[str, str]:
    """The header, in whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def overloaded(message: str, retry_after_s: float, *, reason: str) -> Problem:
    """The answer to a request that is too much just now."""
    # OpenSearch 2.15 to 3.7 try again only where this header says so.
    headers = retry_after(retry_after_s) | {"x-amzn-ErrorType": "ThrottlingException"}
    return Problem(429, message, headers, reason)


def unavailable(message: str, *, reason: str) -> Problem:
    """The answer of a service that cannot score just now."""
    return Problem(503, message, retry_after(RETRY_S), reason)


def _of_body(error: BodyError) -> Problem:
    return Problem(error.status, str(error), reason="body")


def _of_overload(error: errors.OverloadedError) -> Problem:
    return overloaded("the queue is full; try again later", error.retry_after_s, reason="queue")


def _of_remote_status(error: errors.RemoteStatusError) -> Problem:
    """What another service answered, as far as it concerns our caller."""
    if error.status == 429:  # noqa: PLR2004 (the status itself)
        message = "the scoring service is overloaded; try again later"
        return overloaded(message, error.retry_after_s or 1.0, reason="remote")
    if error.status in {400, 413, 422}:
        return Problem(422, "the scoring service does not take this request", reason="remote")
    if error.status >= SERVER_ERRORS:
        return unavailable("the scoring service failed; try again later", reason="remote")
    return Problem(500, "the scoring service refused this service's request", reason="remote")


_Answer = Callable[[errors.RerankError], Problem]

_TABLE: Mapping[type[errors.RerankError], _Answer] = {
    ProblemError: lambda error: error.problem,  # type: ignore[attr-defined]
    ClientGoneError: lambda _: Problem(CLIENT_CLOSED, "the client closed the connection", reason="client"),
    BodyError: _of_body,  # type: ignore[dict-item]
    errors.InputError: lambda error: Problem(422, str(error), reason="input"),
    errors.ConfigurationError: lambda _: Problem(
        500, "the service is not set up right", reason="configuration"
    ),
    errors.CheckpointError: lambda _: unavailable("the model could not be loaded", reason="checkpoint"),
    errors.EngineError: lambda _: Problem(500, "scoring failed", reason="engine"),
    errors.EngineOutOfMemoryError: lambda _: unavailable("the device's memory is exhausted", reason="memory"),
    errors.WorkerDiedError: lambda _: unavailable("the engine died; try again later", reason="engine"),
    errors.OverloadedError: _of_overload,  # type: ignore[dict-item]
    errors.DeadlineExceededError: lambda _: Problem(
        504, "no score within the deadline; fewer or shorter documents take less time", reason="deadline"
    ),
    errors.RequestError: lambda _: unavailable(
        "the request was not served; try again later", reason="request"
    ),
    errors.ClosedError: lambda _: unavailable("the service is shutting down", reason="closed"),
    errors.RemoteError: lambda _: unavailable("the scoring service gave no answer", reason="remote"),
    errors.RemoteStatusError: _of_remote_status,  # type: ignore[dict-item]
    errors.RemoteProtocolError: lambda _: Problem(
        500, "the scoring service's answer is of another kind than configured", reason="remote"
    ),
    errors.RerankError: lambda _: Problem(500, "scoring failed", reason="unexpected"),
}
"""An error is answered as the nearest of its classes says."""


def problem_of(error: BaseException) -> Problem:
    """Give the answer to an error; what is none of ours is a fault of the service."""
    for kind in type(error).__mro__:
        if kind in _TABLE:
            return _TABLE[kind](error)  # type: ignore[arg-type]
    return Problem(500, "internal error", reason="unexpected")
