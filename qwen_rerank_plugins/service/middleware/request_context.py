"""What surrounds every request: its id, the headers of every answer, errors turned into answers, one log line, figures.

It is the outermost layer of the app. It knows no dialect and no key, and sees no text.
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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen_rerank_plugins.service.errors import SERVER_ERRORS, Problem, problem_of
from qwen_rerank_plugins.service.logs import log_access, log_fault
from qwen_rerank_plugins.service.schemas.json_codec import dump_json

__all__ = ["SECURITY_HEADERS", "RequestContext", "RequestContextMiddleware", "context_of", "problem_message"]

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""On every answer that does not set them itself; pages set a policy that lets them load their own files."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_SLASHES = re.compile(r"/{2,}")
_QUIET_STATUSES = range(200, 400)


@dataclass(slots=True)
class RequestContext:
    """What becomes known of a request on its way; all of it fit for logs.

    Attributes:
        request_id: The client's own if it is a decent one, else made.
        method: The HTTP method, of those that exist.
        started: Reading of the clock in seconds.
        route: The address's template, of a fixed set.
        dialect: The dialect's name, of a fixed set; empty where there is none.
        is_probe: Whether it is one of the addresses that are asked every few seconds.
        status: The answer's, 0 while there is none.
        reason: Why it is an error, in a word of a fixed set.
        num_bytes: Of the body.
        num_documents: Of all lists.
        num_tokens: Of all pairs, each counted whole.
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
        """Measure a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """Since the request's head was read."""
        return time.perf_counter() - self.started

    def log_fields(self) -> dict[str, Any]:
        """What the log line holds."""
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
    """The context of the request that is being served."""
    context: RequestContext = scope["state"]["context"]
    return context


def problem_message(problem: Problem, request_id: str) -> tuple[Message, Message]:
    """An error as the two messages of an ASGI answer."""
    body = dump_json(problem.body(request_id))
    headers = MutableHeaders(headers=dict(problem.headers))
    headers["Content-Type"] = "application/json"
    headers["Content-Length"] = str(len(body))
    return (
        {"type": "http.response.start", "status": problem.status, "headers": headers.raw},
        {"type": "http.response.body", "body": body},
    )


class RequestContextMiddleware:
    """ASGI middleware around everything else.

    Args:
        app: What is behind it.
        on_done: Is told of every answered request.
    """

    def __init__(self, app: ASGIApp, *, on_done: Callable[[RequestContext], None]) -> None:
        self._app = app
        self._on_done = on_done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and see to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = _plain_path(scope["path"])
        context = RequestContext(_request_id(Headers(scope=scope)), method=scope["method"])
        scope.setdefault("state", {})["context"] = context
        try:
            await self._serve(scope, receive, _sender(context, send))
        finally:
            log_access(context.log_fields(), quiet=context.is_probe and context.status in _QUIET_STATUSES)
            self._on_done(context)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            problem = problem_of(error)
            context.reason = problem.reason
            if problem.reason == "unexpected":
                log_fault(error, context.request_id)
            if context.status:  # the answer had begun; the connection is all that is left to end
                raise
            for message in problem_message(problem, context.request_id):
                await send(message)


def _sender(context: RequestContext, send: Send) -> Send:
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

    return send_with_headers


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.match(given) else uuid.uuid4().hex


def _plain_path(path: str) -> str:
    """Collapse slashes, which base addresses with one at the end lead to, and drop the last."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"
