"""The layout of keys and values: the rows of each node of a forest, and which row attends to which key."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from qwen_rerank_plugins.core.model.packing import PackedForest

__all__ = ["AttentionShape", "KVLayout", "dense_mask"]


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

    Attributes:
        slices: For each node, its rows in the buffers.
        last_rows: For each node of `ends`, its last row in the packed sequence.
        num_root_rows: Rows of the computed roots, which begin the packed sequence.
        ends: The nodes that end a prompt, each once.
        prompt_ends: For each prompt, the index of its last node in `ends`.
    """

    def __init__(self, forest: PackedForest) -> None:
        self.forest = forest
        self.slices: list[slice] = []
        cached = 0
        for node in forest.nodes:
            begin = cached if node.is_cached else forest.num_cached_tokens + node.start
            cached += len(node.ids) if node.is_cached else 0
            self.slices.append(slice(begin, begin + len(node.ids)))
        self.ends = sorted(set(forest.leaves))
        index_of = {node: n for n, node in enumerate(self.ends)}
        self.prompt_ends = [index_of[leaf] for leaf in forest.leaves]
        self.num_root_rows = sum(len(n.ids) for n in forest.nodes if n.parent < 0 and not n.is_cached)
        self.last_rows = [forest.nodes[end].start + len(forest.nodes[end].ids) - 1 for end in self.ends]


def dense_mask(layout: KVLayout) -> Tensor:
    """Return [tokens, kv_rows] bool: whether a row attends to a key."""
    forest = layout.forest
    mask = torch.zeros(forest.num_tokens, forest.num_cached_tokens + forest.num_tokens, dtype=torch.bool)
    for index, node in enumerate(forest.nodes):
        if node.is_cached:
            continue
        rows = slice(node.start, node.start + len(node.ids))
        for ancestor in forest.ancestors(index):
            mask[rows, layout.slices[ancestor]] = True
        mask[rows, layout.slices[index]] = torch.ones(len(node.ids), len(node.ids), dtype=torch.bool).tril()
    return mask
