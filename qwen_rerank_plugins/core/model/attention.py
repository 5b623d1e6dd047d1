"""Attention over a packed forest: a token attends to its node's ancestors and, causally, to its own node.

Three attention backends with one signature. `DenseAttention` is the reference: one mask over all keys.
`GroupedAttention` batches siblings of equal length into matrix multiplications in fp32, on any device.
`VarlenAttention` gathers the keys of each node for torch's variable-length kernel, on CUDA.

Keys and values are one buffer each: rows of the cached nodes first, then the rows of the packed sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from qwen_rerank_plugins.core.model.kv_layout import AttentionShape, KVLayout, dense_mask

__all__ = [
    "Attention",
    "AttentionShape",
    "DenseAttention",
    "GroupedAttention",
    "KVLayout",
    "VarlenAttention",
    "varlen_attn_reference",
]

ROWS_PER_BLOCK = 128
"""Query rows of one node per multiplication; keys after the block's last row are skipped."""

MAX_SCORES_PER_BLOCK = 1 << 20
"""Largest number of attention scores of a block of siblings; about what a core's cache holds."""


class Attention(Protocol):
    """Attention for one packed forest, built once and used in every layer."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from all rows.

        Args:
            queries: [tokens, num_heads * head_dim].
            keys: [kv_rows, num_kv_heads * head_dim].
            values: [kv_rows, num_kv_heads * head_dim].

        Returns:
            [tokens, num_heads * head_dim]; may share memory with `queries`.
        """

    def attend_last(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from the last row of each node that ends a prompt: [ends, num_heads * head_dim]."""


class DenseAttention:
    """The reference: scores of all rows with all keys, and one boolean mask."""

    def __init__(self, layout: KVLayout, shape: AttentionShape, device: torch.device) -> None:
        self._shape = shape
        self._mask = dense_mask(layout).to(device)
        self._last_mask = self._mask[torch.tensor(layout.last_rows, device=device)]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from all rows; see `Attention.attend`."""
        return self._masked_attention(queries, keys, values, self._mask)

    def attend_last(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from the last row of each prompt; see `Attention.attend_last`."""
        return self._masked_attention(queries, keys, values, self._last_mask)

    def _masked_attention(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            t.view(t.shape[0], -1, self._shape.head_dim).transpose(0, 1)[None]
            for t in (queries, keys, values)
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


class GroupedAttention:
    """Matrix multiplications in fp32 over siblings of equal length.

    Faster on a CPU than torch's fused attention, which is tuned for longer keys: a node has 20 to 400.
    """

    def __init__(self, layout: KVLayout, shape: AttentionShape, device: torch.device) -> None:
        self._shape = shape
        self._blocks = list(_sibling_blocks(layout, range(len(layout.forest.nodes))))
        self._end_blocks = list(_sibling_blocks(layout, layout.ends))
        future = torch.full((ROWS_PER_BLOCK, ROWS_PER_BLOCK), float("-inf"), device=device)
        self._causal_mask = future.triu(1)
        self._unused_bias = torch.zeros(1, 1, 1, device=device)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from all rows; see `Attention.attend`."""
        keys, values = self._split_heads(keys), self._split_heads(values)
        for block in self._blocks:
            for part in _split_block(block, self._shape.num_heads):
                self._attend_block(queries, keys, values, part)
        return queries

    def attend_last(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from the last row of each prompt; see `Attention.attend_last`."""
        keys, values = self._split_heads(keys), self._split_heads(values)
        offset = 0
        for block in self._end_blocks:
            k, v = self._gather(keys, block), self._gather(values, block)
            rows = queries[offset : offset + block.count]
            q = rows.view(block.count * self._shape.num_kv_heads, self._shape.group, -1).float()
            rows.copy_(torch.bmm(torch.softmax(self._scores(q, k.mT), -1), v).view(block.count, -1))
            offset += block.count
        return queries

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        return torch.baddbmm(self._unused_bias, queries, keys, beta=0, alpha=self._shape.scale)

    def _split_heads(self, kv: Tensor) -> Tensor:
        return kv.view(kv.shape[0], self._shape.num_kv_heads, self._shape.head_dim)

    def _gather(self, kv: Tensor, block: _SiblingBlock) -> Tensor:
        """Return keys or values of a block after its ancestors': [count * kv_heads, keys, head_dim] fp32."""
        heads, dim = self._shape.num_kv_heads, self._shape.head_dim
        shared = sum(rows.stop - rows.start for rows in block.ancestors)
        out = torch.empty(
            block.count, heads, shared + block.length, dim, dtype=torch.float32, device=kv.device
        )
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
            q = rows[:, first:after].permute(0, 2, 3, 1, 4).float()
            q = q.reshape(block.count * shape.num_kv_heads, shape.group * size, shape.head_dim)
            scores = self._scores(q, k[:, :, :num_keys])
            own = scores.view(-1, shape.group, size, num_keys)[..., num_keys - size :]
            own += self._causal_mask[:size, :size]
            out = torch.bmm(torch.softmax(scores, -1), v[:, :num_keys])
            out = out.view(block.count, shape.num_kv_heads, shape.group, size, shape.head_dim)
            rows[:, first:after] = out.permute(0, 3, 1, 2, 4)


def _sibling_blocks(layout: KVLayout, nodes: range | list[int]) -> Iterator[_SiblingBlock]:
    """Yield blocks of computed siblings that are adjacent and of equal length."""
    block: _SiblingBlock | None = None
    parent = -2
    for index in nodes:
        node = layout.forest.nodes[index]
        if node.is_cached:
            continue
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


class VarlenAttention:
    """Gathered keys and torch's variable-length kernel, whose causal mask is aligned at the right end.

    Args:
        layout: Rows of keys and values in the forest.
        shape: Attention heads.
        device: Device of the index tensors.
        kernel: A function with the signature of `torch.nn.attention.varlen.varlen_attn`; None uses that one.
            Of torch 2.11 it takes neither `enable_gqa` nor `num_splits`.
    """

    def __init__(
        self,
        layout: KVLayout,
        shape: AttentionShape,
        device: torch.device,
        kernel: Callable[..., Any] | None = None,
    ) -> None:
        self._shape = shape
        self._kernel = kernel or _varlen_attn()
        self._options = _supported_options(self._kernel)
        self._repeats = 1 if "enable_gqa" in self._options else shape.group
        computed = [index for index, node in enumerate(layout.forest.nodes) if not node.is_cached]
        lengths = [len(layout.forest.nodes[index].ids) for index in computed]
        self._all_index = _VarlenIndex.build(layout, computed, lengths, device)
        self._last_index = _VarlenIndex.build(layout, layout.ends, [1] * len(layout.ends), device)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from all rows; see `Attention.attend`."""
        return self._call(queries, keys, values, self._all_index)

    def attend_last(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from the last row of each prompt; see `Attention.attend_last`."""
        return self._call(queries, keys, values, self._last_index)

    def _call(self, queries: Tensor, keys: Tensor, values: Tensor, index: _VarlenIndex) -> Tensor:
        dim = self._shape.head_dim
        out: Tensor = self._kernel(
            queries.view(queries.shape[0], -1, dim),
            self._gather(keys, index.key_rows),
            self._gather(values, index.key_rows),
            index.cu_queries,
            index.cu_keys,
            index.max_queries,
            index.max_keys,
            scale=self._shape.scale,
            window_size=(-1, 0),
            **self._options,
        )
        return out.reshape(queries.shape)

    def _gather(self, kv: Tensor, rows: Tensor) -> Tensor:
        """Return rows of keys or values, [rows, heads, head_dim]; repeated per query head if the kernel needs that."""
        gathered = kv.view(kv.shape[0], -1, self._shape.head_dim).index_select(0, rows)
        return gathered if self._repeats == 1 else gathered.repeat_interleave(self._repeats, 1)


@dataclass(frozen=True, slots=True)
class _VarlenIndex:
    """Rows and offsets for one call: query rows stay in packed order, keys are gathered per node."""

    key_rows: Tensor
    cu_queries: Tensor
    cu_keys: Tensor
    max_queries: int
    max_keys: int

    @classmethod
    def build(
        cls, layout: KVLayout, nodes: list[int], query_lengths: list[int], device: torch.device
    ) -> _VarlenIndex:
        rows: list[Tensor] = []
        key_lengths: list[int] = []
        for index in nodes:
            path = [*layout.forest.ancestors(index), index]
            pieces = [torch.arange(layout.slices[n].start, layout.slices[n].stop) for n in path]
            rows.extend(pieces)
            key_lengths.append(sum(map(len, pieces)))
        return cls(
            torch.cat(rows).to(device),
            _offsets(query_lengths).to(device),
            _offsets(key_lengths).to(device),
            max(query_lengths),
            max(key_lengths),
        )


def _offsets(lengths: list[int]) -> Tensor:
    return F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))


def _supported_options(kernel: Callable[..., Any]) -> dict[str, Any]:
    """Return the options that this version of the kernel takes.

    With one split, a pair's scores do not depend on the longest key of its batch.
    """
    taken = inspect.signature(kernel).parameters
    return {name: value for name, value in (("enable_gqa", True), ("num_splits", 1)) if name in taken}


def _varlen_attn() -> Callable[..., Any]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def varlen_attn_reference(  # noqa: PLR0913 - the signature is torch's
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    num_splits: int | None = None,
) -> Tensor:
    """Compute `varlen_attn` in plain torch, one sequence at a time, to test index tensors on any device.

    Raises:
        ValueError: The offsets do not match the tensors, or the window is neither full nor causal.
    """
    del num_splits
    if window_size not in ((-1, -1), (-1, 0)):
        raise ValueError(f"window_size {window_size!r} is not supported; use (-1, -1) or (-1, 0)")
    q_ends, k_ends = cu_seq_q.tolist(), cu_seq_k.tolist()
    q_lengths, k_lengths = ([b - a for a, b in pairwise(e)] for e in (q_ends, k_ends))
    if (q_ends[-1], k_ends[-1]) != (len(query), len(key)) or (max(q_lengths), max(k_lengths)) != (
        max_q,
        max_k,
    ):
        raise ValueError(
            f"offsets end at {q_ends[-1]}, {k_ends[-1]} for {len(query)} queries and {len(key)} keys"
        )
    out = torch.empty_like(query)
    for i in range(len(q_lengths)):
        rows, cols = slice(q_ends[i], q_ends[i + 1]), slice(k_ends[i], k_ends[i + 1])
        mask = torch.ones(q_lengths[i], k_lengths[i], dtype=torch.bool, device=query.device)
        if window_size == (-1, 0):
            mask = mask.tril(k_lengths[i] - q_lengths[i])
        q, k, v = (t.transpose(0, 1)[None] for t in (query[rows], key[cols], value[cols]))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        out[rows] = attended[0].transpose(0, 1)
    return out
