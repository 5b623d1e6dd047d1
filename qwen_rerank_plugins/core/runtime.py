"""What is loaded: a checkpoint, its vocabulary and family, an engine a device, and their scheduler.

Runtimes can be shared: a process then loads a checkpoint once, however many threads and rerankers ask for it.
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
from qwen_rerank_plugins.core.engine.devices import (
    choose_dtype,
    default_batch_tokens,
    keep_freed_memory,
    resolve_devices,
    set_num_threads,
)
from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.engine.self_check import SelfCheck, run_self_check
from qwen_rerank_plugins.core.model.checkpoint import Checkpoint, fingerprint, open_checkpoint
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.quantization import quantizer
from qwen_rerank_plugins.core.model.weights import load_weights, weight_bytes
from qwen_rerank_plugins.core.prompts.families import PromptFamily, get_family
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer, answer_ids, check_family, read_recipe
from qwen_rerank_plugins.core.scheduler.scheduler import Scheduler
from qwen_rerank_plugins.errors import FamilyMismatchError, TensorMismatchError

__all__ = ["Runtime", "acquire_runtime", "load_runtime"]

logger = logging.getLogger(__name__)

QUEUE_BATCHES = 64
"""The queue holds this many batches by default: some seconds of work on a GPU, minutes on a CPU."""


@dataclass(slots=True)
class Runtime:
    """A loaded model.

    Attributes:
        fingerprint: Digest of the checkpoint.
        checks: One self-check an engine.
        load_s: Seconds from the files to ready, self-check included.
    """

    checkpoint: Checkpoint
    tokenizer: PromptTokenizer
    family: PromptFamily
    engines: tuple[Engine, ...]
    scheduler: Scheduler
    fingerprint: str
    checks: tuple[SelfCheck, ...]
    quantization: str
    max_batch_tokens: int
    load_s: float
    references: int = field(default=1)

    def info(self) -> dict[str, Any]:
        """What is loaded and what it did, as plain JSON types."""
        first = self.engines[0]
        check = self.checks[0]
        return {
            "model": self.checkpoint.name,
            "checkpoint": str(self.checkpoint.folder),
            "revision": self.checkpoint.revision,
            "fingerprint": self.fingerprint,
            "family": self.family.name,
            **first.info(),
            "device": ",".join(engine.name for engine in self.engines),
            "quantization": self.quantization,
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
        """Stop the workers; what waits gets `ClosedError`."""
        self.scheduler.close()


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
    more = ("oom_splits", "worker_restarts", "completed", "failed", "rejected", "expired", "cancelled")
    seconds = {"queue_s": round(stats.queue_s, 6), "compute_s": round(stats.compute_s, 6)}
    return {name: getattr(stats, name) for name in names + more} | seconds


def _num_parameters(decoder: Decoder) -> int:
    """Weights that take part in scoring: the head's matrix, of which two rows count, is left out."""
    shape = decoder.architecture
    q = shape.attention.num_heads * shape.attention.head_dim
    kv = shape.attention.num_kv_heads * shape.attention.head_dim
    layer = shape.hidden_size * (2 * q + 2 * kv + 3 * shape.intermediate_size + 2)
    layer += 2 * shape.attention.head_dim * shape.qk_norm + (q + 2 * kv) * shape.qkv_bias
    return shape.vocab_size * shape.hidden_size + shape.num_layers * layer + shape.hidden_size


def load_runtime(config: RerankConfig) -> Runtime:
    """Load what a configuration names.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigurationError: Device, dtype or family are not to be had.
    """
    start = time.perf_counter()
    devices = resolve_devices(config.devices)
    set_num_threads(config.num_threads)
    keep_freed_memory()
    checkpoint = open_checkpoint(config.model, config.revision)
    tokenizer = PromptTokenizer.from_folder(checkpoint.folder)
    family = _family(config.family, checkpoint, tokenizer)
    digest = fingerprint(checkpoint)

    def load_engines() -> tuple[tuple[Engine, ...], tuple[SelfCheck, ...]]:
        engines = tuple(_engine(config, checkpoint, tokenizer, family, device) for device in devices)
        return engines, tuple(_check(config, engine, digest) for engine in engines)

    # In a thread of its own, whose OpenMP threads end with it: those of two threads together outnumber the
    # cores, and then they no longer spin between two products but sleep (a tenth of the time on two cores).
    with ThreadPoolExecutor(1, "qwen-rerank-load") as loader:
        engines, checks = loader.submit(load_engines).result()
    max_batch_tokens = config.max_batch_tokens or default_batch_tokens(devices[0])
    scheduler = Scheduler(
        engines,
        max_batch_tokens=max_batch_tokens,
        max_queue_tokens=config.max_queue_tokens or QUEUE_BATCHES * max_batch_tokens * len(engines),
        admission=config.admission,
    )
    return Runtime(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        family=family,
        engines=engines,
        scheduler=scheduler,
        fingerprint=digest,
        checks=checks,
        quantization=config.quantization,
        max_batch_tokens=max_batch_tokens,
        load_s=time.perf_counter() - start,
    )


