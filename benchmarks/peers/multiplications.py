"""Time of a decoder's matrix multiplications alone on this machine, for given batches.

The same matrices (each layer's own, so that they come from memory as in the forward pass), the same numbers
of rows, the same number format, and nothing between the products.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from qwen_rerank_plugins.core.model.decoder import CPU_ROWS_PER_BLOCK, Decoder
from qwen_rerank_plugins.core.model.int8 import Int8Linear
from qwen_rerank_plugins.core.model.linear import Linear

__all__ = ["Batch", "multiply"]


class Batch(NamedTuple):
    """A forward pass: its packed tokens, and the prompts whose last token passes the last layer."""

    num_tokens: int
    num_prompts: int


class _Product(NamedTuple):
    """`num_rows` rows times a stored matrix [out, in]."""

    num_rows: int
    linear: Linear

    @property
    def num_operations(self) -> int:
        return 2 * self.num_rows * self.linear.weight.numel()


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
    for layer in decoder.weights.layers[:-1]:
        yield from _each(batch.num_tokens, layer.linears)
    last = decoder.weights.layers[-1]
    yield from _each(batch.num_tokens, (last.key_value,))
    yield from _each(batch.num_prompts, (last.query, last.output, last.gate_up, last.down))


def _each(num_rows: int, layers: Iterable[Linear]) -> Iterator[_Product]:
    return (_Product(num_rows, layer) for layer in layers)


class _Workspace:
    """A buffer for the factors, so that no memory is filled while timing."""

    def __init__(self, products: Sequence[_Product], dtype: torch.dtype) -> None:
        sizes = max(num_rows * linear.in_features for num_rows, linear in products)
        is_quantized = products[0].linear.is_quantized
        self._in = torch.randn(sizes).abs_().mul_(10).to(torch.uint8 if is_quantized else dtype)

    def time(self, products: Sequence[_Product], block: int) -> float:
        """Return seconds of the products, `block` rows at a time."""
        start = time.perf_counter()
        for num_rows, linear in products:
            for first in range(0, num_rows, block):
                self._product(min(block, num_rows - first), linear)
        return time.perf_counter() - start

    def _product(self, num_rows: int, linear: Linear) -> None:
        x = self._in[: num_rows * linear.in_features].view(num_rows, -1)
        if isinstance(linear, Int8Linear):
            linear.multiply(x)
        else:
            linear(x)


def _faster_block(workspace: _Workspace, products: Sequence[_Product]) -> int:
    """Return the faster number of rows at a time: the core's own blocks, or all. Also warms up."""
    blocks = (CPU_ROWS_PER_BLOCK, 4 * CPU_ROWS_PER_BLOCK, 1 << 30)
    times = {block: min(workspace.time(products, block) for _ in range(2)) for block in blocks}
    return min(times, key=times.__getitem__)
