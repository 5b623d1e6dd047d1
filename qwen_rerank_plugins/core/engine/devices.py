"""What a device can do: which one to take, which dtype is fastest there, how much fits into a batch."""

from __future__ import annotations

import torch

from qwen_rerank_plugins.errors import ConfigurationError

__all__ = [
    "choose_dtype",
    "default_batch_tokens",
    "is_device_lost",
    "keep_freed_memory",
    "resolve_devices",
    "set_num_threads",
]

LARGEST_KEPT_BLOCK = (32 << 20) - (64 << 10)
"""Just below glibc's own limit for the threshold, its bookkeeping included."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_devices(names: tuple[str, ...]) -> list[torch.device]:
    """Devices by name; "auto" is all of CUDA's first device, else the CPU.

    Raises:
        ConfigurationError: A device is not on this machine, or is named twice.
    """
    devices = [_resolve(name) for name in names]
    if len(set(devices)) != len(devices):
        raise ConfigurationError(f"device {','.join(names)!r} names a device twice")
    return devices


def _resolve(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigurationError(f"device {name!r} is not on this machine; torch sees {count} CUDA devices")
    return device


def choose_dtype(wanted: str, device: torch.device, stored: str) -> torch.dtype:
    """The dtype of the computation.

    "auto" is 16 bits where the device multiplies them in hardware: on CUDA always, on CPU where the processor has
    AVX-512 BF16 or AMX and the checkpoint is stored so. Elsewhere a CPU emulates bf16 at a fifth of fp32's speed.

    Args:
        wanted: "auto" or a name.
        device: Where it runs.
        stored: The dtype that the checkpoint names.

    Raises:
        ConfigurationError: The device cannot compute in it.
    """
    if wanted == "auto":
        return _auto_dtype(device, stored)
    dtype = _DTYPES[wanted]
    if device.type == "cpu" and dtype is torch.float16:
        raise ConfigurationError("dtype 'float16' is for GPUs; on a CPU use 'float32', 'bfloat16' or 'auto'")
    return dtype


def _auto_dtype(device: torch.device, stored: str) -> torch.dtype:
    if device.type == "cuda":
        if stored == "float16" or not torch.cuda.is_bf16_supported():
            return torch.float16
        return torch.bfloat16
    return torch.bfloat16 if stored == "bfloat16" and _cpu_multiplies_bf16() else torch.float32


def _cpu_multiplies_bf16() -> bool:
    """Whether the processor has instructions for bf16 products (torch keeps its answer private)."""
    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check is not None and check() for check in checks)


def default_batch_tokens(device: torch.device) -> int:
    """Tokens of a batch: enough to keep the device busy, few enough to fit and to let others in soon."""
    return 4096 if device.type == "cpu" else 32768


def is_device_lost(device: torch.device) -> bool:
    """Return whether no operation succeeds on a CUDA device any more.

    An illegal access or a device-side assert is sticky: every later call of the process on that context fails.
    """
    if device.type != "cuda":
        return False
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return True
    return False


def set_num_threads(num_threads: int | None) -> None:
    """Set torch's threads, for the whole process, if a number is given."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)


def keep_freed_memory() -> None:
    """Let the C library keep blocks of up to 32 MB that were freed, for the next layer, in place of giving them back.

    glibc maps a block above a threshold anew each time, and every page of it is a fault. The threshold rises, up to 32 MB,
    to the size of the largest mapped block that was freed (mallopt(3), M_MMAP_THRESHOLD); so one is. On the first call in
    int8 (0.6B shape, 3,800 tokens, two cores) that is 50,000 faults in place of 1,340,000, and 7.2 s in place of 9.0.
    """
    torch.empty(LARGEST_KEPT_BLOCK, dtype=torch.uint8)
