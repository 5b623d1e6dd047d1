"""What the handlers of one app share: settings, the engine's life, the gate, figures, threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.service.admission import AdmissionController
from qwen_rerank_plugins.service.jobs.manager import Jobs
from qwen_rerank_plugins.service.lifecycle import Lifecycle
from qwen_rerank_plugins.service.metrics import Metrics
from qwen_rerank_plugins.service.middleware.auth import KeyRing
from qwen_rerank_plugins.service.middleware.request_context import RequestContext
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["Service", "service_of"]

P = ParamSpec("P")
T = TypeVar("T")

LARGE = 1 << 16
"""Bytes from which reading and writing JSON is left to a thread."""

THREADS = 2


def _executor() -> ThreadPoolExecutor:
    # Its own one: asyncio's may be full of tokenising, and an error must not wait for that.
    return ThreadPoolExecutor(THREADS, thread_name_prefix="qwen-rerank-http")


@dataclass(slots=True)
class Service:
    """The parts of one app.

    Attributes:
        config: The reranker's settings.
        settings: The service's own.
        lifecycle: Owns the reranker.
        keys: Who may call.
        gate: Admission.
        metrics: Figures.
        jobs: Uploads, if there is a folder for them.
    """

    config: RerankConfig
    settings: ServiceSettings
    lifecycle: Lifecycle
    keys: KeyRing = field(default_factory=lambda: KeyRing(()))
    gate: AdmissionController = field(init=False)
    metrics: Metrics = field(init=False)
    jobs: Jobs | None = field(init=False, default=None)
    _threads: ThreadPoolExecutor = field(init=False, default_factory=_executor)

    def __post_init__(self) -> None:
        self.gate = AdmissionController(self.settings)
        self.metrics = Metrics(self.gate, self.lifecycle.live_info, self._state_for_metrics)
        if self.settings.jobs_folder is not None:
            self.jobs = Jobs(self.config, self.settings, self.lifecycle, self.gate)
            self.metrics.registry.register(self.jobs.figures)

    @property
    def model(self) -> str:
        """The model's name in answers: the one that is set, else the hub id, or a folder's last part."""
        if self.settings.model_name is not None:
            return self.settings.model_name
        name = self.lifecycle.reranker.model
        return Path(name).name or name if Path(name).is_absolute() or name.startswith((".", "~")) else name

    @property
    def is_demo(self) -> bool:
        """Whether the bundled demo model scores."""
        return self.config.is_demo

    @property
    def is_ready(self) -> bool:
        """Whether requests are served."""
        return self.lifecycle.state == "ready"

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what would hold up the event loop in one of the service's own threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    async def if_large(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run work here if it is small, else in a thread."""
        if size < LARGE:
            return work(*args, **kwargs)
        return await self.in_thread(work, *args, **kwargs)

    def note_done(self, context: RequestContext) -> None:
        """Count an answered request."""
        metrics = self.metrics
        metrics.requests.labels(context.route, context.dialect, str(context.status)).inc()
        metrics.duration.labels(context.route).observe(context.seconds)
        for name, seconds in context.stages.items():
            metrics.stages.labels(name).observe(seconds)
        if context.reason and not context.is_probe:  # a probe that hears no is no request refused
            metrics.rejected.labels(context.reason).inc()

    def close(self) -> None:
        """End the threads, and leave the jobs' folder."""
        if self.jobs is not None:
            self.jobs.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _state_for_metrics(self) -> tuple[bool, dict[str, str]]:
        info: dict[str, Any] = dict(self.lifecycle.loaded_info)
        labels = {name: str(info.get(name) or "") for name in ("revision", "device", "dtype", "quantization")}
        return self.is_ready, {
            "model": self.model,
            "backend": self.config.backend,
            "version": __version__,
            **labels,
        }


def service_of(request: Request) -> Service:
    """The parts of the app that a request came to."""
    service: Service = request.app.state.service
    return service
