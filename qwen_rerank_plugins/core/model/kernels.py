"""Triton kernels of the CUDA path: attention over a packed forest, and the element-wise steps between products.

Each has a plain twin, which the tests compare on a CPU (`TRITON_INTERPRET=1`): `DenseAttention`, and the functions of
`ops` for tensors on a CPU. All kernels compute in fp32 and round once, when they store.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen_rerank_plugins.core.model.ops import RotaryCache

__all__ = ["apply_qk_norm_rope", "attend", "rms_norm", "swiglu_"]

SMALL_ROW, LARGE_ROW = 1024, 2048
"""Elements of a row up to which two warps suffice, and above which an element-wise kernel takes eight."""

QUERY_BLOCK = 64
"""Rows of scores in one program of attention: query rows times query heads per key head."""

LAUNCH_16_BIT = (32, 4, 2)
"""Keys of a step, warps and pipeline stages of attention. On an H200 fastest of those that scripts/gpu/run.sh times."""

LAUNCH_FP32 = (16, 8, 2)
"""The same for fp32, where more keys would not fit the registers."""

LOG2_E = 1.4426950408889634


@triton.jit
def _rms_norm_kernel(X, W, OUT, x_stride, out_stride, size, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x = tl.load(X + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    inverse_rms = tl.rsqrt(tl.sum(x * x) / size + eps)
    weight = tl.load(W + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(
        OUT + row * out_stride + columns, (x * inverse_rms * weight).to(OUT.dtype.element_ty), mask=inside
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise rows [rows, columns] by their root mean square."""
    out = x.new_empty(x.shape)
    block = triton.next_power_of_2(x.shape[1])
    num_warps = 4 if block <= LARGE_ROW else 8
    _rms_norm_kernel[(x.shape[0],)](
        *(x, weight, out, x.stride(0), out.stride(0), x.shape[1], eps), BLOCK=block, num_warps=num_warps
    )
    return out


@triton.jit
def _qk_norm_rope_kernel(
    X,
    Q_NORM,
    K_NORM,
    COS,
    SIN,
    OUT,
    x_stride,
    out_stride,
    num_query_heads,
    num_heads,
    eps,
    HAS_NORM: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
):
    """One program takes one row: its query heads, then its key heads."""
    half: tl.constexpr = HEAD_DIM // 2
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, HALF_BLOCK)[None, :]
    heads = tl.arange(0, HEAD_BLOCK)[:, None]
    is_column = columns < half
    inside = (heads < num_heads) & is_column
    place = heads * HEAD_DIM + columns
    x = X + row * x_stride + place
    first = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + half, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        norm = tl.where(heads < num_query_heads, Q_NORM, K_NORM) + columns
        squares = tl.sum(first * first + second * second, axis=1)
        inverse_rms = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
        first = first * inverse_rms * tl.load(norm, mask=inside, other=0.0).to(tl.float32)
        second = second * inverse_rms * tl.load(norm + half, mask=inside, other=0.0).to(tl.float32)
    cos = tl.load(COS + row * HEAD_DIM + columns, mask=is_column, other=0.0)
    sin = tl.load(SIN + row * HEAD_DIM + half + columns, mask=is_column, other=0.0)
    target = OUT + row * out_stride + place
    tl.store(target, (first * cos - second * sin).to(OUT.dtype.element_ty), mask=inside)
    tl.store(target + half, (second * cos + first * sin).to(OUT.dtype.element_ty), mask=inside)


