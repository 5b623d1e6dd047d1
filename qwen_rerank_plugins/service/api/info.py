"""What the service tells of itself: `/info` as TEI has it, models as OpenAI has them, probes, Weaviate's `/meta`."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.service.app_state import Service, service_of
from qwen_rerank_plugins.service.jobs.spec import formats
from qwen_rerank_plugins.service.metrics import MEDIA_TYPE
from qwen_rerank_plugins.service.schemas.json_codec import dump_json

__all__ = ["health", "info", "live", "meta", "metrics", "models", "ready", "ready_bare"]

STARTED_S = int(time.time())

# Of what the scorer tells; the rest, such as the checkpoint's folder, is the machine's business.
_SHOWN = (
    "family",
    "quantization",
    "attention_backend",
    "num_parameters",
    "load_s",
    "self_check",
    "long_documents",
)


def _json(value: Any, status: int = 200) -> Response:
    return Response(dump_json(value), status, media_type="application/json")


async def health(request: Request) -> Response:  # noqa: ARG001 (a handler's signature)
    """Alive: the event loop answers. Touches neither engine nor device."""
    return _json({"status": "ok"})


async def ready(request: Request) -> Response:
    """Ready: the model answered, and requests are served."""
    service = service_of(request)
    service.lifecycle.check_ready()
    return _json({"status": "ready", "model": service.model, "demo": service.is_demo})


async def ready_bare(request: Request) -> Response:
    """Ready, as Weaviate asks for it: without a body."""
    service_of(request).lifecycle.check_ready()
    return Response(status_code=204)


async def live(request: Request) -> Response:  # noqa: ARG001 (a handler's signature)
    """Alive, as Weaviate asks for it: without a body."""
    return Response(status_code=204)


async def meta(request: Request) -> Response:
    """What Weaviate shows of its reranker."""
    return _json({"model": service_of(request).model, "version": __version__})


async def models(request: Request) -> Response:
    """The one model, as OpenAI lists models."""
    model = {"id": service_of(request).model, "object": "model", "created": STARTED_S}
    return _json({"object": "list", "data": [{**model, "owned_by": "qwen-rerank-plugins"}]})


async def info(request: Request) -> Response:
    """What is served and its limits: TEI's fields, which Dify reads, and our own."""
    return _json(_info(service_of(request)))


def _info(service: Service) -> dict[str, Any]:
    loaded, settings, lifecycle = service.lifecycle.loaded_info, service.settings, service.lifecycle
    return {
        "model_id": service.model,
        "model_sha": loaded.get("revision"),
        "model_dtype": loaded.get("dtype") or "unknown",
        "served_model_name": service.model,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": settings.max_connections,
        "max_input_length": loaded.get("max_length") or service.config.max_length,
        "max_batch_tokens": loaded.get("max_batch_tokens") or 0,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_documents,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "model": service.model,
        "device": loaded.get("device"),
        "dtype": loaded.get("dtype"),
        "backend": service.config.backend,
        "ready": service.is_ready,
        "state": lifecycle.state,
        "is_demo": service.is_demo,
        "limits": _limits(service),
        "jobs": _jobs(service),
        **{name: loaded[name] for name in _SHOWN if name in loaded},
    }


def _limits(service: Service) -> dict[str, Any]:
    names = ("max_body_bytes", "max_documents", "max_pairs", "max_query_chars", "max_document_chars")
    limits = {name: getattr(service.settings, name) for name in names}
    return limits | {"request_timeout_s": service.settings.request_timeout_s}


def _jobs(service: Service) -> dict[str, Any] | None:
    """Whether uploads are taken, and of what kind."""
    if service.jobs is None:
        return None
    settings = service.settings
    return {
        "formats": list(formats()),
        "max_upload_bytes": settings.jobs_max_upload_bytes,
        "max_rows": settings.jobs_max_rows,
        "max_jobs": settings.jobs_max_per_key,
        "retention_s": settings.jobs_retention_s,
    }


async def metrics(request: Request) -> Response:
    """Figures in Prometheus' text format."""
    service = service_of(request)
    return Response(await service.in_thread(service.metrics.render), media_type=MEDIA_TYPE)
