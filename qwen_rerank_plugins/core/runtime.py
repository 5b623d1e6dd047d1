"""A loaded model: checkpoint, tokenizer, prompt family, one engine per device, and their scheduler.

Runtimes can be shared: a process then loads a checkpoint once, for any number of threads and rerankers.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.checkpoints.checkpoint import Checkpoint, fingerprint, open_checkpoint
from qwen_rerank_plugins.core.checkpoints.weights import load_weights, weight_bytes
from qwen_rerank_plugins.core.engine.devices import (
    choose_dtype,
    default_background_batch_tokens,
    default_batch_tokens,
    raise_mmap_threshold,
    resolve_devices,
    set_num_threads,
)
from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.engine.self_check import SelfCheck, run_self_check
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.int8 import linear_converter
from qwen_rerank_plugins.core.prompts.families import PromptFamily, get_family
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer, answer_ids, check_family, read_recipe
from qwen_rerank_plugins.core.scheduler.scheduler import Scheduler
from qwen_rerank_plugins.errors import FamilyMismatchError, TensorMismatchError

__all__ = ["Runtime", "acquire_runtime", "load_runtime"]

logger = logging.getLogger(__name__)

QUEUE_BATCHES = 64
"""Default queue size in batches: some seconds of work on a GPU, minutes on a CPU."""

BACKGROUND_BATCH_S = 0.05
"""A background batch of the default size may grow to what the device computes in this time."""


@dataclass(slots=True)
class Runtime:
    """A loaded model.

    Attributes:
        fingerprint: Digest of the checkpoint.
        checks: One self-check per engine.
        load_s: Seconds from opening the files to ready, self-check included.
        num_references: Scorers that use this runtime.
    """

    checkpoint: Checkpoint
    tokenizer: PromptTokenizer
    family: PromptFamily
    engines: tuple[Engine, ...]
    scheduler: Scheduler
    fingerprint: str
    checks: tuple[SelfCheck, ...]
    max_batch_tokens: int
    load_s: float
    num_references: int = field(default=1)

    def info(self) -> dict[str, Any]:
        """Return the loaded model and its counters as plain JSON types."""
        first = self.engines[0]
        check = self.checks[0]
        return {
            "model": self.checkpoint.name,
            "checkpoint": str(self.checkpoint.folder),
            "weight_format": _weight_format(self.checkpoint, first.decoder),
            "revision": self.checkpoint.revision,
            "adapters": [adapter.info for adapter in self.checkpoint.adapters],
            "fingerprint": self.fingerprint,
            "family": self.family.name,
            "default_instruction": self.family.default_instruction,
            **first.info(),
            "device": ",".join(engine.name for engine in self.engines),
            "quantization": "int8" if first.decoder.is_quantized else "none",
            "num_threads": torch.get_num_threads(),
            "max_batch_tokens": self.max_batch_tokens,
            "num_parameters": _num_parameters(first.decoder),
            "weight_bytes": weight_bytes(first.decoder.weights),
            "load_s": round(self.load_s, 3),
            "self_check": {
                "status": check.status,
                "attention_backend": check.attention_backend,
                "max_abs_diff": check.max_abs_diff,
                "tolerance": check.tolerance,
                "cached": check.cached,
                "reason": check.reason,
            },
            "scheduler": _scheduler_info(self.scheduler),
        }

    def close(self) -> None:
        """Stop the workers; pending requests fail with `ClosedError`."""
        self.scheduler.close()


def _weight_format(checkpoint: Checkpoint, decoder: Decoder) -> str:
    """Return how the weights are stored and, if they are quantised safetensors, what they were loaded as."""
    if checkpoint.quantization is None:
        return checkpoint.weight_format
    if decoder.is_quantized and checkpoint.quantization.is_int8 and not checkpoint.adapters:
        return f"{checkpoint.weight_format}, multiplied as stored"
    return f"{checkpoint.weight_format}, dequantised to {str(decoder.dtype).removeprefix('torch.')}"


def _scheduler_info(scheduler: Scheduler) -> dict[str, Any]:
    stats = scheduler.stats()
    names = (
        "queued_requests",
        "queued_tokens",
        "waiting_requests",
        "batches",
        "sequences",
        "computed_tokens",
    )
    counters = ("oom_splits", "worker_restarts", "completed", "failed", "rejected", "expired", "cancelled")
    seconds = {"queue_s": round(stats.queue_s, 6), "compute_s": round(stats.compute_s, 6)}
    return {name: getattr(stats, name) for name in names + counters} | seconds


def _num_parameters(decoder: Decoder) -> int:
    """Return the number of weights used in scoring, without the head's matrix: two of its rows are used."""
    shape = decoder.architecture
    q = shape.attention.num_heads * shape.attention.head_dim
    kv = shape.attention.num_kv_heads * shape.attention.head_dim
    layer = shape.hidden_size * (2 * q + 2 * kv + 3 * shape.intermediate_size + 2)
    layer += 2 * shape.attention.head_dim * shape.qk_norm + (q + 2 * kv) * shape.qkv_bias
    return shape.vocab_size * shape.hidden_size + shape.num_layers * layer + shape.hidden_size