def apply_qk_norm_rope(
    x: Tensor,
    norm: Tensor | None,
    rotation: RotaryCache,
    eps: float,
    out: Tensor,
    *,
    key_norm: Tensor | None = None,
    num_key_heads: int = 0,
) -> None:
    """Normalise each head, if it has a norm, and apply the rotary embedding.

    Args:
        x: [rows, heads * head_dim]; rows may be part of longer ones.
        norm: [head_dim], or None.
        rotation: The rotary embedding of the rows, in fp32.
        eps: Epsilon of the norm.
        out: Like `x`; receives the result. It may be `x`.
        key_norm: The norm of the last `num_key_heads` heads.
        num_key_heads: How many heads have `key_norm` in place of `norm`.
    """
    head_dim = rotation.cos.shape[-1]
    num_heads = x.shape[1] // head_dim
    head_block = triton.next_power_of_2(num_heads)
    _qk_norm_rope_kernel[(x.shape[0],)](
        *(
            x,
            x if norm is None else norm,
            x if key_norm is None else key_norm,
            rotation.cos,
            rotation.sin,
            out,
        ),
        *(x.stride(0), out.stride(0), num_heads - num_key_heads, num_heads, eps),
        HAS_NORM=norm is not None,
        HEAD_DIM=head_dim,
        HALF_BLOCK=triton.next_power_of_2(head_dim // 2),
        HEAD_BLOCK=head_block,
        num_warps=2 if head_block * head_dim <= SMALL_ROW else 4,
    )


@triton.jit
def _swiglu_kernel(GATE_UP, stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    place = GATE_UP + row * stride + columns
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + size, mask=inside, other=0.0).to(tl.float32)
    decay = tl.exp(-tl.abs(gate))  # never beyond fp32
    sigmoid = tl.where(gate >= 0, 1.0, decay) / (1.0 + decay)
    tl.store(place, (gate * sigmoid * up).to(GATE_UP.dtype.element_ty), mask=inside)


def swiglu_(gate_up: Tensor) -> Tensor:
    """Return SiLU of the first half of the columns times the second half; overwrites the first half."""
    size = gate_up.shape[1] // 2
    block = min(triton.next_power_of_2(size), LARGE_ROW)
    _swiglu_kernel[(gate_up.shape[0], triton.cdiv(size, block))](
        gate_up, gate_up.stride(0), size, BLOCK=block
    )
    return gate_up[:, :size]


@triton.jit
def _kv_rows(ANCESTOR_ROWS, key, num_ancestors, num_keys, own_row):
    """Return the rows of keys that a node sees; keys past the end get its first row."""
    shared = tl.load(ANCESTOR_ROWS + key, mask=key < num_ancestors, other=0)
    own = own_row + tl.where(key < num_keys, key - num_ancestors, 0)
    return tl.where(key < num_ancestors, shared, own).to(tl.int64)


@triton.jit
def _attend_kernel(
    Q,
    KV,
    OUT,
    BLOCKS,
    ANCESTOR_ROWS,
    q_stride,
    kv_stride,
    values_offset,
    scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    QUERY_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program takes a block of query rows of one node, for the query heads of one key head."""
    block = BLOCKS + tl.program_id(0) * 6
    first_query, num_queries = tl.load(block).to(tl.int64), tl.load(block + 1)
    ancestors, num_ancestors = ANCESTOR_ROWS + tl.load(block + 2), tl.load(block + 3)
    own_row, offset = tl.load(block + 4), tl.load(block + 5)
    kv_head = tl.program_id(1)
    score_rows = tl.arange(0, QUERY_BLOCK)
    query, head = score_rows // GROUP, kv_head * GROUP + score_rows % GROUP
    dims = tl.arange(0, DIM_BLOCK)[None, :]
    q_place = ((first_query + query) * q_stride + head * HEAD_DIM)[:, None] + dims
    q_mask = (query < num_queries)[:, None] & (dims < HEAD_DIM)
    q = tl.load(Q + q_place, mask=q_mask, other=0.0)
    last_key = num_ancestors + offset + query  # a row attends to keys up to its own
    num_keys = num_ancestors + offset + num_queries
    top = tl.full([QUERY_BLOCK], -1.0e30, tl.float32)
    total = tl.zeros([QUERY_BLOCK], tl.float32)
    result = tl.zeros([QUERY_BLOCK, DIM_BLOCK], tl.float32)
    for start in range(0, num_keys, KEY_BLOCK):
        key = start + tl.arange(0, KEY_BLOCK)
        rows = _kv_rows(ancestors, key, num_ancestors, num_keys, own_row)
        place = KV + (rows * kv_stride + kv_head * HEAD_DIM)[:, None] + dims
        k = tl.load(place, mask=dims < HEAD_DIM, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where(key[None, :] <= last_key[:, None], scores, -1.0e30)
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        decay = tl.exp2(top - new_top)
        total = total * decay + tl.sum(weights, 1)
        v = tl.load(place + values_offset, mask=dims < HEAD_DIM, other=0.0)
        result = result * decay[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        top = new_top
    tl.store(OUT + q_place, (result / total[:, None]).to(OUT.dtype.element_ty), mask=q_mask)


def attend(
    queries: Tensor,
    kv: Tensor,
    blocks: Tensor,
    ancestor_rows: Tensor,
    *,
    group: int,
    head_dim: int,
    scale: float,
) -> Tensor:
    """Attend from the query rows of `blocks`, in place.

    Args:
        queries: [rows, num_heads * head_dim]; receives the result.
        kv: [kv_rows, 2 * num_kv_heads * head_dim]: keys, then values.
        blocks: int32 [blocks, 6]: the first query row, the number of query rows, where the node's ancestors begin in
            `ancestor_rows`, how many keys they have, the node's first row in `kv`, and the place of the first query
            row in its node.
        ancestor_rows: int32: rows in `kv`.
        group: Query heads per key head.
        head_dim: Size of a head.
        scale: Factor of the scores.
    """
    kv_size = kv.shape[1] // 2
    is_fp32 = queries.dtype is torch.float32
    key_block, num_warps, num_stages = LAUNCH_FP32 if is_fp32 else LAUNCH_16_BIT
    _attend_kernel[(blocks.shape[0], kv_size // head_dim)](
        *(
            queries,
            kv,
            queries,
            blocks,
            ancestor_rows,
            queries.stride(0),
            kv.stride(0),
            kv_size,
            scale * LOG2_E,
        ),
        GROUP=group,
        HEAD_DIM=head_dim,
        DIM_BLOCK=max(16, triton.next_power_of_2(head_dim)),
        QUERY_BLOCK=QUERY_BLOCK,
        KEY_BLOCK=key_block,
        PRECISION="ieee" if is_fp32 else "tf32",
        num_warps=num_warps,
        num_stages=num_stages,
    )
    return queries
