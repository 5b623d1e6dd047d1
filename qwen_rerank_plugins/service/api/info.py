"""Handlers about the service: `/info` as in TEI, models as in OpenAI's API, health checks, Weaviate's `/meta`."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.service.app_state import AppState, app_state_of, public_name
from qwen_rerank_plugins.service.jobs.spec import formats
from qwen_rerank_plugins.service.metrics import MEDIA_TYPE
from qwen_rerank_plugins.service.schemas.json_codec import dump_json

__all__ = ["health", "info", "live", "meta", "metrics", "model", "models", "ready", "ready_bare"]

STARTED_S = int(time.time())

# Keys of the scorer's information that are public. Others, such as the checkpoint's folder, describe the machine.
_PUBLIC_KEYS = (
    "family",
    "quantization",
    "attention_backend",
    "num_parameters",
    "load_s",
    "self_check",
    "weight_format",
    "long_documents",
    "calibration",
)


def _json(value: Any, status: int = 200) -> Response:
    return Response(dump_json(value), status, media_type="application/json")


async def health(request: Request) -> Response:  # noqa: ARG001 (a handler's signature)
    """Liveness: the event loop answers. Does not use the engine or device."""
    return _json({"status": "ok"})


async def ready(request: Request) -> Response:
    """Readiness: the model is loaded and answers."""
    state = app_state_of(request)
    state.lifecycle.check_ready()
    return _json({"status": "ready", "model": state.model, "demo": state.config.is_demo})


async def ready_bare(request: Request) -> Response:
    """Readiness for Weaviate, without a body."""
    app_state_of(request).lifecycle.check_ready()
    return Response(status_code=204)


async def live(request: Request) -> Response:  # noqa: ARG001 (a handler's signature)
    """Liveness for Weaviate, without a body."""
    return Response(status_code=204)


async def meta(request: Request) -> Response:
    """Information for Weaviate."""
    return _json({"model": app_state_of(request).model, "version": __version__})


async def models(request: Request) -> Response:
    """List the model in the format of OpenAI's API."""
    return _json({"object": "list", "data": [_model(app_state_of(request))]})


async def model(request: Request) -> Response:
    """Return the model in the format of OpenAI's API; any name is accepted unless `strict_model` is set."""
    state = app_state_of(request)
    state.check_model(request.path_params["id"])
    return _json(_model(state))


def _model(state: AppState) -> dict[str, Any]:
    return {"id": state.model, "object": "model", "created": STARTED_S, "owned_by": "qwen-rerank-plugins"}


async def info(request: Request) -> Response:
    """Return model and limits: TEI's fields, which Dify reads, and our own."""
    return _json(_info(app_state_of(request)))


def _info(state: AppState) -> dict[str, Any]:
    loaded, settings, lifecycle = state.lifecycle.loaded_info, state.settings, state.lifecycle
    return {
        "model_id": state.model,
        "model_sha": loaded.get("revision"),
        "model_dtype": loaded.get("dtype") or "unknown",
        "served_model_name": state.model,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": settings.max_connections,
        "max_input_length": loaded.get("max_length") or state.config.max_length,
        "max_batch_tokens": loaded.get("max_batch_tokens") or 0,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_documents,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "model": state.model,
        "device": loaded.get("device"),
        "dtype": loaded.get("dtype"),
        "backend": state.config.backend,
        "ready": state.is_ready,
        "state": lifecycle.state,
        "is_demo": state.config.is_demo,
        "limits": _limits(state),
        "jobs": _jobs(state),
        "adapters": [
            {"model": public_name(adapter["model"]), "weight": adapter["weight"]}
            for adapter in loaded.get("adapters") or ()
        ],
        **{name: loaded[name] for name in _PUBLIC_KEYS if name in loaded},
    }


def _limits(state: AppState) -> dict[str, Any]:
    names = ("max_body_bytes", "max_documents", "max_pairs", "max_query_chars", "max_document_chars")
    limits = {name: getattr(state.settings, name) for name in names}
    return limits | {"request_timeout_s": state.settings.request_timeout_s}


def _jobs(state: AppState) -> dict[str, Any] | None:
    """Return formats and limits of uploads, or None if they are disabled."""
    if state.jobs is None:
        return None
    settings = state.settings
    return {
        "formats": list(formats()),
        "max_upload_bytes": settings.jobs_max_upload_bytes,
        "max_rows": settings.jobs_max_rows,
        "max_jobs": settings.jobs_max_per_key,
        "retention_s": settings.jobs_retention_s,
    }


async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    state = app_state_of(request)
    return Response(await state.in_thread(state.metrics.render), media_type=MEDIA_TYPE)
