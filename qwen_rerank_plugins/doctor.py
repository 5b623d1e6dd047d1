"""What this machine has, what is configured and from where, and what the engine found out when it was loaded.

Works without torch: then it says what to install. Collects plain JSON types; the command line lays them out.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any

import qwen_rerank_plugins
from qwen_rerank_plugins.config import LoadedConfig, RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.reranker import Reranker

__all__ = ["collect"]

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "pydantic")


def collect(
    loaded: LoadedConfig,
    *,
    load_model: bool = True,
    sections: Iterable[Callable[[RerankConfig], object]] = (),
    make: Callable[..., Reranker] = Reranker,
) -> dict[str, Any]:
    """Examine the machine, and the engine if the model can be loaded.

    Args:
        loaded: The configuration and its sources.
        load_model: False leaves the engine out, and with it the self-check.
        sections: Each reads a section of the configuration, and refuses what is wrong in it.
        make: Builds the reranker that is asked.

    Returns:
        Sections of plain JSON types: packages, machine, torch, settings, engine, problems. `problems` is a list
        of sentences; it is empty when the reranker works.
    """
    problems = [*_section_problems(loaded, sections)]
    return {
        "packages": _packages(),
        "machine": machine_facts(),
        "torch": _torch_facts(problems),
        "settings": _settings(loaded),
        "engine": _engine_facts(loaded, problems, make)
        if load_model
        else {"status": "not loaded (--no-model)"},
        "problems": list(dict.fromkeys(problems)),
    }


def _section_problems(
    loaded: LoadedConfig, sections: Iterable[Callable[[RerankConfig], object]]
) -> Iterator[str]:
    for read in sections:
        try:
            read(loaded.config)
        except ConfigurationError as error:
            yield str(error)


def machine_facts() -> dict[str, Any]:
    """Give the processor's and memory's size, as far as this process may use them."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "cpus_usable": affinity,
        "memory_total_mb": _memory_mb("MemTotal"),
        "memory_available_mb": _memory_mb("MemAvailable"),
        "memory_limit_mb": _cgroup_limit_mb(),
    }


def peak_memory_mb() -> float | None:
    """Give the largest memory that this process ever held, in megabytes, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _packages() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"qwen-rerank-plugins": qwen_rerank_plugins.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _settings(loaded: LoadedConfig) -> dict[str, dict[str, Any]]:
    shown = loaded.config.public_settings()
    return {name: {"value": value, "source": loaded.sources[name]} for name, value in shown.items()}


def _torch_facts(problems: list[str]) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {"installed": False, "install": "pip install 'qwen-rerank-plugins[local]'"}
    except OSError as error:  # a broken library of the wheel's
        problems.append(f"torch cannot be loaded: {error}")
        return {"installed": True, "error": str(error)}
    return {
        "installed": True,
        "version": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call,unused-ignore]
        "cuda_version": torch.version.cuda,
        "cuda_devices": [_cuda_device(index) for index in range(torch.cuda.device_count())],
    }


def _cuda_device(index: int) -> dict[str, Any]:  # pragma: needs cuda
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_mb": properties.total_memory // 10**6,
    }


def _engine_facts(loaded: LoadedConfig, problems: list[str], make: Callable[..., Reranker]) -> dict[str, Any]:
    try:
        with make(loaded.config) as reranker:
            facts = reranker.info()
    except Exception as error:  # noqa: BLE001 (whatever keeps the model from working is what is asked for)
        problems.append(f"{type(error).__name__}: {error}")
        return {"status": "not loaded", "error": problems[-1]}
    check = facts.get("self_check")
    status = check.get("status") if isinstance(check, dict) else check
    if status == "failed":
        problems.append(
            "the self-check failed: the fast path differs from the plain one, which is used instead"
        )
    return facts


def _memory_mb(name: str) -> int | None:
    for line in _read_text("/proc/meminfo").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 // 10**6
    return None


def _cgroup_limit_mb() -> int | None:
    limit = _read_text("/sys/fs/cgroup/memory.max").strip()
    return int(limit) // 10**6 if limit.isdigit() else None


def _processor() -> str:
    for line in _read_text("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 (no path to be built)
            return file.read()
    except OSError:
        return ""
