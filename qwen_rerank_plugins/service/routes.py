"""Every address of the service, once: its methods, its handler, and what the OpenAPI description says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from qwen_rerank_plugins.service import info
from qwen_rerank_plugins.service.exchange import Route
from qwen_rerank_plugins.service.observe import context_of
from qwen_rerank_plugins.service.ranking import ranking_endpoint
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["RANKING_PATHS", "Endpoint", "endpoints", "http_route"]

Handler = Callable[[Request], Awaitable[Response]]

RANKING_PATHS: dict[Route, tuple[str, ...]] = {
    Route.RERANK: (
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/api/rerank",
        "/api/v1/rerank",
        "/api/v2/rerank",
        "/v1/reranks",
        "/compatible-api/v1/reranks",
    ),
    Route.SCORE: ("/score", "/v1/score", "/api/score", "/api/v1/score"),
    Route.DASHSCOPE: ("/api/v1/services/rerank/text-rerank/text-rerank",),
}

_SUMMARIES = {
    Route.RERANK: "Rank documents; the body's keys choose the dialect",
    Route.SCORE: "Score pairs, as vLLM does",
    Route.DASHSCOPE: "Rank documents, as DashScope does",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address.

    Attributes:
        path: Its template.
        handler: What answers.
        summary: What it does; an empty one keeps it out of the description.
        ranking: For addresses that rank, which kind.
        statuses: What it answers when all is well, or not ready.
        media_type: Of its answer; empty for none.
        is_probe: Whether it is asked every few seconds and only worth a log line when something is wrong.
    """

    path: str
    handler: Handler
    summary: str = ""
    ranking: Route | None = None
    statuses: tuple[int, ...] = (200,)
    media_type: str = "application/json"
    is_probe: bool = False

    @property
    def method(self) -> str:
        """The method; whoever takes GET takes HEAD too."""
        return "GET" if self.ranking is None else "POST"


def _ranking_endpoints() -> Iterator[Endpoint]:
    for route, paths in RANKING_PATHS.items():
        handler = ranking_endpoint(route)
        yield from (Endpoint(path, handler, _SUMMARIES[route], ranking=route) for path in paths)


def endpoints(settings: ServiceSettings) -> tuple[Endpoint, ...]:
    """Every address that answers with data; pages and files are the app's."""
    told = (
        Endpoint("/info", info.info, "What is served, and its limits"),
        Endpoint("/v1/models", info.models, "The model, as OpenAI lists models"),
        Endpoint("/api/v1/models", info.models, "The model, as OpenAI lists models"),
        Endpoint("/meta", info.meta, "The model, as Weaviate asks for it"),
        Endpoint("/health", info.health, "Whether the process is alive", is_probe=True),
        Endpoint("/ping", info.health, "Whether the process is alive", is_probe=True),
        Endpoint("/ready", info.ready, "Whether requests are served", statuses=(200, 503), is_probe=True),
        Endpoint(
            "/.well-known/live", info.live, "Whether the process is alive", None, (204,), "", is_probe=True
        ),
        Endpoint(
            "/.well-known/ready",
            info.ready_bare,
            "Whether requests are served",
            None,
            (204, 503),
            "",
            is_probe=True,
        ),
    )
    figures = Endpoint("/metrics", info.metrics, "Figures for Prometheus", None, (200,), "text/plain", True)
    return (*_ranking_endpoints(), *told, *((figures,) if settings.metrics else ()))


def http_route(endpoint: Endpoint) -> HttpRoute:
    """The address as the router takes it; the handler notes which one it was."""

    async def handle(request: Request) -> Response:
        context = context_of(request.scope)
        context.route, context.is_probe = endpoint.path, endpoint.is_probe
        return await endpoint.handler(request)

    return HttpRoute(endpoint.path, handle, methods=[endpoint.method])
