"""Time of a decoder's matrix multiplications alone on this machine, for given batches.

The same matrices (each layer's own, so that they come from memory as in the forward pass), the same numbers
of rows, the same number format, and nothing between the products.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qwen_rerank_plugins.core.model.decoder import CPU_ROWS_PER_BLOCK, Decoder, Linear

__all__ = ["Batch", "multiply"]


class Batch(NamedTuple):
    """A forward pass: its packed tokens, and the prompts whose last token passes the last layer."""

    num_tokens: int
    num_prompts: int


class _Product(NamedTuple):
    """`num_rows` rows times a stored matrix [out, in]."""

    num_rows: int
    weight: Tensor

    @property
    def num_operations(self) -> int:
        return 2 * self.num_rows * self.weight.numel()


def multiply(decoder: Decoder, batches: Sequence[Batch]) -> dict[str, Any]:
    """Time the products of all batches.

    Returns:
        Plain JSON types: `num_tokens` and `num_prompts` of the batches, `gflop`, `seconds`, `gflops` (per second;
        for int8 they are operations on integers).
    """
    products = [product for batch in batches for product in _products(decoder, batch)]
    workspace = _Workspace(products, decoder.dtype)
    with torch.inference_mode():
        block = _faster_block(workspace, products[:4])
        seconds = workspace.time(products, block)
    gflop = sum(product.num_operations for product in products) / 1e9
    return {
        "num_tokens": sum(batch.num_tokens for batch in batches),
        "num_prompts": sum(batch.num_prompts for batch in batches),
        "gflop": gflop,
        "seconds": seconds,
        "gflops": gflop / seconds,
    }


def _products(decoder: Decoder, batch: Batch) -> Iterator[_Product]:
    """Yield the products of one forward pass; the last layer computes only keys and values for all tokens."""
    attention = decoder.architecture.attention
    queries = attention.num_heads * attention.head_dim
    for layer in decoder.weights.layers[:-1]:
        yield from _each(batch.num_tokens, (layer.qkv, layer.output, layer.gate_up, layer.down))
    last = decoder.weights.layers[-1]
    keys_and_values = last.qkv.rows(queries, last.qkv.weight.shape[0])
    yield from _each(batch.num_tokens, (keys_and_values,))
    yield from _each(batch.num_prompts, (last.qkv.rows(0, queries), last.output, last.gate_up, last.down))


def _each(num_rows: int, layers: Iterable[Linear]) -> Iterator[_Product]:
    return (_Product(num_rows, layer.weight) for layer in layers)


class _Workspace:
    """Buffers for factors and results, so that no memory is allocated while timing."""

    def __init__(self, products: Sequence[_Product], dtype: torch.dtype) -> None:
        sizes_in = max(product.num_rows * product.weight.shape[1] for product in products)
        sizes_out = max(product.num_rows * product.weight.shape[0] for product in products)
        integers = products[0].weight.dtype is torch.int8
        self._multiply = torch._int_mm if integers else torch.mm  # noqa: SLF001 - the one int8 product torch has
        self._in = torch.randn(sizes_in).mul_(10).to(torch.int8 if integers else dtype)
        self._out = torch.zeros(sizes_out, dtype=torch.int32 if integers else dtype)

    def time(self, products: Sequence[_Product], block: int) -> float:
        """Return seconds of the products, `block` rows at a time."""
        start = time.perf_counter()
        for num_rows, weight in products:
            for first in range(0, num_rows, block):
                self._product(min(block, num_rows - first), weight)
        return time.perf_counter() - start

    def _product(self, num_rows: int, weight: Tensor) -> None:
        size_out, size_in = weight.shape
        x = self._in[: num_rows * size_in].view(num_rows, size_in)
        out = self._out[: num_rows * size_out].view(num_rows, size_out)
        self._multiply(x, weight.t(), out=out)


def _faster_block(workspace: _Workspace, products: Sequence[_Product]) -> int:
    """Return the faster number of rows at a time: the core's own blocks, or all. Also warms up."""
    blocks = (CPU_ROWS_PER_BLOCK, 1 << 30)
    times = {block: min(workspace.time(products, block) for _ in range(2)) for block in blocks}
    return min(times, key=times.__getitem__)
