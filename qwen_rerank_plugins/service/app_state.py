"""State shared by the handlers of an app: settings, engine lifecycle, admission, metrics, threads."""

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
from qwen_rerank_plugins.service.errors import Problem, ProblemError
from qwen_rerank_plugins.service.jobs.manager import JobManager
from qwen_rerank_plugins.service.lifecycle import Lifecycle
from qwen_rerank_plugins.service.metrics import Metrics
from qwen_rerank_plugins.service.middleware.auth import KeyRing
from qwen_rerank_plugins.service.middleware.request_context import RequestContext
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["AppState", "app_state_of", "public_name"]

P = ParamSpec("P")
T = TypeVar("T")

LARGE = 1 << 16
"""Size in bytes from which JSON is parsed and written in a thread."""

THREADS = 2


def _executor() -> ThreadPoolExecutor:
    # Not asyncio's default executor, which tokenization may keep busy.
    return ThreadPoolExecutor(THREADS, thread_name_prefix="qwen-rerank-http")


@dataclass(slots=True)
class AppState:
    """The state of one app.

    Attributes:
        config: Settings of the reranker.
        settings: Settings of the service.
        lifecycle: Owns the reranker.
        keys: Accepted API keys.
        admission: Limits pending work.
        metrics: Prometheus metrics.
        jobs: Upload jobs; None without a `jobs_folder`.
        file_reader: The thread that reads files into tables, one after the other.
    """

    config: RerankConfig
    settings: ServiceSettings
    lifecycle: Lifecycle
    keys: KeyRing = field(default_factory=lambda: KeyRing(()))
    admission: AdmissionController = field(init=False)
    metrics: Metrics = field(init=False)
    jobs: JobManager | None = field(init=False, default=None)
    file_reader: ThreadPoolExecutor = field(
        init=False, default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="qwen-rerank-files")
    )
    _threads: ThreadPoolExecutor = field(init=False, default_factory=_executor)

    def __post_init__(self) -> None:
        self.admission = AdmissionController(self.settings)
        self.metrics = Metrics(self.admission, self.lifecycle.live_info, self._state_for_metrics)
        if self.settings.jobs_folder is not None:
            self.jobs = JobManager(self.config, self.settings, self.lifecycle, self.admission)
            self.metrics.registry.register(self.jobs.metrics)

    @property
    def model(self) -> str:
        """Name of the model in answers: `model_name`, or the hub id, or the name of the checkpoint's folder."""
        if self.settings.model_name is not None:
            return self.settings.model_name
        return public_name(self.lifecycle.reranker.model)

    def check_model(self, name: str | None) -> None:
        """Reject another model's name with `strict_model`; None is accepted.

        Raises:
            ProblemError: With status 404.
        """
        if self.settings.strict_model and name not in {None, self.model}:
            message = f"not found: no such model; use {self.model!r} or omit model"
            raise ProblemError(Problem(404, message, reason="model"))

    @property
    def is_ready(self) -> bool:
        """Whether requests are served."""
        return self.lifecycle.state == "ready"

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in a thread of the app."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    async def if_large(self, size: int, work: Callable[[], T]) -> T:
        """Run work directly if its input is small, in a thread otherwise."""
        return work() if size < LARGE else await self.in_thread(work)

    def record_request(self, context: RequestContext) -> None:
        """Record a finished request in the metrics."""
        metrics = self.metrics
        metrics.requests.labels(context.route, context.dialect, str(context.status)).inc()
        metrics.duration.labels(context.route).observe(context.seconds)
        for name, seconds in context.stages.items():
            metrics.stages.labels(name).observe(seconds)
        if context.key_id:
            metrics.key_requests.labels(context.key_id).inc()
            metrics.key_documents.labels(context.key_id).inc(context.num_documents)
            metrics.key_tokens.labels(context.key_id).inc(context.num_tokens)
        if context.reason and not context.is_probe:  # an unsuccessful health check is not a rejected request
            metrics.rejected.labels(context.reason).inc()

    def close(self) -> None:
        """Stop the threads and release the jobs folder."""
        if self.jobs is not None:
            self.jobs.close()
        for threads in (self._threads, self.file_reader):
            threads.shutdown(wait=False, cancel_futures=True)

    def _state_for_metrics(self) -> tuple[bool, dict[str, str]]:
        info: dict[str, Any] = dict(self.lifecycle.loaded_info)
        labels = {name: str(info.get(name) or "") for name in ("revision", "device", "dtype", "quantization")}
        return self.is_ready, {
            "model": self.model,
            "backend": self.config.backend,
            "version": __version__,
            **labels,
        }


def public_name(name: str) -> str:
    """Return a checkpoint's name without the folders that lead to it; a hub id as it is."""
    return Path(name).name or name if Path(name).is_absolute() or name.startswith((".", "~")) else name


def app_state_of(request: Request) -> AppState:
    """Return the state of the app that handles a request."""
    state: AppState = request.app.state.service
    return state
