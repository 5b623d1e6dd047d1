"""Linear layers in the dtype of the computation. Their subclasses in `int8` hold quantised weights."""

# ruff: noqa: SLF001 - the operators of oneDNN

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["ROW_MULTIPLE", "Linear", "PackedLinear", "can_pack", "pack"]

ROW_MULTIPLE = 8
"""On a CPU, products have a multiple of this many rows. A row is then rounded the same in any company: oneDNN sums a
single row in another order, and MKL the last one to three rows of a thread's share. And few sizes recur: oneDNN compiles
a kernel for each, which takes up to a millisecond.
"""

PROBED_ROWS = 72

_onednn = torch.ops.mkldnn
"""The operators that torch's own compiler uses for packed weights; they have no public names."""


class Linear:
    """A matrix multiplication by stored weights [out, in].

    A product takes two steps: `encode` brings rows into the number format of the weights, and calling the layer
    multiplies them. Layers with the same input share the first step.
    """

    __slots__ = ("bias", "weight")
    is_quantized: ClassVar[bool] = False

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    @property
    def number_format(self) -> str:
        """The format of the products."""
        return str(self.weight.dtype).removeprefix("torch.")

    def encode(self, x: Tensor, *, precise: bool = False) -> Any:
        """Return rows [rows, in] in the form that the layer multiplies; here, as they are.

        Args:
            x: The rows.
            precise: Encode with less error, at twice the cost, where encoding rounds.
        """
        del precise
        return x

    def __call__(self, x: Any, out: Tensor | None = None) -> Tensor:
        """Multiply encoded rows to [rows, out]; `out`, if given, receives the result."""
        if out is None:
            return F.linear(x, self.weight, self.bias)
        if self.bias is None:
            return torch.mm(x, self.weight.t(), out=out)
        return torch.addmm(self.bias, x, self.weight.t(), out=out)

    def add_to(self, x: Tensor, y: Any) -> None:
        """Add the product with encoded rows `y` to `x` in place."""
        x.addmm_(y, self.weight.t())

    def rounds_rows_alike(self) -> bool:
        """Return whether a row of the product has the same bits among few other rows as among many."""
        x = torch.randn(PROBED_ROWS, self.in_features, generator=torch.Generator().manual_seed(0))
        every = self(self.encode(x))
        counts = range(ROW_MULTIPLE, PROBED_ROWS, ROW_MULTIPLE)
        return all(torch.equal(self(self.encode(x[:n])), every[:n]) for n in counts)

    def rows(self, part: slice) -> Linear:
        """Return the layer of some rows of the weights, which are not copied."""
        return Linear(self.weight[part], None if self.bias is None else self.bias[part])

    @property
    def in_features(self) -> int:
        """Columns of the input."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Columns of the result."""
        return self.weight.shape[0]

    @property
    def num_bytes(self) -> int:
        """Memory of the weights."""
        return self.weight.numel() * self.weight.element_size() + (
            0 if self.bias is None else self.bias.nbytes
        )


class PackedLinear(Linear):
    """A linear layer on a CPU, whose weights are kept in the layout of oneDNN's kernels.

    Other products bring their weights into such a layout each time, which takes longer than the product itself of a
    few rows.
    """

    __slots__ = ()

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(_onednn._reorder_linear_weight(weight, None), bias)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Multiply rows to [rows, out]; `out` is not used."""
        del out
        product: Tensor = _onednn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return product

    def add_to(self, x: Tensor, y: Tensor) -> None:
        """Add the product with rows `y` to `x` in place."""
        x.copy_(_onednn._linear_pointwise.binary(y, x, self.weight, self.bias, "add"))


def pack(linear: Linear) -> Linear:
    """Return a layer with packed weights where this processor has such products, and the layer itself elsewhere."""
    packs = can_pack(linear.weight.device, linear.weight.dtype)
    return PackedLinear(linear.weight, linear.bias) if packs else linear


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether `PackedLinear` multiplies numbers of this type on a device: on x86 processors with AVX2."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16 and not _onednn._is_mkldnn_bf16_supported():
        return False
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
