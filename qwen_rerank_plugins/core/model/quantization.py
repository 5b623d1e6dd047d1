"""int8 linear layers: weights and activations in 8 bits, products accumulated exactly in 32 bits.

Weights are scaled per output row, activations per token, both symmetrically to ±127. On processors with VNNI
the multiplication is several times as fast as fp32, and the weights take a quarter of the memory. Scores
change by the rounding error. The embedding, the norms and the head are not quantised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qwen_rerank_plugins.core.model.decoder import LayerWeights, Linear
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = ["Int8Linear", "get_quantizer"]

INT8_MAX = 127.0
MIN_CUDA_ROWS = 17
"""Smallest number of rows that `torch._int_mm` accepts on CUDA."""


class Int8Linear(Linear):
    """A linear layer in int8, with the interface of `Linear`."""

    __slots__ = ("scale",)

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.scale = scale

    @classmethod
    def from_linear(cls, linear: Linear) -> Int8Linear:
        """Quantise the weights of a layer."""
        weight, scale = quantize_per_token(linear.weight.float())
        return cls(weight, scale[:, 0].contiguous(), linear.bias)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Multiply [rows, in] to [rows, out], in the dtype of `x`; `out`, if given, receives the result."""
        codes, scale = quantize_per_token(x.float())
        target = out if out is not None and out.dtype is torch.float32 else None
        products = torch.mul(_int_matmul(codes, self.weight), scale, out=target).mul_(self.scale)
        if self.bias is not None:
            products += self.bias
        if target is not None or out is None:
            return products.to(x.dtype)
        return out.copy_(products)

    def add_to(self, x: Tensor, y: Tensor) -> None:
        """Add the product with `y` to `x` in place."""
        x += self(y)

    def rows(self, first: int, last: int) -> Int8Linear:
        """Return the layer of the outputs from `first` to `last`, as a view."""
        bias = None if self.bias is None else self.bias[first:last]
        return Int8Linear(self.weight[first:last], self.scale[first:last], bias)

    @property
    def num_bytes(self) -> int:
        """Memory of codes, scales and bias."""
        return super().num_bytes + self.scale.nbytes


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of int8 codes, and the scale of each row, [rows, 1] fp32."""
    scale = x.abs().amax(-1, keepdim=True).div_(INT8_MAX).clamp_min_(torch.finfo(torch.float32).tiny)
    return (x * scale.reciprocal()).round_().to(torch.int8), scale


def _int_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """Return the exact int32 products of int8 rows."""
    missing = MIN_CUDA_ROWS - x.shape[0]
    if x.device.type == "cuda" and missing > 0:
        padded = torch.nn.functional.pad(x, (0, 0, 0, missing))
        return torch._int_mm(padded, weight.t())[: x.shape[0]]  # noqa: SLF001 - torch's only int8 product
    return torch._int_mm(x, weight.t())  # noqa: SLF001


def get_quantizer(kind: str) -> Callable[[LayerWeights], None] | None:
    """Return the function that quantises a layer in place; None for no quantisation.

    Args:
        kind: "none" or "int8".

    Raises:
        ConfigurationError: The kind is unknown.
    """
    if kind == "none":
        return None
    if kind != "int8":
        raise ConfigurationError(f"quantization {kind!r} is not supported; use 'none' or 'int8'")
    return _quantize_int8


def _quantize_int8(layer: LayerWeights) -> None:
    layer.qkv = Int8Linear.from_linear(layer.qkv)
    layer.output = Int8Linear.from_linear(layer.output)
    layer.gate_up = Int8Linear.from_linear(layer.gate_up)
    layer.down = Int8Linear.from_linear(layer.down)
