"""Keys and values of prefixes that recur, within a byte budget.

Not thread-safe, like the engine. Eviction is least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from qwen_rerank_plugins.core.sequences import Segment

__all__ = ["PrefixCache"]


class PrefixCache:
    """Maps a segment to its keys and values, [layers, tokens, 2 * kv_heads * head_dim].

    Args:
        max_bytes: Total size of all tensors; 0 stores none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.hits = 0
        self.misses = 0
        self._tensors: OrderedDict[Segment, Tensor] = OrderedDict()

    def __contains__(self, segment: object) -> bool:
        return segment in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)

    def get(self, segment: Segment) -> Tensor:
        """Return the tensor of a cached segment, and mark it as used."""
        self._tensors.move_to_end(segment)
        self.hits += 1
        return self._tensors[segment]

    def put(self, segment: Segment, tensor: Tensor) -> None:
        """Store a tensor, evicting others; one that is larger than the budget is not stored."""
        self.misses += 1
        if (replaced := self._tensors.pop(segment, None)) is not None:
            self.num_bytes -= replaced.nbytes
        if tensor.nbytes > self.max_bytes:
            return
        while self.num_bytes + tensor.nbytes > self.max_bytes:
            self.num_bytes -= self._tensors.popitem(last=False)[1].nbytes
        self._tensors[segment] = tensor
        self.num_bytes += tensor.nbytes

    def clear(self) -> None:
        """Remove all tensors."""
        self._tensors.clear()
        self.num_bytes = 0
