"""Linear layers in the dtype of the computation. Their subclasses in `int8` hold quantised weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["Linear"]

ROW_MULTIPLE = 8
MIN_ROWS_PER_THREAD = 16
"""On a CPU, products with fewer rows per thread are padded to a multiple of 8 rows. MKL rounds a row the same
in any company, except for the last one to three rows of a thread's share, which use another kernel. Larger
products have no such shares.
"""


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
        """Multiply encoded rows to [rows, out]; `out`, if given, may receive the result."""
        if missing := _missing_rows(x):
            return F.linear(F.pad(x, (0, 0, 0, missing)), self.weight, self.bias)[: x.shape[0]]
        if out is None:
            return F.linear(x, self.weight, self.bias)
        if self.bias is None:
            return torch.mm(x, self.weight.t(), out=out)
        return torch.addmm(self.bias, x, self.weight.t(), out=out)

    def add_to(self, x: Tensor, y: Any) -> None:
        """Add the product with encoded rows `y` to `x` in place."""
        if missing := _missing_rows(x):
            padded_x, padded_y = (F.pad(t, (0, 0, 0, missing)) for t in (x, y))
            x.copy_(padded_x.addmm_(padded_y, self.weight.t())[: x.shape[0]])
        else:
            x.addmm_(y, self.weight.t())

    def rounds_rows_alike(self) -> bool:
        """Return whether a row of the product has the same bits among few other rows as among many."""
        num_rows = MIN_ROWS_PER_THREAD * torch.get_num_threads() + 5
        x = torch.randn(num_rows, self.in_features, generator=torch.Generator().manual_seed(0))
        every = self(self.encode(x))
        return all(torch.equal(self(self.encode(x[:n])), every[:n]) for n in range(1, num_rows, 3))

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
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


def _missing_rows(x: Tensor) -> int:
    """Return the rows to add to a product on a CPU, so that a row's rounding does not depend on the others."""
    if x.device.type != "cpu" or x.shape[0] >= MIN_ROWS_PER_THREAD * torch.get_num_threads():
        return 0
    return -x.shape[0] % ROW_MULTIPLE
