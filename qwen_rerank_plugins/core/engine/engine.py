"""Token sequences in, log-odds out, on one device. No strings.

The engine owns the decoder, the prefix cache and the choice of the attention backend.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from qwen_rerank_plugins.core.engine.devices import is_device_lost
from qwen_rerank_plugins.core.engine.prefix_cache import PrefixCache
from qwen_rerank_plugins.core.model.attention import DenseAttention, GroupedAttention, VarlenAttention
from qwen_rerank_plugins.core.model.decoder import AttentionBackend, Decoder
from qwen_rerank_plugins.core.model.packing import PackedForest, pack
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import DeviceLostError, EngineError, EngineOutOfMemoryError

__all__ = ["Engine", "LaunchedBatch", "PreparedBatch", "reference_log_odds", "select_attention"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedBatch:
    """A forest to compute, and the keys and values of its cached nodes."""

    forest: PackedForest
    cached_kv: Mapping[int, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class LaunchedBatch:
    """A forward pass on its way.

    Attributes:
        log_odds: One per prompt, on the CPU; valid after `event`.
        event: Recorded behind the pass and its copy on CUDA; None on a device whose passes are computed by `launch`.
        translate_errors: Context in which errors of torch become those of the package.
    """

    log_odds: Tensor
    event: torch.cuda.Event | None
    translate_errors: Callable[[], AbstractContextManager[None]]

    def is_done(self) -> bool:
        """Return whether `collect` returns or raises without waiting."""
        try:
            return self.event is None or self.event.query()
        except RuntimeError:
            return True

    def collect(self) -> list[float]:
        """Return the log-odds of the prompts, in input order; raises what `Engine.log_odds` raises."""
        with self.translate_errors():
            if self.event is not None:
                self.event.synchronize()
            results: list[float] = self.log_odds.tolist()
            return results


class Engine:
    """One decoder on one device. Not thread-safe: one thread at a time.

    Args:
        decoder: The model.
        scale: Factor from the head's output to the log-odds.
        prefix_cache_bytes: Memory for keys and values of prefixes that recur; 0 disables the cache.
        attention_backend: The attention backend; None selects the fastest for device and dtype.
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
        self.attention_backend = attention_backend or select_attention(decoder.device, decoder.dtype)
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

    def prepare(self, prompts: Sequence[Segment]) -> PreparedBatch:
        """Return the plan of one forward pass; it holds the cached prefixes, which may be evicted before `launch`."""
        forest = pack(prompts, self.prefix_cache)
        nodes = enumerate(forest.nodes)
        return PreparedBatch(
            forest, {index: self.prefix_cache.get(node.segment) for index, node in nodes if node.is_cached}
        )

    def launch(self, prepared: PreparedBatch) -> LaunchedBatch:
        """Start a forward pass behind earlier ones, and return its results to come."""
        forest = prepared.forest
        with self._translate_errors(forest):
            store_kv = self._nodes_to_store(forest) if self.prefix_cache.max_bytes else []
            log_odds, stored_kv = self.decoder.forward(
                forest, self.attention_backend, prepared.cached_kv, store_kv
            )
            for index, tensor in stored_kv.items():  # later passes read them behind this one
                self.prefix_cache.put(forest.nodes[index].segment, tensor)
            # The copy runs behind this pass, and not behind those that are launched before `collect`.
            log_odds, event = (log_odds * self.scale).to("cpu", non_blocking=True), None
            if self.overlaps:
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(self.decoder.device))
            return LaunchedBatch(log_odds, event, partial(self._translate_errors, forest))

    @contextmanager
    def _translate_errors(self, forest: PackedForest) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            self._release_memory()
            raise EngineOutOfMemoryError(_out_of_memory_message(forest, self.name)) from error
        except RuntimeError as error:
            if "allocate memory" in str(error):  # the message of torch's CPU allocator
                self._release_memory()
                raise EngineOutOfMemoryError(_out_of_memory_message(forest, self.name)) from error
            if is_device_lost(self.decoder.device):
                raise DeviceLostError(f"{self.name} is lost: {error}. Restart the process") from error
            raise EngineError(f"the forward pass on {self.name} failed: {error}") from error

    def _nodes_to_store(self, forest: PackedForest) -> list[int]:
        """Return computed roots, and inner nodes that several prompts share.

        A query with one document seldom recurs.
        """
        children = [0] * len(forest.nodes)
        for node in forest.nodes:
            if node.parent >= 0:
                children[node.parent] += 1
        return [
            index
            for index, node in enumerate(forest.nodes)
            if not node.is_cached and children[index] and (node.parent < 0 or children[index] > 1)
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


def select_attention(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """Return the fastest attention backend for a device and a dtype."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        return VarlenAttention
    return GroupedAttention


def reference_log_odds(decoder: Decoder, prompts: Sequence[Segment], scale: float = 1.0) -> list[float]:
    """Return the log-odds of each prompt computed alone, with one dense mask.

    This is the reference that `Engine.log_odds` is compared with: nothing is shared, and no fast attention
    backend is used.
    """
    alone = (_alone(prompt, has_root=decoder.is_quantized) for prompt in prompts)
    return [decoder.forward(pack([prompt]), DenseAttention)[0].item() * scale for prompt in alone]


def _alone(prompt: Segment, *, has_root: bool) -> Segment:
    """Return a prompt as one segment; after its root, if it has one, which is computed with less error in int8."""
    root, *others = prompt.path()
    ids = tuple(chain.from_iterable(segment.ids for segment in others))
    return Segment.after(None, root.ids, ids) if has_root else Segment.after(None, root.ids + ids)


def _out_of_memory_message(forest: PackedForest, name: str) -> str:
    return f"a batch of {forest.num_tokens} tokens does not fit the memory of {name}; lower max_batch_tokens"
