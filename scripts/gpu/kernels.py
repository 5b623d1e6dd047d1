"""Times of the Triton kernels and of torch's own, for one shape, in microseconds; of products, in TFLOP/s."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from qwen_rerank_plugins.core.model import kernels, ops
from qwen_rerank_plugins.core.model.attention import ForestAttention
from qwen_rerank_plugins.core.model.kv_layout import AttentionShape, IndexArrays, KVLayout
from qwen_rerank_plugins.core.model.ops import RotaryCache
from qwen_rerank_plugins.core.model.packing import pack
from scripts.gpu.models import SHAPES, make_prompts

__all__ = ["time_kernels"]

BLOCKS = [
    (64, 32, 4, 3),
    (64, 32, 4, 2),
    (64, 32, 4, 4),
    (64, 16, 4, 3),
    (32, 32, 4, 3),
    (32, 32, 2, 3),
    (32, 64, 4, 3),
    (16, 32, 2, 3),
]
"""Query rows × heads, keys, warps and stages of the attention kernel."""


def microseconds(function: Callable[[], Any]) -> float:
    """Return the median time of a function on the device."""
    from triton.testing import do_bench

    return float(do_bench(function, warmup=5, rep=30, return_mode="median")) * 1e3


def time_kernels(device: torch.device, name: str, num_pairs: int) -> dict[str, Any]:
    """Return the times of each kernel and of its alternatives, for a batch of pairs of 165 tokens."""
    shape = SHAPES[name]
    hidden, mlp = shape["hidden_size"], shape["intermediate_size"]
    heads = AttentionShape(shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"])
    forest = pack(make_prompts(num_pairs, 10, 93, random.Random(1)))
    rows = forest.num_tokens

    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.bfloat16)

    x, y, weight = draw(rows, hidden), draw(rows, mlp), draw(hidden)
    down, gate_up = draw(hidden, mlp), draw(rows, 2 * mlp)
    queries, kv = (
        draw(rows, heads.num_heads * heads.head_dim),
        draw(rows, 2 * heads.num_kv_heads * heads.head_dim),
    )
    frequencies = 1.0 / 1e6 ** (torch.arange(0, heads.head_dim, 2, device=device) / heads.head_dim)
    rotation = RotaryCache.at(torch.arange(rows, device=device), frequencies, torch.float32)
    norm, keys = draw(heads.head_dim), kv[:, : kv.shape[1] // 2]
    times = {
        "rows": rows,
        "copy of [rows, hidden]": microseconds(x.clone),
        "rms_norm, Triton": microseconds(lambda: kernels.rms_norm(x, weight, 1e-6)),
        "rms_norm, torch": microseconds(lambda: F.rms_norm(x, (hidden,), weight, 1e-6)),
        "down, residual in the product": microseconds(lambda: x.addmm_(y, down.t())),
        "down, product alone": microseconds(lambda: torch.mm(y, down.t())),
        "residual addition alone": microseconds(lambda: x.add_(y[:, :hidden])),
        "swiglu, Triton": microseconds(lambda: kernels.swiglu_(gate_up)),
        "swiglu, torch": microseconds(lambda: ops.swiglu_(gate_up)),
        "q norm and rotation, Triton": microseconds(
            lambda: kernels.apply_qk_norm_rope(queries, norm, rotation, 1e-6, queries)
        ),
        "k norm and rotation, Triton": microseconds(
            lambda: kernels.apply_qk_norm_rope(keys, norm, rotation, 1e-6, keys)
        ),
        "q norm and rotation, torch": microseconds(
            lambda: ops.apply_qk_norm_rope(queries, norm, rotation, 1e-6, torch.empty_like(queries))
        ),
    }
    queries_size, kv_size = queries.shape[1], kv.shape[1]
    products = {
        "query": (hidden, queries_size),
        "query, key and value": (hidden, queries_size + kv_size),
        "output": (queries_size, hidden),
        "gate_up": (hidden, 2 * mlp),
    }
    for linear, size in products.items():
        a, b = draw(rows, size[0]), draw(size[1], size[0])
        seconds = microseconds(lambda a=a, b=b: torch.mm(a, b.t())) / 1e6  # type: ignore[misc]
        times[f"{linear} product, TFLOP/s"] = 2 * rows * size[0] * size[1] / seconds / 1e12
    times["gate_up product in fp8, TFLOP/s"] = _fp8_product(rows, *products["gate_up"], device)
    return times | _attention(forest, heads, queries, kv)


def _fp8_product(rows: int, size_in: int, size_out: int, device: torch.device) -> Any:
    """Time a product of 8-bit numbers with one scale per row of both."""
    a, b = (torch.randn(n, size_in, device=device).to(torch.float8_e4m3fn) for n in (rows, size_out))
    scale_a, scale_b = torch.ones(rows, 1, device=device), torch.ones(1, size_out, device=device)

    def multiply() -> Tensor:
        return torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it
            a, b.t(), scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    try:
        return 2 * rows * size_in * size_out / microseconds(multiply) / 1e6
    except RuntimeError as error:  # a GPU without such products
        return str(error)[:100]


def _attention(forest: Any, heads: AttentionShape, queries: Tensor, kv: Tensor) -> dict[str, Any]:
    layout = KVLayout(forest)
    times: dict[str, Any] = {}
    defaults = kernels.QUERY_BLOCK, kernels.LAUNCH_16_BIT
    for blocks in BLOCKS:
        kernels.QUERY_BLOCK, kernels.LAUNCH_16_BIT = blocks[0], blocks[1:]
        try:
            index = IndexArrays(ForestAttention.index_arrays(layout, heads), kv.device).on_device()
            attention = ForestAttention(layout, heads, index)
            times[f"attention {blocks}"] = microseconds(lambda a=attention: a.attend(queries, kv))  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - for example too little shared memory
            times[f"attention {blocks}"] = f"{type(error).__name__}: {error}"[:80]
    kernels.QUERY_BLOCK, kernels.LAUNCH_16_BIT = defaults
    times["attention, gathered keys and torch's kernel"] = _varlen(layout, heads, queries, kv)
    return times


def _varlen(layout: KVLayout, heads: AttentionShape, queries: Tensor, kv: Tensor) -> Any:
    """Time the alternative: keys of each node gathered behind its ancestors', then torch's variable-length kernel."""
    from torch.nn.attention.varlen import varlen_attn

    forest = layout.forest
    paths = [[*forest.ancestors(index), index] for index in layout.computed]
    rows = torch.from_numpy(layout.kv_rows(node for path in paths for node in path)).to(kv.device)
    q_lengths = [len(forest.nodes[index].ids) for index in layout.computed]
    k_lengths = [forest.nodes[index].position + len(forest.nodes[index].ids) for index in layout.computed]

    def offsets(lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths], device=kv.device).cumsum(0, dtype=torch.int32)

    cu_q, cu_k = offsets(q_lengths), offsets(k_lengths)

    def call() -> Any:
        k, v = kv.index_select(0, rows).view(len(rows), 2, -1, heads.head_dim).unbind(1)
        q = queries.view(len(queries), -1, heads.head_dim)
        return varlen_attn(
            q, k, v, cu_q, cu_k, max(q_lengths), max(k_lengths), scale=heads.scale, window_size=(-1, 0)
        )

    try:
        return microseconds(call)
    except Exception as error:  # noqa: BLE001 - it is not on every device and in every torch
        return f"{type(error).__name__}: {error}"[:120]
