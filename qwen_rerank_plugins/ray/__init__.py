"""More than one machine: the service as a Ray Serve application, bulk scoring as a Ray Data pipeline, files by actors.

    serve run qwen_rerank_plugins.ray:build_app model=demo num_replicas=2

The same scorer and the same HTTP interface as on one machine; nothing of a cluster is programmed here. Needs the extra
`ray`. Importing this module loads no Ray: names are resolved when they are first used, and where Ray is not installed
that raises `MissingDependencyError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qwen_rerank_plugins.errors import MissingDependencyError

if TYPE_CHECKING:
    from qwen_rerank_plugins.ray.actor_pool import ActorPoolScorer, Pool
    from qwen_rerank_plugins.ray.data import rerank_dataset
    from qwen_rerank_plugins.ray.deployment import DeploymentScorer
    from qwen_rerank_plugins.ray.files import rerank_file
    from qwen_rerank_plugins.ray.scaling import ScalingSettings
    from qwen_rerank_plugins.ray.serving import build_app

__all__ = [
    "ActorPoolScorer",
    "DeploymentScorer",
    "Pool",
    "ScalingSettings",
    "build_app",
    "rerank_dataset",
    "rerank_file",
]

_HOMES = {
    "DeploymentScorer": "deployment",
    "Pool": "actor_pool",
    "ActorPoolScorer": "actor_pool",
    "ScalingSettings": "scaling",
    "build_app": "serving",
    "rerank_dataset": "data",
    "rerank_file": "files",
}
"""Public names → the modules that they are in."""

_EXTRA = ("ray", "pyarrow", "pandas", "fastapi", "starlette", "uvicorn", "prometheus_client")


def __getattr__(name: str) -> Any:
    """Resolve a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
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
