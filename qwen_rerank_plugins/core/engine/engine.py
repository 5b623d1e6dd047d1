"""Token sequences in, log-odds out, on one device. No strings.

The engine owns the decoder, the prefix cache and the choice of the attention backend. A batch takes three steps:
`prepare` plans it on the host, `launch` hands it to the device, and `LaunchedBatch.collect` waits for the results. On
CUDA the device computes between the last two, so that the host can prepare the next batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

from qwen_rerank_plugins.core.engine.devices import is_device_lost
from qwen_rerank_plugins.core.engine.prefix_cache import PrefixCache
from qwen_rerank_plugins.core.model.attention import DenseAttention, ForestAttention, GroupedAttention
from qwen_rerank_plugins.core.model.decoder import AttentionBackend, Decoder, Plan
from qwen_rerank_plugins.core.model.packing import PackedForest, pack
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import DeviceLostError, EngineError, EngineOutOfMemoryError

__all__ = ["Engine", "LaunchedBatch", "reference_log_odds", "select_attention"]

logger = logging.getLogger(__name__)

WARM_UP_LENGTH = 512
"""Tokens of each prompt of the batch that tests the memory."""


@dataclass(frozen=True, slots=True, eq=False)
class LaunchedBatch:
    """A batch on the device.

    Attributes:
        log_odds: One per prompt, on the CPU; valid after `computed`.
        computed: Recorded behind the batch and its copy on CUDA; None on a device whose batches `launch` computes.
        translated_errors: Context in which errors of torch become those of the package.
    """

    log_odds: Tensor
    computed: torch.cuda.Event | None
    translated_errors: Callable[[], AbstractContextManager[None]]

    def is_done(self) -> bool:
        """Return whether `collect` returns or raises without waiting."""
        try:
            return self.computed is None or self.computed.query()
        except RuntimeError:
            return True

    def collect(self) -> list[float]:
        """Wait for the log-odds and return them, in the order of the prompts.

        Raises:
            EngineOutOfMemoryError: The batch does not fit the device's memory.
            DeviceLostError: The device is unusable for the rest of this process.
            EngineError: torch raised another error.
        """
        with self.translated_errors():
            if self.computed is not None:
                self.computed.synchronize()
            results: list[float] = self.log_odds.tolist()
            return results


class Engine:
    """One decoder on one device. Not thread-safe: one thread at a time.

    Args:
        decoder: The model.
        scale: Factor from the head's output to the log-odds.
        prefix_cache_bytes: Memory for keys and values of prefixes that recur; 0 disables the cache.
        attention_backend: The attention backend; None selects the fastest for the device.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        scale: float = 1.0,
        prefix_cache_bytes: int = 0,
        attention_backend: AttentionBackend | None = None,
    ) -> None:
        self.decoder = decoder
        self.scale = scale
        self.attention_backend = attention_backend or select_attention(decoder.device)
        self.prefix_cache = PrefixCache(prefix_cache_bytes)

    @property
    def name(self) -> str:
        """The device, such as "cpu" or "cuda:0"."""
        return str(self.decoder.device)

    @property
    def overlaps(self) -> bool:
        """Whether `launch` returns before the results are computed."""
        return self.decoder.device.type == "cuda"

    def log_odds(self, prompts: Sequence[Segment]) -> list[float]:
        """Return the log-odds of prompts, in input order, from one forward pass.

        Raises:
            EngineOutOfMemoryError: The batch does not fit the device's memory.
            DeviceLostError: The device is unusable for the rest of this process.
            EngineError: torch raised another error.
        """
        return self.launch(self.prepare(prompts)).collect() if prompts else []

    def prepare(self, prompts: Sequence[Segment]) -> Plan:
        """Plan a batch of at least one prompt on the host; it holds its cached prefixes, which may be evicted.

        Raises:
            EngineOutOfMemoryError: The host's memory does not suffice.
            EngineError: torch raised another error.
        """
        forest = pack(prompts, self.prefix_cache)
        cached_kv = [self.prefix_cache.get(node.segment) for node in forest.nodes if node.is_cached]
        store_kv = self._nodes_to_store(forest) if self.prefix_cache.max_bytes else []
        with self._translated_errors(forest):
            return self.decoder.plan(forest, self.attention_backend, cached_kv, store_kv)

    def launch(self, plan: Plan) -> LaunchedBatch:
        """Hand a batch to the device. On CUDA this returns before it is computed.

        Raises:
            EngineOutOfMemoryError: The batch does not fit the device's memory.
            DeviceLostError: The device is unusable for the rest of this process.
            EngineError: torch raised another error.
        """
        forest = plan.layout.forest
        with self._translated_errors(forest):
            log_odds, stored_kv = self.decoder.forward(plan)
            # Later batches, which run behind this one, may read what it stores.
            for index, tensor in zip(plan.store_kv, stored_kv, strict=True):
                self.prefix_cache.put(forest.nodes[index].segment, tensor)
            # On CUDA the copy runs behind this batch, and not behind those that are launched before `collect`. MPS has no event
            # here that says when a copy is complete, so it is waited for.
            log_odds, computed = (log_odds * self.scale).to("cpu", non_blocking=self.overlaps), None
            if self.overlaps:
                # Blocking: a thread that waits for the device leaves the processor to others.
                computed = torch.cuda.Event(blocking=True)
                computed.record(torch.cuda.current_stream(self.decoder.device))
            return LaunchedBatch(log_odds, computed, partial(self._translated_errors, forest))

    @contextmanager
    def _translated_errors(self, forest: PackedForest) -> Iterator[None]:
        """Raise torch's errors about a batch as this package's."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            self._release_memory()
            raise EngineOutOfMemoryError(_out_of_memory_message(forest, self.name)) from error
        except RuntimeError as error:
            # The messages of torch's allocators for CPU and MPS.
            if any(text in str(error) for text in ("allocate memory", "out of memory")):
                self._release_memory()
                raise EngineOutOfMemoryError(_out_of_memory_message(forest, self.name)) from error
            if is_device_lost(self.decoder.device):
                raise DeviceLostError(f"{self.name} is lost: {error}. Restart the process") from error
            raise EngineError(f"the forward pass on {self.name} failed: {error}") from error

    def warm_up(self, max_batch_tokens: int) -> int:
        """Compute one batch of this size, and return the tokens per batch that the device's memory allows.

        The kernels are compiled and the memory is reserved here, not in the first request. On a CPU nothing is
        computed: its memory is not reserved, and the system's is shared.

        Raises:
            EngineError: A batch of one short prompt does not fit, or torch raised another error.
        """
        tokens = max_batch_tokens
        while self.overlaps:
            lengths = [WARM_UP_LENGTH] * (tokens // WARM_UP_LENGTH) or [tokens]
            prompts = [Segment.after(None, (number,) * length) for number, length in enumerate(lengths)]
            try:
                self.log_odds(prompts)
            except EngineOutOfMemoryError:
                if tokens <= WARM_UP_LENGTH:
                    raise
                tokens //= 2
            else:
                break
            finally:
                self.prefix_cache.clear()
        return tokens

    def _nodes_to_store(self, forest: PackedForest) -> list[int]:
        """Return computed roots, and inner nodes that several prompts share, as far as the cache may hold them.

        A query with one document seldom recurs.
        """
        children = [0] * len(forest.nodes)
        for node in forest.nodes:
            if node.parent >= 0:
                children[node.parent] += 1
        candidates = [
            index
            for index, node in enumerate(forest.nodes)
            if not node.is_cached and children[index] and (node.parent < 0 or children[index] > 1)
        ]
        token_bytes = self.decoder.architecture.kv_numbers_per_token * self.decoder.dtype.itemsize
        sizes = accumulate(len(forest.nodes[index].ids) * token_bytes for index in candidates)
        return [
            index
            for index, size in zip(candidates, sizes, strict=True)
            if size <= self.prefix_cache.max_bytes
        ]

    def _release_memory(self) -> None:
        self.prefix_cache.clear()
        if self.decoder.device.type == "cuda":
            torch.cuda.empty_cache()

    def after_fork(self) -> None:
        """Make the engine usable in a forked child.

        Raises:
            EngineError: The engine is on CUDA, which does not survive a fork.
        """
        if self.decoder.device.type == "cuda":
            raise EngineError(
                "CUDA cannot be used in a forked child; start processes with 'spawn', or load the model in the child"
            )
        # The parent's OpenMP threads do not exist here; waiting for them would hang.
        torch.set_num_threads(1)

    def info(self) -> dict[str, Any]:
        """Return device, dtype, attention backend, invariance and prefix cache as plain JSON types."""
        return {
            "device": self.name,
            "dtype": str(self.decoder.dtype).removeprefix("torch."),
            "attention_backend": self.attention_backend.__name__,
            "batch_invariant": self.decoder.is_batch_invariant,
            "prefix_cache": {
                "entries": len(self.prefix_cache),
                "bytes": self.prefix_cache.num_bytes,
                "max_bytes": self.prefix_cache.max_bytes,
                "hits": self.prefix_cache.hits,
                "misses": self.prefix_cache.misses,
            },
        }


def select_attention(device: torch.device) -> AttentionBackend:
    """Return the fastest attention backend for a device."""
    return ForestAttention if device.type == "cuda" else GroupedAttention


def reference_log_odds(decoder: Decoder, prompts: Sequence[Segment], scale: float = 1.0) -> list[float]:
    """Return the log-odds of each prompt computed alone, with one dense mask.

    This is the reference that `Engine.log_odds` is compared with: nothing is shared, and neither a fast attention
    backend nor a kernel of this package is used.
    """
    decoder = (
        Decoder(decoder.architecture, decoder.weights, use_kernels=False) if decoder.use_kernels else decoder
    )
    alone = (_alone(prompt, has_root=decoder.is_quantized) for prompt in prompts)
    plans = (decoder.plan(pack([prompt]), DenseAttention) for prompt in alone)
    return [decoder.forward(plan)[0].item() * scale for plan in plans]


def _alone(prompt: Segment, *, has_root: bool) -> Segment:
    """Return a prompt as one segment; after its root, if it has one, which is computed with less error in int8."""
    root, *others = prompt.path()
    ids = tuple(chain.from_iterable(segment.ids for segment in others))
    return Segment.after(None, root.ids, ids) if has_root else Segment.after(None, root.ids + ids)


def _out_of_memory_message(forest: PackedForest, name: str) -> str:
    return f"a batch of {forest.num_tokens} tokens does not fit the memory of {name}; lower max_batch_tokens"