def load_runtime(config: RerankConfig) -> Runtime:
    """Load the model that a configuration names.

    Raises:
        CheckpointError: The checkpoint is missing, incomplete or unsupported.
        ConfigurationError: The device, dtype or family is unknown or unavailable.
    """
    start = time.perf_counter()
    devices = resolve_devices(config.devices)
    set_num_threads(config.num_threads)
    raise_mmap_threshold()
    checkpoint = open_checkpoint(config.model, config.revision, config.adapter_weights, config.hub)
    stored = checkpoint.tokenizer_json
    tokenizer = PromptTokenizer(stored) if stored else PromptTokenizer.from_folder(checkpoint.folder)
    family = _resolve_family(config.family, checkpoint, tokenizer)
    digest = fingerprint(checkpoint)

    wanted_tokens = config.max_batch_tokens or default_batch_tokens(devices[0])

    def load_engines() -> tuple[tuple[Engine, ...], tuple[SelfCheck, ...], int]:
        engines = tuple(_load_engine(config, checkpoint, tokenizer, family, device) for device in devices)
        checks = tuple(_self_check(config, engine, digest) for engine in engines)
        return engines, checks, min(engine.warm_up(wanted_tokens) for engine in engines)

    # In a separate thread, so that its OpenMP threads end with it. With those of two threads there are more
    # threads than cores, and they sleep between two products instead of spinning (a tenth of the time on two cores).
    with ThreadPoolExecutor(1, "qwen-rerank-load") as loader:
        engines, checks, max_batch_tokens = loader.submit(load_engines).result()
    if max_batch_tokens < wanted_tokens:
        logger.warning(
            "a batch of %d tokens does not fit the device's memory; max_batch_tokens is %d",
            *(wanted_tokens, max_batch_tokens),
        )
    scheduler = Scheduler(
        engines,
        max_batch_tokens=max_batch_tokens,
        max_queue_tokens=config.max_queue_tokens or QUEUE_BATCHES * max_batch_tokens * len(engines),
        admission=config.admission,
        background_batch_tokens=config.background_batch_tokens or default_background_batch_tokens(devices[0]),
        background_batch_s=0.0 if config.background_batch_tokens else BACKGROUND_BATCH_S,
    )
    return Runtime(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        family=family,
        engines=engines,
        scheduler=scheduler,
        fingerprint=digest,
        checks=checks,
        max_batch_tokens=max_batch_tokens,
        load_s=time.perf_counter() - start,
    )


def _resolve_family(name: str, checkpoint: Checkpoint, tokenizer: PromptTokenizer) -> PromptFamily:
    """Return the configured family, or the checkpoint's own, after checking that it fits."""
    recipe = read_recipe(checkpoint.folder)
    if name == "auto":
        by_type = {"qwen2": "mxbai", "zeroentropy": "zerank"}
        name = recipe["family"] if recipe else by_type.get(checkpoint.model_type, "qwen3")
        names = [Path(checkpoint.name).name, *checkpoint.known_names]
        if not recipe and name == "qwen3" and any("zerank" in one.casefold() for one in names):
            raise FamilyMismatchError(
                f"{checkpoint.name!r} seems to be zerank, but its model type is {checkpoint.model_type}, which does not decide it; set "
                f"family to 'zerank', or to 'qwen3' if it is not"
            )
    family = get_family(name)
    if checkpoint.model_type not in family.architectures:
        raise FamilyMismatchError(
            f"family {family.name!r} is for {' and '.join(family.architectures)} checkpoints, but {checkpoint.name!r} "
            f"is {checkpoint.model_type}; set family to 'auto' or to one that fits"
        )
    if checkpoint.has_classifier and (family.false_token is None or family.scale != 1):
        raise FamilyMismatchError(
            f"family {family.name!r} needs the logits of a vocabulary, but {checkpoint.name!r} is a "
            f"sequence-classification checkpoint, which has none; use a causal checkpoint or another family"
        )
    check_family(tokenizer, family, recipe)
    answers = answer_ids(tokenizer, family)
    for trained in checkpoint.trained_answers():
        if trained != answers:
            raise FamilyMismatchError(
                f"{checkpoint.name!r} was trained with the answers' token ids {trained}, but those of family "
                f"{family.name!r} are {answers}; set family to one with these answers"
            )
    return family