def _family(name: str, checkpoint: Checkpoint, tokenizer: PromptTokenizer) -> PromptFamily:
    """The family that is asked for, or the checkpoint's own, proven to fit."""
    recipe = read_recipe(checkpoint.folder)
    if name == "auto":
        by_type = {"qwen2": "mxbai", "zeroentropy": "zerank"}
        name = recipe["family"] if recipe else by_type.get(checkpoint.model_type, "qwen3")
    family = get_family(name)
    if checkpoint.model_type not in family.architectures:
        raise FamilyMismatchError(
            f"family {family.name!r} is for {' and '.join(family.architectures)} checkpoints; "
            f"{checkpoint.name!r} is {checkpoint.model_type}"
        )
    if checkpoint.has_classifier and (family.false_token is None or family.scale != 1):
        raise FamilyMismatchError(
            f"family {family.name!r} scores one answer's logit, which a sequence-classification checkpoint "
            f"such as {checkpoint.name!r} does not have"
        )
    check_family(tokenizer, family, recipe)
    return family


def _engine(
    config: RerankConfig,
    checkpoint: Checkpoint,
    tokenizer: PromptTokenizer,
    family: PromptFamily,
    device: torch.device,
) -> Engine:
    if tokenizer.size > checkpoint.architecture.vocab_size:
        raise TensorMismatchError(
            f"the tokenizer has {tokenizer.size} ids, the embedding {checkpoint.architecture.vocab_size} rows"
        )
    dtype = choose_dtype(config.dtype, device, checkpoint.dtype)
    convert = quantizer(config.quantization)
    weights = load_weights(checkpoint, answer_ids(tokenizer, family), device, dtype, convert)
    decoder = Decoder(checkpoint.architecture, weights)
    return Engine(decoder, scale=family.scale, prefix_bytes=config.prefix_cache_mb << 20)


def _check(config: RerankConfig, engine: Engine, digest: str) -> SelfCheck:
    if not config.self_check:
        return SelfCheck("skipped", engine.attention_backend.__name__)
    return run_self_check(engine, f"{digest} {config.quantization}", _self_check_file())


def _self_check_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "qwen-rerank" / "self-check.json"


_Key = tuple[object, ...]


class _Registry:
    """The runtimes that are shared in this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runtimes: dict[_Key, Runtime] = {}
        self.loading: dict[_Key, threading.Lock] = {}

    def acquire(self, config: RerankConfig) -> Runtime:
        key = _key(config)
        with self.lock:
            gate = self.loading.setdefault(key, threading.Lock())
        with gate:  # one thread loads, the others wait for it; other models load beside it
            with self.lock:
                runtime = self.runtimes.get(key)
                if runtime is not None:
                    runtime.references += 1
                    return runtime
            runtime = load_runtime(config)
            with self.lock:
                self.runtimes[key] = runtime
            return runtime

    def release(self, runtime: Runtime) -> None:
        with self.lock:
            runtime.references -= 1
            if runtime.references > 0:
                return
            self.runtimes = {key: other for key, other in self.runtimes.items() if other is not runtime}
        runtime.close()


_registry = _Registry()


def _fresh_locks() -> None:
    _registry.lock = threading.Lock()
    _registry.loading = {}


os.register_at_fork(after_in_child=_fresh_locks)


def _key(config: RerankConfig) -> _Key:
    """What makes two configurations need different engines."""
    folder = Path(config.model).expanduser()
    model = str(folder.resolve()) if folder.is_dir() else config.model
    return (
        *(model, config.revision, config.family, config.device, config.dtype, config.quantization),
        *(config.max_batch_tokens, config.max_queue_tokens, config.admission),
        *(config.prefix_cache_mb, config.self_check),
    )


def acquire_runtime(config: RerankConfig, *, shared: bool) -> Runtime:
    """A loaded model, the process's own for this configuration if `shared`. Give it back with `release_runtime`."""
    return _registry.acquire(config) if shared else load_runtime(config)


def release_runtime(runtime: Runtime) -> None:
    """Give a runtime back; the last one to do so closes it."""
    _registry.release(runtime)
