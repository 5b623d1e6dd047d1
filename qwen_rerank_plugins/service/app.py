"""The FastAPI app: parts, layers and addresses put together. What each does stands in its own module.

RequestContextMiddleware ──► CORS, if set ──► AuthMiddleware ──► router ──► handler
id, headers,                  host, key
errors, log
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.service.api.docs_page import docs_page
from qwen_rerank_plugins.service.api.openapi import openapi_document
from qwen_rerank_plugins.service.api.routes import Endpoint, endpoints, http_routes
from qwen_rerank_plugins.service.app_state import Service
from qwen_rerank_plugins.service.errors import STATUSES, Problem, ProblemError
from qwen_rerank_plugins.service.lifecycle import Event, Lifecycle
from qwen_rerank_plugins.service.middleware.auth import AuthMiddleware, HostNames, KeyRing
from qwen_rerank_plugins.service.middleware.request_context import RequestContextMiddleware, context_of
from qwen_rerank_plugins.service.schemas.json_codec import dump_json
from qwen_rerank_plugins.service.settings import ServiceSettings, read_keys
from qwen_rerank_plugins.service.static import StaticFiles, make_file
from qwen_rerank_plugins.types import Scorer

__all__ = ["create_app"]


def create_app(
    config: RerankConfig,
    *,
    settings: ServiceSettings | None = None,
    scorer: Scorer | None = None,
    announce: Callable[[Event], None] | None = None,
) -> FastAPI:
    """Put the service's app together. The model is loaded when it starts; until then `/ready` says no.

    Args:
        config: The reranker's settings. Unless they say otherwise, a full queue refuses; scoring errors are always
            raised.
        settings: The service's own; None for the section `service` of `config`.
        scorer: Scores in place of the one that the settings mean; it stays the caller's to close.
        announce: Is told of loading, failures and recovery.

    Raises:
        ConfigurationError: A setting is wrong, or reranking is switched off.
        MissingDependencyError: Tracing is on and OpenTelemetry is not installed.
    """
    settings = ServiceSettings.from_config(config) if settings is None else settings
    keys = KeyRing(read_keys(settings))
    service = _service(config, settings, keys, scorer, announce)
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
        middleware=_layers(service, keys),
        exception_handlers={HTTPException: _problem_of_router},
        lifespan=_lifespan,
    )
    app.state.service = service
    app.openapi = lambda: document  # type: ignore[method-assign]
    if settings.tracing:
        from qwen_rerank_plugins.service.middleware.tracing import instrument

        instrument(app)
    return app


def _service(
    config: RerankConfig,
    settings: ServiceSettings,
    keys: KeyRing,
    scorer: Scorer | None,
    announce: Callable[[Event], None] | None,
) -> Service:
    if not config.enabled:
        raise ConfigurationError("enabled is not valid: False; a service that scores nothing is not started")
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
    return Service(served, settings, lifecycle, keys)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await service.lifecycle.start()
    if service.jobs is not None:
        await service.jobs.start()
    try:
        yield
    finally:
        if service.jobs is not None:
            await service.jobs.stop()
        await service.lifecycle.stop()
        service.close()


def _layers(service: Service, keys: KeyRing) -> list[Middleware]:
    settings = service.settings
    hosts = HostNames(settings, has_keys=bool(keys))
    layers = [Middleware(RequestContextMiddleware, on_done=service.note_done)]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", *(["DELETE"] if settings.jobs_folder is not None else [])],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id"],
            expose_headers=["Content-Disposition", "Location", "Retry-After", "X-Request-Id"],
        )
        layers.append(cors)
    return [*layers, Middleware(AuthMiddleware, keys=keys, hosts=hosts)]


def _pages(document: Mapping[str, Any]) -> list[BaseRoute]:
    """The workbench, its files, and the description as JSON and as a page."""
    files = StaticFiles()
    style = (resources.files("qwen_rerank_plugins.service") / "ui" / "docs.css").read_bytes()
    css = make_file(style, ".css")
    html = make_file(docs_page(document).encode(), ".html")
    described = make_file(dump_json(document), ".json")

    async def docs(request: Request) -> Response:
        return html.answer(request)

    async def docs_css(request: Request) -> Response:
        return css.answer(request)

    async def openapi_json(request: Request) -> Response:
        return described.answer(request)

    table = (
        Endpoint("/", files.endpoint("index.html")),
        Endpoint("/favicon.ico", files.endpoint("favicon.svg")),
        Endpoint("/static/{name:path}", files.any_file),
        Endpoint("/docs", docs),
        Endpoint("/docs.css", docs_css),
        Endpoint("/openapi.json", openapi_json),
    )
    return http_routes(table)


async def _problem_of_router(request: Request, error: Exception) -> Response:
    """Answer what the router itself refuses; a client that asks for the methods is told them."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if request.method == "OPTIONS" and "Allow" in headers:
        return Response(status_code=204, headers={"Allow": f"{headers['Allow']}, OPTIONS"})
    status = error.status_code if error.status_code in STATUSES else 500
    context_of(request.scope).reason = STATUSES[status][0]
    messages = {
        404: "there is no such address",
        405: f"the method is not allowed; allowed: {headers.get('Allow')}",
    }
    raise ProblemError(
        Problem(status, messages.get(status, STATUSES[status][2]), headers, STATUSES[status][0])
    )