def _load_engine(
    config: RerankConfig,
    checkpoint: Checkpoint,
    tokenizer: PromptTokenizer,
    family: PromptFamily,
    device: torch.device,
) -> Engine:
    if tokenizer.size > checkpoint.architecture.vocab_size:
        raise TensorMismatchError(
            f"the tokenizer has {tokenizer.size} ids, the embedding {checkpoint.architecture.vocab_size} rows; "
            f"use the tokenizer that belongs to the weights"
        )
    dtype = choose_dtype(config.dtype, device, checkpoint.dtype)
    shapes = checkpoint.architecture.linear_shapes
    convert = linear_converter(config.quantization, device, dtype, shapes)
    weights = load_weights(checkpoint, answer_ids(tokenizer, family), device, dtype, convert)
    decoder = Decoder(checkpoint.architecture, weights)
    return Engine(decoder, scale=family.scale, prefix_cache_bytes=config.prefix_cache_mb << 20)


def _self_check(config: RerankConfig, engine: Engine, digest: str) -> SelfCheck:
    if not config.self_check:
        return SelfCheck("skipped", engine.attention_backend.__name__)
    return run_self_check(engine, f"{digest} {engine.decoder.number_format}", _self_check_file())


def _self_check_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "qwen-rerank" / "self-check.json"


_ConfigKey = tuple[object, ...]


class _RuntimeRegistry:
    """The shared runtimes of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runtimes: dict[_ConfigKey, Runtime] = {}
        self.loading: dict[_ConfigKey, threading.Lock] = {}

    def acquire(self, config: RerankConfig) -> Runtime:
        key = _config_key(config)
        with self.lock:
            load_lock = self.loading.setdefault(key, threading.Lock())
        with load_lock:  # threads that want the same model wait; other models load in parallel
            with self.lock:
                runtime = self.runtimes.get(key)
                if runtime is not None:
                    runtime.num_references += 1
                    return runtime
            runtime = load_runtime(config)
            with self.lock:
                self.runtimes[key] = runtime
            return runtime

    def release(self, runtime: Runtime) -> None:
        with self.lock:
            runtime.num_references -= 1
            if runtime.num_references > 0:
                return
            self.runtimes = {key: other for key, other in self.runtimes.items() if other is not runtime}
        runtime.close()


_registry = _RuntimeRegistry()


def _reset_locks_in_child() -> None:
    _registry.lock = threading.Lock()
    _registry.loading = {}


os.register_at_fork(after_in_child=_reset_locks_in_child)


def _config_key(config: RerankConfig) -> _ConfigKey:
    """Return the settings that require a separate engine where they differ."""
    adapters = [(_resolved(place), weight) for place, weight in config.adapter_weights.items()]
    return (
        *(_resolved(config.model), config.revision, config.hub, *adapters, config.family),
        *(config.device, config.dtype, config.quantization),
        *(config.max_batch_tokens, config.background_batch_tokens, config.max_queue_tokens, config.admission),
        *(config.prefix_cache_mb, config.self_check),
    )


def _resolved(place: str) -> str:
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() else place


def acquire_runtime(config: RerankConfig, *, shared: bool) -> Runtime:
    """Return a loaded model; if `shared`, the process's own for this configuration.

    Release it with `release_runtime`.
    """
    return _registry.acquire(config) if shared else load_runtime(config)


def release_runtime(runtime: Runtime) -> None:
    """Release a runtime; it is closed with its last reference."""
    _registry.release(runtime)
