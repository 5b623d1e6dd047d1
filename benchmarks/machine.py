"""Describes the machine: enough to distinguish two machines' figures, and to select number formats."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["describe", "key", "multiplies_bf16"]

FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "bf16", "i8mm", "sve"),
)
"""Instruction sets that decide how fast matrices are multiplied, by Linux's names for them."""


def describe() -> dict[str, Any]:
    """Return the processor, its cores and instruction sets, memory, and the versions of Python and torch."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    family = [info[name] for name in ("cpu family", "model") if name in info]
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cpu_model": "-".join(family),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": _version("torch"),
    }


def key(machine: dict[str, Any]) -> str:
    """Return what two machines share if the same batch size is best on both."""
    fast = [flag for flag in machine["flags"] if flag not in {"avx2", "avx512f", "asimd"}]
    return f"{machine['cpu']} {machine['cpu_model']}, {machine['cores']} cores, {' '.join(fast) or 'plain'}"


def multiplies_bf16(machine: dict[str, Any]) -> bool:
    """Return whether the processor has instructions for bf16 products; others emulate them slowly."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(machine["flags"]))


def _cpuinfo() -> dict[str, str]:
    """Return the first processor of /proc/cpuinfo; empty without that file."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    block = path.read_text(encoding="utf-8").split("\n\n")[0]
    fields = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
