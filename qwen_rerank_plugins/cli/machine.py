"""Processor and memory of this machine, as plain JSON types."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

__all__ = ["machine_facts", "peak_memory_mb"]


def machine_facts() -> dict[str, Any]:
    """Return the platform, the processor, and the memory that this process may use."""
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
    """Return the peak resident memory of this process in megabytes, or None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


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
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 (faster than a Path)
            return file.read()
    except OSError:
        return ""
