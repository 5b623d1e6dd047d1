"""The table of endpoints: path, methods, handler, and OpenAPI description of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as HttpRoute

from qwen_rerank_plugins.service.api import files, info, jobs
from qwen_rerank_plugins.service.api.rerank import rank
from qwen_rerank_plugins.service.jobs.openapi import Described, describe
from qwen_rerank_plugins.service.middleware.request_context import context_of
from qwen_rerank_plugins.service.schemas.dialect import Route
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["RANKING_PATHS", "Endpoint", "Handler", "endpoints", "http_routes"]

Handler = Callable[[Request], Awaitable[Response]]

RANKING_PATHS: dict[Route, tuple[str, ...]] = {
    Route.RERANK: (
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/reranking",
        "/v1/reranking",
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
    Route.RERANK: "Rank documents; the keys of the body determine the dialect",
    Route.SCORE: "Score pairs, in vLLM's format",
    Route.DASHSCOPE: "Rank documents, in DashScope's format",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint.

    Attributes:
        path: Path template.
        handler: Request handler.
        summary: OpenAPI summary; an empty one hides the endpoint from the description.
        ranking: Kind of address, for endpoints that rank.
        statuses: Statuses of success, and of "not ready".
        media_type: Media type of the answer; empty for none.
        is_probe: Whether it is a health check or similar, whose successes are not logged.
        verb: HTTP method; by default POST for endpoints that rank, GET for others.
        described: Additions to the description, for endpoints that take or return files.
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
        """The HTTP method. GET includes HEAD."""
        return self.verb or ("GET" if self.ranking is None else "POST")


def _ranking_endpoints() -> Iterator[Endpoint]:
    for route, paths in RANKING_PATHS.items():
        handler = partial(rank, route=route)
        yield from (Endpoint(path, handler, _SUMMARIES[route], ranking=route) for path in paths)


def endpoints(settings: ServiceSettings) -> tuple[Endpoint, ...]:
    """Return every endpoint that answers with data; pages and files are added by the app."""
    about = (
        Endpoint("/info", info.info, "Model and limits of the service"),
        Endpoint("/models", info.models, "List the model, in OpenAI's format"),
        Endpoint("/v1/models", info.models, "List the model, in OpenAI's format"),
        Endpoint("/v1/models/{id:path}", info.model, "The model, in OpenAI's format"),
        Endpoint("/api/v1/models", info.models, "List the model, in OpenAI's format"),
        Endpoint("/meta", info.meta, "The model, in Weaviate's format"),
        Endpoint("/health", info.health, "Liveness check", is_probe=True),
        Endpoint("/ping", info.health, "Liveness check", is_probe=True),
        Endpoint("/ready", info.ready, "Readiness check", statuses=(200, 503), is_probe=True),
        Endpoint("/.well-known/live", info.live, "Liveness check", None, (204,), "", is_probe=True),
        Endpoint(
            "/.well-known/ready",
            info.ready_bare,
            "Readiness check",
            None,
            (204, 503),
            "",
            is_probe=True,
        ),
    )
    reading = Endpoint(
        "/api/read-file",
        files.read_file,
        "Read a file of any encoding and delimiter as a table",
        verb="POST",
        described=files.describe(settings),
    )
    metrics = Endpoint("/metrics", info.metrics, "Metrics for Prometheus", None, (200,), "text/plain", True)
    of_jobs = tuple(_job_endpoints(settings)) if settings.jobs_folder is not None else ()
    return (*_ranking_endpoints(), reading, *of_jobs, *about, *((metrics,) if settings.metrics else ()))


def _job_endpoints(settings: ServiceSettings) -> Iterator[Endpoint]:
    one, listing = "/v1/jobs/{id}", "/v1/jobs"
    table = (
        ("POST", listing, jobs.create, "Upload a file to rank in the background", 202),
        ("GET", listing, jobs.listing, "List the jobs of the API key", 200),
        ("GET", one, jobs.show, "Get a job and its progress", 200),
        ("DELETE", one, jobs.remove, "Cancel a job and delete its files", 204),
        ("GET", f"{one}/result", jobs.result, "Download the result", 200),
        ("GET", f"{one}/rejected", jobs.rejected, "Download the rejected rows", 200),
    )
    for verb, path, handler, summary, status in table:
        described = describe(handler.__name__, settings)
        yield Endpoint(path, handler, summary, statuses=(status,), verb=verb, described=described)


def http_routes(table: Iterable[Endpoint]) -> list[BaseRoute]:
    """Return one route per path, so that the router knows all methods of a path for `Allow`."""
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
