"""Middleware around requests: request id, headers of every answer, the log line, metrics, and error answers.

It knows no dialect, no key and no body.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
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
        key_id: Start of the digest of the request's API key; empty without a valid key.
        client: The client's address behind a trusted proxy; empty without one.
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
    key_id: str = ""
    client: str = ""
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
        optional = {"reason": self.reason, "key": self.key_id, "client": self.client}
        fields |= {name: value for name, value in optional.items() if value}
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
        root_path: Prefix of every address, which a proxy may keep or remove.
        logs_clients: Whether the server has determined clients' addresses, for the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        on_done: Callable[[RequestContext], None],
        root_path: str = "",
        logs_clients: bool = False,
    ) -> None:
        self._app = app
        self._on_done = on_done
        self._root_path = root_path
        self._logs_clients = logs_clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app = self._app
        if scope["path"] == self._root_path and scope["method"] in {"GET", "HEAD"}:
            app = RedirectResponse(f"{self._root_path}/")  # the page's addresses are relative to the slash
        scope["path"] = self._route_path(scope["path"])
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
        context = RequestContext(request_id, method=scope["method"])
        if self._logs_clients and scope["client"]:
            with suppress(ValueError):  # a proxy may report anything
                context.client = str(ip_address(scope["client"][0]))
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
            await app(scope, receive, send_with_headers)
        finally:
            log_access(context.log_fields(), quiet=context.is_probe and context.status in _QUIET_STATUSES)
            self._on_done(context)

    def _route_path(self, path: str) -> str:
        # Repeated slashes result from base URLs with a trailing slash.
        path = _SLASHES.sub("/", path).rstrip("/") or "/"
        if self._root_path and f"{path}/".startswith(f"{self._root_path}/"):
            return path.removeprefix(self._root_path) or "/"
        return path


class ErrorMiddleware:
    """ASGI middleware that answers exceptions. It is inside CORS, so that a web page can read these answers too.

    Args:
        app: The inner app.
        root_path: Prefix of every address, for the links in error answers.
    """

    def __init__(self, app: ASGIApp, *, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path

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
            body = dump_json(problem.body(context.request_id, self._root_path))
            answer = Response(body, problem.status, dict(problem.headers), "application/json")
            await answer(scope, receive, send)
