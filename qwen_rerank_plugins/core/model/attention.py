"""Attention over a packed forest: a token attends to its node's ancestors and, causally, to its own node.

Three attention backends with one signature. `DenseAttention` is the reference: one mask over all keys.
`GroupedAttention` batches siblings of equal length into matrix multiplications, on any device.
`ForestAttention` is one Triton kernel, on CUDA.

Keys and values share one buffer: rows of the cached nodes first, then the rows of the packed sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from qwen_rerank_plugins.core.model.kv_layout import (
    AttentionShape,
    IntArray,
    KVLayout,
    concatenated_ranges,
    dense_mask,
)

__all__ = [
    "Attention",
    "AttentionShape",
    "DenseAttention",
    "ForestAttention",
    "GroupedAttention",
    "KVLayout",
]

ROWS_PER_BLOCK = 128
"""Query rows of one node per multiplication; keys after the block's last row are skipped."""

MAX_SCORES_PER_BLOCK = 1 << 20
"""Largest number of attention scores of a block of siblings; about what a core's cache holds."""


class Attention(Protocol):
    """Attention for one packed forest, built once and used in every layer.

    Args:
        layout: Rows of keys and values in the forest.
        shape: Attention heads.
        index: What `index_arrays` returned, and `last_rows`, on the device.
    """

    def __init__(self, layout: KVLayout, shape: AttentionShape, index: Mapping[str, Tensor]) -> None: ...

    @staticmethod
    def index_arrays(layout: KVLayout, shape: AttentionShape) -> dict[str, IntArray]:
        """Return the arrays that the backend needs on the device."""

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Attend from all rows.

        Args:
            queries: [tokens, num_heads * head_dim].
            kv: [kv_rows, 2 * num_kv_heads * head_dim]: keys, then values.

        Returns:
            [tokens, num_heads * head_dim]; may share memory with `queries`.
        """

    def attend_last(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Attend from the last row of each node that ends a prompt: [ends, num_heads * head_dim]."""


class _WithoutArrays:
    """A backend that needs no arrays on the device."""

    @staticmethod
    def index_arrays(layout: KVLayout, shape: AttentionShape) -> dict[str, IntArray]:
        """Return none."""
        del layout, shape
        return {}


class DenseAttention(_WithoutArrays):
    """The reference: scores of all rows with all keys, and one boolean mask."""

    def __init__(self, layout: KVLayout, shape: AttentionShape, index: Mapping[str, Tensor]) -> None:
        self._shape = shape
        self._mask = dense_mask(layout).to(index["last_rows"].device)
        self._last_mask = self._mask[index["last_rows"]]

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Attend from all rows; see `Attention.attend`."""
        return self._masked_attention(queries, kv, self._mask)

    def attend_last(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Attend from the last row of each prompt; see `Attention.attend_last`."""
        return self._masked_attention(queries, kv, self._last_mask)

    def _masked_attention(self, queries: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            t.view(t.shape[0], -1, self._shape.head_dim).transpose(0, 1)[None]
            for t in (queries, *kv.chunk(2, -1))
        )
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=self._shape.scale, enable_gqa=True
        )
        return out[0].transpose(0, 1).reshape(queries.shape)


@dataclass(frozen=True, slots=True)
class _SiblingBlock:
    """`count` siblings of `length` rows each, starting at row `start` of the packed sequence."""

    ancestors: tuple[slice, ...]
    start: int
    length: int
    count: int
    kv_start: int


