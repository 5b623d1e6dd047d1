"""OpenTelemetry traces of requests. Spans contain paths and statuses, no bodies."""

from __future__ import annotations

from fastapi import FastAPI

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.errors import MissingDependencyError

__all__ = ["instrument"]

UNTRACED = "/health,/ready,/ping,/metrics,/.well-known,/static"
SERVICE_NAME = "qwen-rerank"


def instrument(app: FastAPI) -> None:
    """Add tracing middleware to an app, so that each request is a span. Call it last, so that it is outermost.

    Spans go to the tracer provider of the process. Without one, spans are exported by OTLP as configured by the standard
    variables `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_SERVICE_NAME`.

    Raises:
        MissingDependencyError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.util.http import parse_excluded_urls

        _ensure_provider()
    except ModuleNotFoundError as error:
        message = f"tracing needs {error.name!r}: pip install 'qwen-rerank-plugins[otel]'"
        raise MissingDependencyError(message) from error
    app.add_middleware(
        OpenTelemetryMiddleware,
        excluded_urls=parse_excluded_urls(UNTRACED),
        exclude_spans=["receive", "send"],
    )


def _ensure_provider() -> None:
    from opentelemetry import trace

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Environment variables take precedence.
    resource = Resource.create({"service.name": SERVICE_NAME, "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
