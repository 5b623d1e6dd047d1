"""Creates the FastAPI app from its state, middleware and routes.

RequestContextMiddleware ──► CORS, if set ──► ErrorMiddleware ──► AuthMiddleware ──► router ──► handler
id, headers, log                              error answers       host, key
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.service.api.docs_page import docs_page
from qwen_rerank_plugins.service.api.openapi import openapi_document
from qwen_rerank_plugins.service.api.routes import Endpoint, Handler, endpoints, http_routes
from qwen_rerank_plugins.service.app_state import AppState
from qwen_rerank_plugins.service.errors import STATUSES, Problem, ProblemError
from qwen_rerank_plugins.service.lifecycle import Event, Lifecycle
from qwen_rerank_plugins.service.middleware.auth import AllowedHosts, AuthMiddleware, KeyRing
from qwen_rerank_plugins.service.middleware.request_context import (
    ErrorMiddleware,
    RequestContextMiddleware,
    context_of,
)
from qwen_rerank_plugins.service.schemas.json_codec import dump_json
from qwen_rerank_plugins.service.settings import ServiceSettings, read_keys
from qwen_rerank_plugins.service.ui import PAGE_HEADERS, PageFiles
from qwen_rerank_plugins.types import Scorer

__all__ = ["create_app"]


def create_app(
    config: RerankConfig,
    *,
    settings: ServiceSettings | None = None,
    scorer: Scorer | None = None,
    announce: Callable[[Event], None] | None = None,
) -> FastAPI:
    """Create the app. The model is loaded at startup; until then `/ready` returns 503.

    Args:
        config: Settings of the reranker. Unless `admission` is set, a full queue rejects requests. Scoring errors are
            always raised, so that a client never mistakes the unranked order for a ranking.
        settings: Settings of the service; by default the section `service` of `config`.
        scorer: Replaces the configured scorer. The caller closes it.
        announce: Called with events: loading, failures, recovery.

    Raises:
        ConfigurationError: A setting is invalid, or reranking is disabled.
        MissingDependencyError: Tracing is enabled and OpenTelemetry is not installed.
    """
    settings = ServiceSettings.from_config(config) if settings is None else settings
    keys = KeyRing(read_keys(settings))
    state = _create_state(config, settings, keys, scorer, announce)
    table = endpoints(settings)
    document = openapi_document(table, settings, has_keys=bool(keys))
    app = FastAPI(
        title="Qwen Rerank",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=[*http_routes(table), *_pages(document)],
        middleware=_middleware(state),
        exception_handlers={HTTPException: _on_http_exception},
        lifespan=_lifespan,
    )
    app.state.service = state
    app.openapi = lambda: document  # type: ignore[method-assign]
    if settings.tracing:
        from qwen_rerank_plugins.service.middleware.tracing import instrument

        instrument(app)
    return app


def _create_state(
    config: RerankConfig,
    settings: ServiceSettings,
    keys: KeyRing,
    scorer: Scorer | None,
    announce: Callable[[Event], None] | None,
) -> AppState:
    if not config.enabled:
        raise ConfigurationError("enabled is False: the service would not score; set it to True to serve")
    changes: dict[str, Any] = {"on_error": "raise"}
    if "admission" not in config.model_fields_set:
        changes["admission"] = "reject"
    served = config.replace(**changes)
    lifecycle = Lifecycle(
        lambda: Reranker(served, scorer=scorer),
        can_rebuild=scorer is None,
        on_engine_failure=settings.on_engine_failure,
        announce=announce or (lambda _: None),
    )
    return AppState(served, settings, lifecycle, keys)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: AppState = app.state.service
    await state.lifecycle.start()
    if state.jobs is not None:
        await state.jobs.start()
    try:
        yield
    finally:
        if state.jobs is not None:
            await state.jobs.stop()
        await state.lifecycle.stop()
        state.close()


def _middleware(state: AppState) -> list[Middleware]:
    settings = state.settings
    hosts = AllowedHosts(settings, has_keys=bool(state.keys))
    outer = [
        Middleware(
            RequestContextMiddleware,
            on_done=state.record_request,
            root_path=settings.root_path,
            logs_clients=bool(settings.trusted_proxies),
        )
    ]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", *(["DELETE"] if settings.jobs_folder is not None else [])],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id"],
            expose_headers=[
                "Content-Disposition",
                "Location",
                "Retry-After",
                "X-Request-Id",
                "X-Rerank-Calibrated",
                "X-Rerank-Warnings",
            ],
        )
        outer.append(cors)
    return [
        *outer,
        Middleware(ErrorMiddleware, root_path=settings.root_path),
        Middleware(AuthMiddleware, keys=state.keys, hosts=hosts),
    ]


def _pages(document: Mapping[str, Any]) -> list[BaseRoute]:
    """Routes of the workbench, its files, and the OpenAPI description as JSON and as a page."""
    files = PageFiles()
    html, described = docs_page(document), dump_json(document)

    def file(name: str) -> Handler:
        return lambda request: files.get_response(name, request.scope)

    async def any_file(request: Request) -> Response:
        return await files.get_response(request.path_params["name"], request.scope)

    async def docs(request: Request) -> Response:  # noqa: ARG001 (a handler's signature)
        return HTMLResponse(html, headers=PAGE_HEADERS)

    async def openapi_json(request: Request) -> Response:  # noqa: ARG001 (a handler's signature)
        return Response(described, headers=PAGE_HEADERS, media_type="application/json")

    table = (
        Endpoint("/", file("index.html")),
        Endpoint("/favicon.ico", file("favicon.svg")),
        Endpoint("/static/{name:path}", any_file),
        Endpoint("/docs", docs),
        Endpoint("/docs.css", file("docs.css")),
        Endpoint("/openapi.json", openapi_json),
    )
    return http_routes(table)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer errors of the router, and OPTIONS with the allowed methods."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if request.method == "OPTIONS" and "Allow" in headers:
        return Response(status_code=204, headers={"Allow": f"{headers['Allow']}, OPTIONS"})
    status = error.status_code if error.status_code in STATUSES else 500
    known = STATUSES[status]
    context_of(request.scope).reason = known.code
    messages = {
        404: "not found: no such address; see /docs for all addresses",
        405: f"method not allowed: {request.method}; use {headers.get('Allow')}",
    }
    raise ProblemError(Problem(status, messages.get(status, known.meaning), headers, known.code))