class GroupedAttention(_WithoutArrays):
    """Matrix multiplications over siblings of equal length.

    Faster on a CPU than torch's fused attention, which is tuned for longer keys: a node has 20 to 400.
    """

    def __init__(self, layout: KVLayout, shape: AttentionShape, index: Mapping[str, Tensor]) -> None:
        device = index["last_rows"].device
        self._shape = shape
        self._blocks = list(_sibling_blocks(layout, layout.computed))
        self._end_blocks = list(_sibling_blocks(layout, layout.ends))
        future = torch.full((ROWS_PER_BLOCK, ROWS_PER_BLOCK), float("-inf"), device=device)
        self._causal_mask = future.triu(1)

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Attend from all rows; see `Attention.attend`."""
        keys, values = map(self._split_heads, kv.chunk(2, -1))
        for block in self._blocks:
            for part in _split_block(block, self._shape.num_heads):
                self._attend_block(queries, keys, values, part)
        return queries

    def attend_last(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Attend from the last row of each prompt; see `Attention.attend_last`."""
        keys, values = map(self._split_heads, kv.chunk(2, -1))
        offset = 0
        for block in self._end_blocks:
            k, v = self._gather(keys, block), self._gather(values, block)
            rows = queries[offset : offset + block.count]
            q = rows.view(block.count * self._shape.num_kv_heads, self._shape.group, -1)
            rows.copy_(torch.bmm(torch.softmax(self._scores(q, k.mT), -1), v).view(block.count, -1))
            offset += block.count
        return queries

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        unused = queries.new_empty(1, 1, 1)
        return torch.baddbmm(unused, queries, keys, beta=0, alpha=self._shape.scale)

    def _split_heads(self, kv: Tensor) -> Tensor:
        return kv.view(kv.shape[0], self._shape.num_kv_heads, self._shape.head_dim)

    def _gather(self, kv: Tensor, block: _SiblingBlock) -> Tensor:
        """Return keys or values of a block after its ancestors': [count * kv_heads, keys, head_dim]."""
        heads, dim = self._shape.num_kv_heads, self._shape.head_dim
        shared = sum(rows.stop - rows.start for rows in block.ancestors)
        out = torch.empty(block.count, heads, shared + block.length, dim, dtype=kv.dtype, device=kv.device)
        offset = 0
        for rows in block.ancestors:
            size = rows.stop - rows.start
            out[:, :, offset : offset + size] = kv[rows].transpose(0, 1)
            offset += size
        own = kv[block.kv_start : block.kv_start + block.count * block.length]
        out[:, :, offset:] = own.view(block.count, block.length, heads, dim).transpose(1, 2)
        return out.view(block.count * heads, shared + block.length, dim)

    def _attend_block(self, queries: Tensor, keys: Tensor, values: Tensor, block: _SiblingBlock) -> None:
        """Attend from the rows of a block, in place."""
        shape = self._shape
        k, v = self._gather(keys, block).mT, self._gather(values, block)
        shared = k.shape[-1] - block.length
        rows = queries[block.start : block.start + block.count * block.length]
        rows = rows.view(block.count, block.length, shape.num_kv_heads, shape.group, shape.head_dim)
        for first in range(0, block.length, ROWS_PER_BLOCK):
            after = min(first + ROWS_PER_BLOCK, block.length)
            num_keys, size = shared + after, after - first
            q = rows[:, first:after].permute(0, 2, 3, 1, 4)
            q = q.reshape(block.count * shape.num_kv_heads, shape.group * size, shape.head_dim)
            scores = self._scores(q, k[:, :, :num_keys])
            own = scores.view(-1, shape.group, size, num_keys)[..., num_keys - size :]
            own += self._causal_mask[:size, :size]
            out = torch.bmm(torch.softmax(scores, -1), v[:, :num_keys])
            out = out.view(block.count, shape.num_kv_heads, shape.group, size, shape.head_dim)
            rows[:, first:after] = out.permute(0, 3, 1, 2, 4)


def _sibling_blocks(layout: KVLayout, nodes: list[int]) -> Iterator[_SiblingBlock]:
    """Yield blocks of computed siblings that are adjacent and of equal length."""
    block: _SiblingBlock | None = None
    parent = -2
    for index in nodes:
        node = layout.forest.nodes[index]
        if (
            block is not None
            and node.parent == parent
            and len(node.ids) == block.length
            and node.start == block.start + block.count * block.length
        ):
            block = _SiblingBlock(block.ancestors, block.start, block.length, block.count + 1, block.kv_start)
            continue
        if block is not None:
            yield block
        ancestors = tuple(layout.slices[a] for a in layout.forest.ancestors(index))
        block = _SiblingBlock(ancestors, node.start, len(node.ids), 1, layout.slices[index].start)
        parent = node.parent
    if block is not None:
        yield block


