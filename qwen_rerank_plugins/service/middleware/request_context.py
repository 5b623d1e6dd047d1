"""Middleware around requests: request id, headers of every answer, the log line, metrics, and error answers.

It knows no dialect, no key and no body.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen_rerank_plugins.service.errors import SERVER_ERRORS, problem_of
from qwen_rerank_plugins.service.logs import log_access, log_fault
from qwen_rerank_plugins.service.schemas.json_codec import dump_json

__all__ = ["SECURITY_HEADERS", "ErrorMiddleware", "RequestContext", "RequestContextMiddleware", "context_of"]

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""Defaults for every answer. Pages set their own policy."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_SLASHES = re.compile(r"/{2,}")
_QUIET_STATUSES = range(200, 400)


@dataclass(slots=True)
class RequestContext:
    """Facts about a request, collected while it is handled. All of them may be logged.

    Attributes:
        request_id: The client's id if it is valid, a new one otherwise.
        method: HTTP method.
        started: Start time on the performance counter, in seconds.
        route: Path template, from a fixed set.
        dialect: Name of the dialect, from a fixed set; empty if unknown.
        is_probe: Whether the route is a health check.
        status: Status of the answer; 0 before it.
        reason: Reason of an error, one word from a fixed set.
        num_bytes: Size of the body.
        num_documents: Documents in all lists.
        num_tokens: Tokens of all pairs, without sharing.
        stages: Name → seconds.
    """

    request_id: str
    method: str = ""
    started: float = field(default_factory=time.perf_counter)
    route: str = "other"
    dialect: str = ""
    is_probe: bool = False
    status: int = 0
    reason: str = ""
    num_bytes: int = 0
    num_documents: int = 0
    num_tokens: int = 0
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the duration of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """Seconds since the request's head was read."""
        return time.perf_counter() - self.started

    def log_fields(self) -> dict[str, Any]:
        """Return the fields of the log line."""
        fields: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "ms": round(1000 * self.seconds, 3),
        }
        fields |= {"reason": self.reason} if self.reason else {}
        if self.dialect:
            fields |= {"dialect": self.dialect, "documents": self.num_documents, "tokens": self.num_tokens}
        if self.num_bytes:
            fields["bytes"] = self.num_bytes
        return fields | {f"{name}_ms": round(1000 * seconds, 3) for name, seconds in self.stages.items()}


def context_of(scope: Scope) -> RequestContext:
    """Return the context of a request."""
    context: RequestContext = scope["state"]["context"]
    return context


class RequestContextMiddleware:
    """ASGI middleware around everything else.

    Args:
        app: The inner app.
        on_done: Called with the context of every finished request.
    """

    def __init__(self, app: ASGIApp, *, on_done: Callable[[RequestContext], None]) -> None:
        self._app = app
        self._on_done = on_done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Repeated slashes result from base URLs with a trailing slash.
        scope["path"] = _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
        context = RequestContext(request_id, method=scope["method"])
        scope.setdefault("state", {})["context"] = context

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = context.request_id
                if context.status >= SERVER_ERRORS or context.method not in {"GET", "HEAD"}:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            log_access(context.log_fields(), quiet=context.is_probe and context.status in _QUIET_STATUSES)
            self._on_done(context)


class ErrorMiddleware:
    """ASGI middleware that answers exceptions. It is inside CORS, so that a web page can read these answers too.

    Args:
        app: The inner app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, and answer it if that raises."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            context, problem = context_of(scope), problem_of(error)
            context.reason = problem.reason
            if problem.reason == "unexpected":
                log_fault(error, context.request_id)
            if context.status:  # the answer has started, so the connection can only be closed
                raise
            body = dump_json(problem.body(context.request_id))
            answer = Response(body, problem.status, dict(problem.headers), "application/json")
            await answer(scope, receive, send)
