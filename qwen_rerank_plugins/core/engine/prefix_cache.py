"""Keys and values of prompt beginnings that come again, within a budget of bytes.

Used by one thread at a time, as the engine is. The least recently used beginnings go first.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from qwen_rerank_plugins.core.sequences import Path

__all__ = ["PrefixCache"]


class PrefixCache:
    """Maps the path of a node to its keys and values, [layers, 2, tokens, kv_heads * head_dim].

    Args:
        max_bytes: What all of them may take together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.hits = 0
        self.misses = 0
        self._tensors: OrderedDict[Path, Tensor] = OrderedDict()

    def __contains__(self, path: object) -> bool:
        return path in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)

    def get(self, path: Path) -> Tensor:
        """The tensor of a path that is there; marks it as used."""
        self._tensors.move_to_end(path)
        self.hits += 1
        return self._tensors[path]

    def put(self, path: Path, tensor: Tensor) -> None:
        """Keep a tensor, and let others go for it; one that is larger than the budget is not kept."""
        self.misses += 1
        self._drop(path)
        if tensor.nbytes > self.max_bytes:
            return
        while self.num_bytes + tensor.nbytes > self.max_bytes:
            self._drop(next(iter(self._tensors)))
        self._tensors[path] = tensor
        self.num_bytes += tensor.nbytes

    def clear(self) -> None:
        """Let everything go."""
        self._tensors.clear()
        self.num_bytes = 0

    def _drop(self, path: Path) -> None:
        tensor = self._tensors.pop(path, None)
        if tensor is not None:
            self.num_bytes -= tensor.nbytes