def _split_block(block: _SiblingBlock, num_heads: int) -> Iterator[_SiblingBlock]:
    """Split a block into parts of at most `MAX_SCORES_PER_BLOCK` scores."""
    keys = sum(rows.stop - rows.start for rows in block.ancestors) + block.length
    max_count = max(1, MAX_SCORES_PER_BLOCK // (num_heads * min(block.length, ROWS_PER_BLOCK) * keys))
    for first in range(0, block.count, max_count):
        count = min(max_count, block.count - first)
        offset = first * block.length
        yield _SiblingBlock(
            block.ancestors, block.start + offset, block.length, count, block.kv_start + offset
        )


class ForestAttention:
    """One Triton kernel that reads the keys of a node and of its ancestors where they are."""

    def __init__(self, layout: KVLayout, shape: AttentionShape, index: Mapping[str, Tensor]) -> None:
        del layout
        self._shape = shape
        self._index = index

    @staticmethod
    def index_arrays(layout: KVLayout, shape: AttentionShape) -> dict[str, IntArray]:
        """Return the blocks of query rows, for all rows and for the last ones, and the rows of their ancestors."""
        from qwen_rerank_plugins.core.model.kernels import QUERY_BLOCK

        nodes = layout.forest.nodes
        begins: dict[int, int] = {}
        ancestors: list[int] = []
        total = 0
        for index in layout.computed:
            if (parent := nodes[index].parent) not in begins:
                begins[parent] = total
                ancestors += layout.forest.ancestors(index)
                total += nodes[index].position
        own = [
            (begins[node.parent], node.position, rows.start)
            for node, rows in ((nodes[index], layout.slices[index]) for index in layout.computed)
        ]
        lengths = [len(nodes[index].ids) for index in layout.computed]
        blocks = _query_blocks(
            [nodes[index].start for index in layout.computed], lengths, own, QUERY_BLOCK // shape.group
        )
        of_node = dict(zip(layout.computed, zip(own, lengths, strict=True), strict=True))
        last = [(n, 1, *of_node[end][0], of_node[end][1] - 1) for n, end in enumerate(layout.ends)]
        return {
            "query_blocks": blocks,
            "last_query_blocks": np.asarray(last, np.int32),
            "ancestor_rows": layout.kv_rows(ancestors),
        }

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Attend from all rows; see `Attention.attend`."""
        return self._attend(queries, kv, self._index["query_blocks"])

    def attend_last(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Attend from the last row of each prompt; see `Attention.attend_last`."""
        return self._attend(queries, kv, self._index["last_query_blocks"])

    def _attend(self, queries: Tensor, kv: Tensor, blocks: Tensor) -> Tensor:
        from qwen_rerank_plugins.core.model import kernels

        shape = self._shape
        return kernels.attend(
            *(queries, kv, blocks, self._index["ancestor_rows"]),
            group=shape.group,
            head_dim=shape.head_dim,
            scale=shape.scale,
        )


def _query_blocks(
    first_rows: Sequence[int], lengths: Sequence[int], own: Sequence[tuple[int, int, int]], max_rows: int
) -> IntArray:
    """Split nodes into blocks of at most `max_rows` query rows, the latest node first.

    Args:
        first_rows: The first query row of each node.
        lengths: The rows of each node.
        own: Where each node's ancestors begin and how many keys they have, and the first row of its own keys.
        max_rows: Query rows of a block.

    Returns:
        [blocks, 6], as `kernels.attend` describes it.
    """
    length = np.asarray(lengths, np.int32)
    counts = -(-length // max_rows)
    node = np.arange(len(length), dtype=np.int32).repeat(counts)
    offset = concatenated_ranges(np.zeros_like(counts), counts) * max_rows
    columns = (
        np.asarray(first_rows, np.int32)[node] + offset,
        np.minimum(length[node] - offset, max_rows),
        *np.asarray(own, np.int32)[node].T,
        offset,
    )
    return np.stack(columns, axis=1)[::-1]
