"""The pool of keys: where the rows of a forest's nodes stand, and which row sees which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwen_rerank_plugins.core.model.packing import PackedForest

__all__ = ["AttentionShape", "KVLayout", "dense_mask"]


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads of the attention: `num_heads` query heads share `num_kv_heads` heads of keys and values."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads a key head."""
        return self.num_heads // self.num_kv_heads

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        return float(self.head_dim**-0.5)


class KVLayout:
    """Where the keys of a forest's nodes stand in the pool.

    Args:
        forest: The packed forest.

    Attributes:
        slices: For each node, its rows in the pool.
        last_rows: For each distinct end of a prompt, in the order of `ends`, its row in the packed sequence.
        ends: The nodes that end a prompt, each once.
        sequence_of: For each prompt, the place of its end in `ends`.
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
        place = {node: n for n, node in enumerate(self.ends)}
        self.sequence_of = [place[leaf] for leaf in forest.leaves]
        self.last_rows = [forest.nodes[end].start + len(forest.nodes[end].ids) - 1 for end in self.ends]


def dense_mask(layout: KVLayout) -> Tensor:
    """[tokens, pool] bool: whether a row sees a key."""
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
