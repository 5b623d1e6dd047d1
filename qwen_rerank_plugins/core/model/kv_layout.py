"""The layout of keys and values: the rows of each node of a forest, and which row attends to which key.

It is planned on the host, as NumPy arrays of integers. `IndexArrays` brings all arrays of a forward pass to the
device in one transfer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qwen_rerank_plugins.core.model.packing import PackedForest

__all__ = ["AttentionShape", "IndexArrays", "IntArray", "KVLayout", "concatenated_ranges", "dense_mask"]

IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Attention heads: `num_heads` query heads share `num_kv_heads` key and value heads.

    Attributes:
        group: Query heads per key head.
        scale: Factor of the attention scores.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    group: int = field(init=False)
    scale: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.num_heads // self.num_kv_heads)
        object.__setattr__(self, "scale", float(self.head_dim**-0.5))


class KVLayout:
    """Rows of a forest's nodes in the buffers of keys and values.

    Args:
        forest: The packed forest.
        row_multiple: The packed sequence, and `last_rows`, end with unused rows up to a multiple of this.

    Attributes:
        num_rows: Rows of the packed sequence, unused ones included.
        slices: For each node, its rows in the buffers.
        computed: The nodes that are not cached.
        ends: The nodes that end a prompt, each once.
        last_rows: For each node of `ends`, its last row in the packed sequence; then unused entries.
        num_root_rows: Rows of the computed roots, which begin the packed sequence.
        prompt_ends: For each prompt, the index of its last node in `ends`.
    """

    def __init__(self, forest: PackedForest, row_multiple: int = 1) -> None:
        self.forest = forest
        self.num_rows = forest.num_tokens + -forest.num_tokens % row_multiple
        self.slices: list[slice] = []
        cached = 0
        for node in forest.nodes:
            begin = cached if node.is_cached else forest.num_cached_tokens + node.start
            cached += len(node.ids) if node.is_cached else 0
            self.slices.append(slice(begin, begin + len(node.ids)))
        self.computed = [index for index, node in enumerate(forest.nodes) if not node.is_cached]
        self.ends = sorted(set(forest.leaves))
        index_of = {node: n for n, node in enumerate(self.ends)}
        self.prompt_ends = [index_of[leaf] for leaf in forest.leaves]
        self.num_root_rows = sum(len(n.ids) for n in forest.nodes if n.parent < 0 and not n.is_cached)
        self.last_rows = [forest.nodes[end].start + len(forest.nodes[end].ids) - 1 for end in self.ends]
        self.last_rows += [0] * (-len(self.ends) % row_multiple)

    def token_ids(self) -> IntArray:
        """Return the token id of each row of the packed sequence; of an unused one, 0."""
        ids = chain.from_iterable(self.forest.nodes[index].ids for index in self.computed)
        return self._padded(np.fromiter(ids, np.int32, self.forest.num_tokens))

    def positions(self) -> IntArray:
        """Return the position in its prompt of each row of the packed sequence; of an unused one, 0."""
        nodes = [self.forest.nodes[index] for index in self.computed]
        return self._padded(
            concatenated_ranges([node.position for node in nodes], [len(node.ids) for node in nodes])
        )

    def _padded(self, rows: IntArray) -> IntArray:
        padded = np.zeros(self.num_rows, np.int32)
        padded[: len(rows)] = rows
        return padded

    def kv_rows(self, nodes: Iterable[int]) -> IntArray:
        """Return the rows of some nodes in the buffers, one node after the other."""
        rows = [self.slices[node] for node in nodes]
        return concatenated_ranges([r.start for r in rows], [r.stop - r.start for r in rows])


def concatenated_ranges(starts: ArrayLike, lengths: ArrayLike) -> IntArray:
    """Return the integers of several ranges, one range after the other."""
    sizes = np.asarray(lengths, np.int32)
    ends = sizes.cumsum(dtype=np.int32)
    shifts: IntArray = np.asarray(starts, np.int32) - ends + sizes
    places: IntArray = np.arange(ends[-1] if len(ends) else 0, dtype=np.int32)
    return places + shifts.repeat(sizes)


class IndexArrays:
    """Named arrays of integers in one block of memory, which one transfer brings to a device.

    Args:
        arrays: The arrays. They arrive on the device in their shapes, as int32.
        device: The device; for CUDA the block is page-locked, so that the transfer does not wait for the host.
    """

    def __init__(self, arrays: Mapping[str, IntArray], device: torch.device) -> None:
        self._shapes = {name: array.shape for name, array in arrays.items()}
        size = sum(array.size for array in arrays.values())
        self._block = torch.empty(size, dtype=torch.int32, pin_memory=device.type == "cuda")
        np.concatenate([array.ravel() for array in arrays.values()], out=self._block.numpy())
        self._device = device

    def on_device(self) -> dict[str, Tensor]:
        """Return the arrays on the device."""
        block = self._block.to(self._device, non_blocking=self._device.type == "cuda")
        parts = block.split([int(np.prod(shape)) for shape in self._shapes.values()])
        return {
            name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


def dense_mask(layout: KVLayout) -> Tensor:
    """Return [rows, kv_rows] bool: whether a row attends to a key; an unused row attends to none, for which attention returns zeros."""
    forest = layout.forest
    mask = torch.zeros(layout.num_rows, forest.num_cached_tokens + layout.num_rows, dtype=torch.bool)
    for index, node in enumerate(forest.nodes):
        if node.is_cached:
            continue
        rows = slice(node.start, node.start + len(node.ids))
        for ancestor in forest.ancestors(index):
            mask[rows, layout.slices[ancestor]] = True
        mask[rows, layout.slices[index]] = torch.ones(len(node.ids), len(node.ids), dtype=torch.bool).tril()
    return mask
