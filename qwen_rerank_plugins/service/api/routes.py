"""Every address of the service, once: its methods, its handler, and what the OpenAPI description says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as HttpRoute

from qwen_rerank_plugins.service.api import info, jobs
from qwen_rerank_plugins.service.api.rerank import ranking_endpoint
from qwen_rerank_plugins.service.jobs.openapi import Described, describe
from qwen_rerank_plugins.service.middleware.request_context import context_of
from qwen_rerank_plugins.service.schemas.request import Route
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["RANKING_PATHS", "Endpoint", "endpoints", "http_routes"]

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
        verb: Its method, where that does not follow from the rest.
        described: What the description has to add, for addresses of jobs.
    """

    path: str
    handler: Handler
    summary: str = ""
    ranking: Route | None = None
    statuses: tuple[int, ...] = (200,)
    media_type: str = "application/json"
    is_probe: bool = False
    verb: str = ""
    described: Described | None = None

    @property
    def method(self) -> str:
        """The method; whoever takes GET takes HEAD too."""
        return self.verb or ("GET" if self.ranking is None else "POST")


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
    of_jobs = tuple(_job_endpoints(settings)) if settings.jobs_folder is not None else ()
    return (*_ranking_endpoints(), *of_jobs, *told, *((figures,) if settings.metrics else ()))


def _job_endpoints(settings: ServiceSettings) -> Iterator[Endpoint]:
    one, listing = "/v1/jobs/{id}", "/v1/jobs"
    table = (
        ("POST", listing, jobs.create, "Upload a file to be ranked in the background", 202),
        ("GET", listing, jobs.listing, "The jobs of the key that asks", 200),
        ("GET", one, jobs.show, "How far a job is", 200),
        ("DELETE", one, jobs.remove, "Cancel a job and delete its files", 204),
        ("GET", f"{one}/result", jobs.result, "The result, as a file", 200),
        ("GET", f"{one}/rejected", jobs.rejected, "The rows that were set aside, as a file", 200),
    )
    for verb, path, handler, summary, status in table:
        described = describe(handler.__name__, settings)
        yield Endpoint(path, handler, summary, statuses=(status,), verb=verb, described=described)


def http_routes(table: Iterable[Endpoint]) -> list[BaseRoute]:
    """Addresses as the router takes them, one a path: so it knows all methods of a path when it refuses one."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in table:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [_http_route(path, by_method) for path, by_method in by_path.items()]


def _http_route(path: str, by_method: Mapping[str, Endpoint]) -> HttpRoute:
    async def handle(request: Request) -> Response:
        endpoint = by_method["GET" if request.method == "HEAD" else request.method]
        context = context_of(request.scope)
        context.route, context.is_probe = path, endpoint.is_probe
        return await endpoint.handler(request)

    return HttpRoute(path, handle, methods=list(by_method))
