"""Scoring on a Ray cluster: the service on Ray Serve, datasets on Ray Data, files by a pool of actors.

    serve run qwen_rerank_plugins.ray:build_app model=demo num_replicas=2

The scorer and the HTTP interface are those of one machine. Needs the extra `ray`. Importing this module does not import
Ray: names are resolved on first use, which raises `MissingDependencyError` if Ray is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qwen_rerank_plugins.errors import MissingDependencyError

if TYPE_CHECKING:
    from qwen_rerank_plugins.ray.actor_pool import ActorPoolScorer, ActorPoolSettings
    from qwen_rerank_plugins.ray.data import rerank_dataset
    from qwen_rerank_plugins.ray.deployment import DeploymentScorer
    from qwen_rerank_plugins.ray.files import rerank_file
    from qwen_rerank_plugins.ray.scaling import ScalingSettings
    from qwen_rerank_plugins.ray.serving import build_app

__all__ = [
    "ActorPoolScorer",
    "ActorPoolSettings",
    "DeploymentScorer",
    "ScalingSettings",
    "build_app",
    "rerank_dataset",
    "rerank_file",
]

_MODULES = {
    "ActorPoolScorer": "actor_pool",
    "ActorPoolSettings": "actor_pool",
    "DeploymentScorer": "deployment",
    "ScalingSettings": "scaling",
    "build_app": "serving",
    "rerank_dataset": "data",
    "rerank_file": "files",
}
"""Public name → its module."""

_EXTRA = (
    "ray",
    "pyarrow",
    "pandas",
    "fastapi",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "pythonjsonlogger",
)


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        message = f"{__name__}.{name} needs {package!r}: pip install 'qwen-rerank-plugins[ray]'"
        raise MissingDependencyError(message) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
