"""The self-check at loading: compares the attention backend with the reference, on this machine.

The result is cached per checkpoint in a small file, so that the check costs a second or two once, not at
every start.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.core.engine.engine import Engine, reference_log_odds
from qwen_rerank_plugins.core.model.attention import DenseAttention, GroupedAttention
from qwen_rerank_plugins.core.model.decoder import AttentionBackend, Decoder
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import EngineError

__all__ = ["SelfCheck", "run_self_check", "tolerance"]

logger = logging.getLogger(__name__)

EXACT_TOLERANCE = 1e-4
ROUNDING_FACTOR = 4.0
"""A backend may differ from the reference by this multiple of what the reference differs from itself."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """Result of the self-check.

    Attributes:
        status: "passed"; "failed", if a slower attention backend replaced the preferred one; or "skipped".
        attention_backend: The attention backend in use.
        max_abs_diff: Largest difference of that backend to the reference, in log-odds; None if it was not
            compared.
        tolerance: Largest difference that passes.
        cached: Whether the result was read from the cache file.
        reason: Why the preferred backend failed; None if it passed.
    """

    status: Literal["passed", "failed", "skipped"]
    attention_backend: str
    max_abs_diff: float | None = None
    tolerance: float = 0.0
    cached: bool = False
    reason: str | None = None


def tolerance(engine: Engine) -> float:
    """Return the largest difference in log-odds that the engine's number format explains in any model.

    Rounding activations to 8 bits turns a difference in the last bit into one of a whole step, so int8 has
    the tolerance of the 16-bit formats.
    """
    exact = engine.decoder.dtype is torch.float32 and not engine.decoder.is_quantized
    return EXACT_TOLERANCE if exact else 0.1


def _measured_tolerance(engine: Engine, prompts: list[Segment], expected: list[float]) -> float:
    """Return the largest difference that this model explains in the engine's number format.

    Formats other than fp32 round each layer's result, and a deep model enlarges the error. The reference backend
    shows it: packed, it computes the same in another order. A wrong backend changes scores by about their
    standard deviation, so half of it is never tolerated.
    """
    least = tolerance(engine)
    if least == EXACT_TOLERANCE:
        return least
    plain = Decoder(engine.decoder.architecture, engine.decoder.weights, use_kernels=False)
    packed = Engine(plain, scale=engine.scale, attention_backend=DenseAttention)
    rounding = _max_difference(packed, prompts, expected)
    if isinstance(rounding, str):
        return least
    return max(least, min(ROUNDING_FACTOR * rounding, statistics.pstdev(expected) / 2))


def run_self_check(engine: Engine, fingerprint: str, cache_file: Path | None) -> SelfCheck:
    """Compare the engine's attention backend with the reference; on failure, select a slower one on a CPU.

    Args:
        engine: The engine. Its attention backend changes when the preferred one fails.
        fingerprint: Digest of the checkpoint.
        cache_file: File of earlier results; None disables caching.

    Raises:
        EngineError: No attention backend matches the reference.
    """
    key = _cache_key(engine, fingerprint)
    match _read(cache_file).get(key):
        case [float(difference), float(allowed)] if difference <= allowed:
            return SelfCheck("passed", engine.attention_backend.__name__, difference, allowed, cached=True)
    check = _select_passing_backend(engine)
    if check.status == "passed":
        _write(cache_file, key, check)
    return check


def _select_passing_backend(engine: Engine) -> SelfCheck:
    sequences = _probe_prompts(engine.decoder.architecture.vocab_size)
    expected = reference_log_odds(engine.decoder, sequences, engine.scale)
    allowed = _measured_tolerance(engine, sequences, expected)
    reasons: list[str] = []
    for backend in dict.fromkeys((engine.attention_backend, *_slower_backends(engine.decoder.device))):
        engine.attention_backend = backend
        difference = _max_difference(engine, sequences, expected)
        if isinstance(difference, float) and difference <= allowed:
            break
        fault = (
            difference
            if isinstance(difference, str)
            else f"differs from the reference by {difference:.3g} in log-odds"
        )
        reasons.append(f"{backend.__name__} {fault}")
    else:
        raise EngineError(
            f"no attention backend passes the self-check on {engine.name} (tolerance {allowed:.3g}): "
            f"{'; '.join(reasons)}. The weights may be damaged, or the dtype {engine.decoder.dtype} too narrow for "
            f"them; set self_check to False to load the model without the check"
        )
    if not reasons:
        return SelfCheck("passed", backend.__name__, difference, allowed)
    logger.warning(
        "self-check on %s: %s (tolerance %.3g); using %s",
        *(engine.name, "; ".join(reasons), allowed, backend.__name__),
    )
    return SelfCheck("failed", backend.__name__, difference, allowed, reason=reasons[0])


def _slower_backends(device: torch.device) -> tuple[AttentionBackend, ...]:
    """Return the backends that may replace the preferred one; on CUDA they are far too slow to serve with."""
    return (GroupedAttention, DenseAttention) if device.type == "cpu" else ()


def _max_difference(engine: Engine, prompts: list[Segment], expected: list[float]) -> float | str:
    """Return the largest difference, without and with cached prefixes, or why the backend failed."""
    try:
        actual = [*engine.log_odds(prompts), *engine.log_odds(prompts)]
    except Exception as error:  # noqa: BLE001 - for example a kernel that this device cannot run
        return f"raised {type(error).__name__}: {error}"
    finally:
        engine.prefix_cache.clear()
    differences = [abs(a - b) for a, b in zip(actual, expected * 2, strict=True)]
    return max(differences) if all(map(math.isfinite, differences)) else "returned NaN or infinity"


def _probe_prompts(vocab_size: int) -> list[Segment]:
    """Return prompts of 150 tokens in total: one root, two queries, documents of equal and unequal lengths."""
    rng = random.Random(20)  # noqa: S311 - not for secrets

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocab_size) for _ in range(count))

    root, queries = ids(21), (ids(9), ids(14))
    return [Segment.after(None, root, query, ids(size)) for query in queries for size in (1, 12, 12, 28)]


def _cache_key(engine: Engine, fingerprint: str) -> str:
    device = engine.decoder.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    parts = (
        machine,
        __version__,
        torch.__version__,
        str(engine.decoder.dtype),
        engine.attention_backend.__name__,
        fingerprint,
    )
    return " | ".join(parts)


def _processor() -> str:
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"


def _read(cache_file: Path | None) -> dict[str, Any]:
    if cache_file is None:
        return {}
    try:
        results = json.loads(cache_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def _write(cache_file: Path | None, key: str, check: SelfCheck) -> None:
    """Add a result; if the file cannot be written, the next start repeats the check."""
    if cache_file is None:
        return
    results = _read(cache_file)
    results[key] = [check.max_abs_diff, check.tolerance]
    temporary = cache_file.with_name(f"{cache_file.name}.{os.getpid()}")
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(results, indent=1), encoding="utf-8")
        temporary.replace(cache_file)
    except OSError as error:
        logger.debug("the result of the self-check could not be written: %s", error)
