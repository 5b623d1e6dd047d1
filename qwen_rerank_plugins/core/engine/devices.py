"""Device selection, number formats and batch sizes per device."""

from __future__ import annotations

import torch

from qwen_rerank_plugins.errors import ConfigurationError

__all__ = [
    "choose_dtype",
    "default_background_batch_tokens",
    "default_batch_tokens",
    "is_device_lost",
    "raise_mmap_threshold",
    "resolve_devices",
    "set_num_threads",
]

MMAP_THRESHOLD_BYTES = (32 << 20) - (64 << 10)
"""Just below glibc's upper limit for the threshold, its bookkeeping included."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_devices(names: tuple[str, ...]) -> list[torch.device]:
    """Return the devices of these names; "auto" is CUDA's first device, else the CPU, and never MPS.

    Raises:
        ConfigurationError: A device does not exist on this machine, or is named twice.
    """
    devices = [_resolve(name) for name in names]
    if len(set(devices)) != len(devices):
        raise ConfigurationError(f"device {','.join(names)!r} names a device twice; name each once")
    return devices


def _resolve(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigurationError(
            f"device {name!r} does not exist on this machine, where torch sees {count} CUDA devices; "
            f"use one of them, or 'cpu'"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigurationError(
            f"device {name!r} does not exist on this machine, where torch {torch.__version__} has no MPS; use 'cpu'"
        )
    return device


def choose_dtype(requested: str, device: torch.device, checkpoint_dtype: str) -> torch.dtype:
    """Return the dtype of the computation.

    "auto" is a 16-bit type where the device multiplies it in hardware: always on CUDA; on a CPU with AVX-512
    BF16 or AMX, if the checkpoint is stored in bfloat16; never on MPS. Other CPUs emulate bf16 at a fifth of fp32's speed.

    Args:
        requested: "auto" or the name of a dtype.
        device: The device of the computation.
        checkpoint_dtype: The dtype that config.json names.

    Raises:
        ConfigurationError: The device cannot compute in this dtype.
    """
    if requested == "auto":
        return _auto_dtype(device, checkpoint_dtype)
    dtype = _DTYPES[requested]
    if device.type == "mps" and dtype is not torch.float32:
        raise ConfigurationError(f"dtype {requested!r} is not supported on MPS; use 'float32' or 'auto'")
    if device.type == "cpu" and dtype is torch.float16:
        raise ConfigurationError(
            "dtype 'float16' is not supported on a CPU; use 'float32', 'bfloat16' or 'auto'"
        )
    return dtype


def _auto_dtype(device: torch.device, checkpoint_dtype: str) -> torch.dtype:
    if device.type == "cuda":
        if checkpoint_dtype == "float16" or not torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.float16
        return torch.bfloat16
    is_fast = device.type == "cpu" and checkpoint_dtype == "bfloat16" and _cpu_multiplies_bf16()
    return torch.bfloat16 if is_fast else torch.float32


def _cpu_multiplies_bf16() -> bool:
    """Return whether the processor has instructions for bf16 products; torch's own checks are private."""
    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check is not None and check() for check in checks)


def default_batch_tokens(device: torch.device) -> int:
    """Return the default tokens per batch: enough to use the device fully, within its memory."""
    return 32768 if device.type == "cuda" else 4096


def default_background_batch_tokens(device: torch.device) -> int:
    """Return the least tokens per background batch, which an interactive request may have to wait for."""
    return 8192 if device.type == "cuda" else 512


def is_device_lost(device: torch.device) -> bool:
    """Return whether every further operation on a CUDA device fails.

    An illegal access or a device-side assert is sticky: every later call of the process on that context
    fails.
    """
    if device.type != "cuda":
        return False
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return True
    return False


def set_num_threads(num_threads: int | None) -> None:
    """Set the number of torch's threads for the whole process, unless it is None."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)


def raise_mmap_threshold() -> None:
    """Let the C library reuse freed blocks of up to 32 MB instead of returning them to the system.

    glibc maps each block above a threshold anew, and every page of it is a fault. Freeing a mapped block
    raises the threshold to its size, up to 32 MB (mallopt(3), M_MMAP_THRESHOLD); this function frees such a
    block. On the first call in int8 (0.6B shape, 3,800 tokens, two cores) that saves 1,290,000 of 1,340,000
    faults, and takes 7.2 s instead of 9.0.
    """
    torch.empty(MMAP_THRESHOLD_BYTES, dtype=torch.uint8)
