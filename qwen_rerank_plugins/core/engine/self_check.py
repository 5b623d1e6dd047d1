"""The self-check at the start: does the fast path give what the plain one does, on this machine, for this checkpoint?

Its result is kept in a small file, so that it costs a second or two once, and not at every start.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from qwen_rerank_plugins.core.engine.engine import Engine, reference_log_odds
from qwen_rerank_plugins.core.model.attention import DenseAttention, GroupedAttention
from qwen_rerank_plugins.core.sequences import TokenSequence

__all__ = ["SelfCheck", "run_self_check", "tolerance"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What the self-check found.

    Attributes:
        status: "passed", "failed" (a slower kernel took over), or "skipped".
        attention_backend: The attention that is used.
        max_abs_diff: Largest difference to the plain path in log-odds.
        tolerance: What was allowed.
        cached: The result is an earlier one.
    """

    status: Literal["passed", "failed", "skipped"]
    attention_backend: str
    max_abs_diff: float = 0.0
    tolerance: float = 0.0
    cached: bool = False


def tolerance(engine: Engine) -> float:
    """Largest difference in log-odds that the engine's number format excuses.

    Rounding activations to 8 bits turns differences of the last bit into differences of a whole step, so int8 is
    given what the 16-bit formats are.
    """
    exact = engine.decoder.dtype is torch.float32 and not engine.decoder.is_quantized
    return 1e-4 if exact else 0.1


def run_self_check(engine: Engine, fingerprint: str, cache_file: Path | None) -> SelfCheck:
    """Compare the engine's kernel with the plain path, and put a slower one in its place if they differ.

    Args:
        engine: The engine; its kernel is changed when it fails.
        fingerprint: Of the checkpoint.
        cache_file: Where results are kept; None keeps none.
    """
    key = _key(engine, fingerprint)
    earlier = _read(cache_file).get(key)
    if isinstance(earlier, float) and earlier <= tolerance(engine):
        return SelfCheck("passed", engine.attention_backend.__name__, earlier, tolerance(engine), cached=True)
    check = _compare(engine)
    if check.status == "passed":
        _write(cache_file, key, check)
    return check


def _compare(engine: Engine) -> SelfCheck:
    allowed = tolerance(engine)
    sequences = _sequences(engine.decoder.architecture.vocab_size)
    wanted = reference_log_odds(engine.decoder, sequences, engine.scale)
    difference = _difference(engine, sequences, wanted)
    if difference <= allowed:
        return SelfCheck("passed", engine.attention_backend.__name__, difference, allowed)
    for backend in (GroupedAttention, DenseAttention):
        engine.attention_backend = backend
        if _difference(engine, sequences, wanted) <= allowed:
            break
    logger.warning(
        "the fast attention differs from the plain one by %.3g in log-odds (allowed: %.3g) on %s; using %s",
        difference,
        allowed,
        engine.name,
        engine.attention_backend.__name__,
    )
    return SelfCheck("failed", engine.attention_backend.__name__, difference, allowed)


def _difference(engine: Engine, sequences: list[TokenSequence], wanted: list[float]) -> float:
    """Largest difference, computed twice: with nothing known, and with the prompts' beginnings known."""
    try:
        found = [engine.log_odds(sequences), engine.log_odds(sequences)]
    except Exception:  # a kernel that cannot run here at all
        logger.warning(
            "the attention %s fails on %s", engine.attention_backend.__name__, engine.name, exc_info=True
        )
        return float("inf")
    finally:
        engine.prefixes.clear()
    differences = [abs(a - b) for answers in found for a, b in zip(answers, wanted, strict=True)]
    # A NaN compares false with everything, and must not pass.
    return max(differences) if all(d == d for d in differences) else float("inf")  # noqa: PLR0124


def _sequences(vocab_size: int) -> list[TokenSequence]:
    """Prompts of 150 tokens in all: one root, two heads, tails of equal and of different lengths."""
    draw = random.Random(20)  # noqa: S311 - not for secrets

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocab_size) for _ in range(count))

    root, heads = ids(21), (ids(9), ids(14))
    return [TokenSequence((root, head, ids(size))) for head in heads for size in (1, 12, 12, 28)]


def _key(engine: Engine, fingerprint: str) -> str:
    device = engine.decoder.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    parts = (
        machine,
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
        content = json.loads(cache_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(cache_file: Path | None, key: str, check: SelfCheck) -> None:
    """Add a result; a file that cannot be written costs a second at the next start and nothing else."""
    if cache_file is None:
        return
    content = _read(cache_file)
    content[key] = check.max_abs_diff
    temporary = cache_file.with_name(f"{cache_file.name}.{os.getpid()}")
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        temporary.replace(cache_file)
    except OSError as error:
        logger.debug("the self-check's result could not be kept: %s", error)
