"""Token sequences in, log-odds out, on one device. No strings.

It owns the decoder, the store of known prompt beginnings and the choice of the attention kernel, and proves at the
start that the kernel computes what the plain one does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from qwen_rerank_plugins.core.engine.devices import is_device_lost
from qwen_rerank_plugins.core.engine.prefix_cache import PrefixCache
from qwen_rerank_plugins.core.model.attention import DenseAttention, GroupedAttention, VarlenAttention
from qwen_rerank_plugins.core.model.decoder import AttentionBackend, Decoder
from qwen_rerank_plugins.core.model.packing import PackedForest, pack
from qwen_rerank_plugins.core.sequences import TokenSequence
from qwen_rerank_plugins.errors import DeviceLostError, EngineError, EngineOutOfMemoryError

__all__ = ["Engine", "reference_log_odds", "select_attention"]

logger = logging.getLogger(__name__)


class Engine:
    """One decoder on one device. One thread at a time.

    Args:
        decoder: The model.
        scale: Factor from the head's output to the log-odds.
        prefix_bytes: Memory for keys and values of prompt beginnings that come again.
        attention_backend: The attention; None takes the fastest that the device has.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        scale: float = 1.0,
        prefix_bytes: int = 0,
        attention_backend: AttentionBackend | None = None,
    ) -> None:
        self.decoder = decoder
        self.scale = scale
        self.attention_backend = attention_backend or select_attention(decoder.device, decoder.dtype)
        self.prefixes = PrefixCache(prefix_bytes)

    @property
    def name(self) -> str:
        """The device, "cpu" or "cuda:0"."""
        return str(self.decoder.device)

    def log_odds(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """Log-odds of prompts, in input order, in one forward pass.

        Raises:
            EngineOutOfMemoryError: The batch does not fit the device's memory.
            DeviceLostError: The device is unusable for the rest of this process.
            EngineError: torch failed in another way.
        """
        if not sequences:
            return []
        forest = pack(sequences, self.prefixes)
        try:
            return self._forward(forest)
        except torch.OutOfMemoryError as error:
            self._release_memory()
            raise EngineOutOfMemoryError(_too_large(forest, self.name)) from error
        except RuntimeError as error:
            if "allocate memory" in str(error):  # how torch's CPU allocator says it
                self._release_memory()
                raise EngineOutOfMemoryError(_too_large(forest, self.name)) from error
            if is_device_lost(self.decoder.device):
                raise DeviceLostError(f"{self.name} is lost: {error}. Restart the process") from error
            raise EngineError(f"the forward pass on {self.name} failed: {error}") from error

    def _forward(self, forest: PackedForest) -> list[float]:
        cached_kv = {i: self.prefixes.get(node.path) for i, node in enumerate(forest.nodes) if node.is_cached}
        store_kv = self._worth_keeping(forest) if self.prefixes.max_bytes else []
        log_odds, kept = self.decoder.forward(forest, self.attention_backend, cached_kv, store_kv)
        answers: list[float] = (log_odds * self.scale).tolist()
        for index, tensor in kept.items():
            self.prefixes.put(forest.nodes[index].path, tensor)
        return answers

    def _worth_keeping(self, forest: PackedForest) -> list[int]:
        """Computed roots, and inner nodes that several prompts share: a query with one document seldom returns."""
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
        self.prefixes.clear()
        if self.decoder.device.type == "cuda":
            torch.cuda.empty_cache()

    def after_fork(self) -> None:
        """Make the engine usable in a forked child.

        Raises:
            EngineError: CUDA does not survive a fork.
        """
        if self.decoder.device.type == "cuda":
            raise EngineError(
                "CUDA cannot be used in a forked child; start processes with 'spawn', or load the model in the child"
            )
        # The parent's OpenMP threads do not exist here, and waiting for them would never end.
        torch.set_num_threads(1)

    def info(self) -> dict[str, Any]:
        """The device, the dtype and what is kept, as plain JSON types."""
        return {
            "device": self.name,
            "dtype": str(self.decoder.dtype).removeprefix("torch."),
            "attention_backend": self.attention_backend.__name__,
            "prefix_cache": {
                "entries": len(self.prefixes),
                "bytes": self.prefixes.num_bytes,
                "max_bytes": self.prefixes.max_bytes,
                "hits": self.prefixes.hits,
                "misses": self.prefixes.misses,
            },
        }


def select_attention(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """The fastest attention that a device has for a dtype."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        return VarlenAttention
    return GroupedAttention


def reference_log_odds(
    decoder: Decoder, sequences: Sequence[TokenSequence], scale: float = 1.0
) -> list[float]:
    """Log-odds with nothing shared and nothing fast: each prompt by itself, one mask. The twin of `Engine.log_odds`."""
    answers = []
    for sequence in sequences:
        whole = TokenSequence((tuple(number for segment in sequence.segments for number in segment),))
        answers.append(decoder.forward(pack([whole]), DenseAttention)[0].item() * scale)
    return answers


def _too_large(forest: PackedForest, name: str) -> str:
    return f"a batch of {forest.num_tokens} tokens does not fit the memory of {name}"
