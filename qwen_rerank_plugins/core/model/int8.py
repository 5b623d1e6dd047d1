"""int8 linear layers: weights and activations in 8 bits, products accumulated exactly in 32 bits.

Weights are scaled per output row, activations per token, both symmetrically. Scores change by the rounding
error. The embedding, the norms and the head are not quantised. On a CPU the products are oneDNN's, with
weights packed once; the processor's instructions decide how many of an activation's 8 bits can be used.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qwen_rerank_plugins.core.model.linear import Linear, can_pack, pack
from qwen_rerank_plugins.errors import ConfigurationError, EngineError

__all__ = [
    "INT8_MAX",
    "ActivationCodes",
    "EncodedRows",
    "Int8Codes",
    "Int8Linear",
    "linear_converter",
    "quantize_rows",
]

logger = logging.getLogger(__name__)

INT8_MAX = 127
MIN_CUDA_ROWS = 17
"""Smallest number of rows that `torch._int_mm` accepts on CUDA."""

NO_ZERO_POINT = torch.zeros(1, dtype=torch.int32)
"""The zero point of all weights."""

MAX_PEAK = 16.0
"""Largest number of a row, relative to its root mean square, that is encoded without a fine part. Rounding to 8 bits
changes such a row by 16 / 127 / sqrt(12), or 3.6 %, and one of normally distributed numbers by 1 %.
"""

MAX_RELATIVE_TIME = 0.75
"""Largest time of an int8 product, relative to one in the dtype of the computation, at which "auto" selects int8."""

TIMED_ROWS = 128
TIMED_ROUNDS = 5

EXACT = 1e-6
"""Largest relative difference of an exact product: the conversion of its 32-bit sum to fp32."""


@dataclass(frozen=True, slots=True)
class ActivationCodes:
    """The codes of activations: unsigned 8-bit numbers from `zero_point - limit` to `zero_point + limit`.

    Processors with VNNI or AMX add the products of all codes in 32 bits. Others add two neighbouring
    products in 16 bits, which hold any such sum only if the codes have 7 bits.
    """

    limit: int
    zero_point: int


EIGHT_BITS = ActivationCodes(limit=127, zero_point=128)
SEVEN_BITS = ActivationCodes(limit=63, zero_point=64)


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows of activations as codes.

    Attributes:
        codes: [rows + fine parts, in] 8-bit codes.
        scale: [rows + fine parts, 1] fp32: the value of one step.
        fine_rows: [fine parts]: the row that each fine part is added to; None if there are none.
        dtype: The dtype of the activations.
    """

    codes: Tensor
    scale: Tensor
    fine_rows: Tensor | None
    dtype: torch.dtype


class Int8Codes(Linear):
    """The weights of a checkpoint that stores 8-bit codes, before they are packed into an `Int8Linear`.

    Args:
        codes: [out, in] int8.
        scale: [out] fp32: the value of one step of each row.
        bias: [out], or None.
    """

    __slots__ = ("scale",)

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(codes, bias)
        self.scale = scale

    def rows(self, part: slice) -> Int8Codes:
        """Return the codes of some rows, which are not copied."""
        return Int8Codes(self.weight[part], self.scale[part], None if self.bias is None else self.bias[part])


class Int8Linear(Linear):
    """A linear layer in int8, with the interface of `Linear`.

    Args:
        codes: [out, in] int8.
        scale: [out] fp32: the value of one step of each row.
        bias: [out], or None.
        activations: The codes of the activations.

    Attributes:
        weight: The codes; on a CPU in oneDNN's packed layout.
    """

    __slots__ = ("activations", "scale")
    is_quantized = True

    @property
    def number_format(self) -> str:
        """The format of the products, with the largest code of an activation."""
        return f"int8, activations to {self.activations.limit}"

    def __init__(
        self, codes: Tensor, scale: Tensor, bias: Tensor | None, activations: ActivationCodes
    ) -> None:
        super().__init__(torch.ops.onednn.qlinear_prepack(codes, None) if _on_cpu(codes) else codes, bias)
        self.scale = scale
        self.activations = activations

    @classmethod
    def from_linear(cls, linear: Linear, activations: ActivationCodes) -> Int8Linear:
        """Quantise the weights of a layer, packed or not; those of `Int8Codes` are packed as they are."""
        if isinstance(linear, Int8Codes):
            return cls(linear.weight, linear.scale, linear.bias, activations)
        codes, scale = quantize_rows(linear.weight.to_dense().float(), INT8_MAX)
        return cls(codes, scale[:, 0].contiguous(), linear.bias, activations)

    def encode(self, x: Tensor, *, precise: bool = False) -> EncodedRows:
        """Quantise rows [rows, in]; see `Linear.encode`.

        A precise row is the sum of two: its codes, and the codes of what they lack. Its error is that of 15
        bits; of 13 where codes have 7. On a CPU, so is each row whose largest number is far above the others.
        """
        rows, limit = x.float(), self.activations.limit
        codes, scale = quantize_rows(rows, limit)
        fine_rows = self._fine_rows(rows, scale, precise=precise)
        if fine_rows is not None:
            lacking = rows[fine_rows] - codes[fine_rows] * scale[fine_rows]
            fine_codes, fine_scale = quantize_rows(lacking, limit)
            codes, scale = torch.cat([codes, fine_codes]), torch.cat([scale, fine_scale])
        if _on_cpu(codes):
            wrapped = self.activations.zero_point - (256 if self.activations.zero_point > INT8_MAX else 0)
            codes = codes.add_(wrapped).view(torch.uint8)
        return EncodedRows(codes, scale, fine_rows, x.dtype)

    def _fine_rows(self, rows: Tensor, scale: Tensor, *, precise: bool) -> Tensor | None:
        """Return the rows that have a fine part."""
        if precise:
            return torch.arange(rows.shape[0], device=rows.device)
        if not _on_cpu(rows):
            return None
        factor = MAX_PEAK / self.activations.limit * rows.shape[1] ** -0.5
        largest_step = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).mul_(factor)
        found = (scale > largest_step)[:, 0].nonzero()[:, 0]
        return found if found.shape[0] else None

    @property
    def in_features(self) -> int:
        """Columns of the input."""
        return self.weight.numel() // self.out_features

    @property
    def out_features(self) -> int:
        """Columns of the result."""
        return self.scale.shape[0]

    def __call__(self, x: EncodedRows, out: Tensor | None = None) -> Tensor:
        """Multiply encoded rows to [rows, out], in the dtype of the activations; `out` is not used."""
        del out
        products = self.multiply(x.codes).mul_(x.scale)
        if x.fine_rows is not None:
            num_rows = products.shape[0] - x.fine_rows.shape[0]
            products = products[:num_rows].index_add_(0, x.fine_rows, products[num_rows:])
        if self.bias is not None:
            products += self.bias
        return products.to(x.dtype)

    def add_to(self, x: Tensor, y: EncodedRows) -> None:
        """Add the product with encoded rows `y` to `x` in place."""
        x += self(y)

    def multiply(self, codes: Tensor) -> Tensor:
        """Return exact products of codes, in fp32 and scaled by the weights' scale."""
        if not _on_cpu(codes):
            return _int_mm(codes, self.weight) * self.scale
        products: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(codes, 1.0, self.activations.zero_point, self.weight, self.scale, NO_ZERO_POINT, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return products

    @property
    def num_bytes(self) -> int:
        """Memory of codes, scales and bias."""
        return super().num_bytes + self.scale.nbytes


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def quantize_rows(x: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return rows of signed codes, and the scale of each row, [rows, 1] fp32."""
    scale = x.abs().amax(-1, keepdim=True).div_(limit).clamp_min_(torch.finfo(torch.float32).tiny)
    return (x * scale.reciprocal()).round_().to(torch.int8), scale


def _int_mm(x: Tensor, weight: Tensor) -> Tensor:
    """Return the exact int32 products of int8 rows on CUDA."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, max(0, MIN_CUDA_ROWS - x.shape[0])))
    return torch._int_mm(padded, weight.t())[: x.shape[0]]  # noqa: SLF001 - torch's only int8 product


def _relative_time(dtype: torch.dtype, shape: tuple[int, int], activations: ActivationCodes) -> float:
    """Return the time of a product in int8, its encoding included, relative to one in `dtype`."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    plain = Linear(weight)
    linears = [pack(plain), Int8Linear.from_linear(plain, activations)]
    x = torch.ones(TIMED_ROWS, shape[1], dtype=dtype)
    fastest = [math.inf, math.inf]
    for _ in range(TIMED_ROUNDS):  # in turn, so that other programs disturb both
        for index, linear in enumerate(linears):
            start_s = time.perf_counter()
            linear(linear.encode(x))
            fastest[index] = min(fastest[index], time.perf_counter() - start_s)
    return fastest[1] / fastest[0]


def linear_converter(
    kind: str, device: torch.device, dtype: torch.dtype, shapes: Sequence[tuple[int, int]]
) -> Callable[[Linear], Linear] | None:
    """Return the function that converts loaded linear layers to those of the computation; None to keep them.

    Args:
        kind: "none", "int8", or "auto": int8 on a CPU where it is exact and faster.
        device: Device of the weights.
        dtype: Dtype of the computation.
        shapes: The shapes [out, in] of a layer's weights.

    Raises:
        ConfigurationError: The kind is unknown, or the device has no such products.
        EngineError: int8 products are not exact on this processor.
    """
    unquantized = pack if can_pack(device, dtype) else None
    if kind == "none":
        return unquantized
    if kind not in ("int8", "auto"):
        raise ConfigurationError(f"quantization {kind!r} is not supported; use 'none', 'int8' or 'auto'")
    if device.type != "cpu":
        if kind == "int8":
            raise ConfigurationError(f"quantization 'int8' is for CPUs; on {device} use 'none'")
        logger.info("quantization is 'none': 'auto' selects int8 on a CPU only")
        return unquantized
    try:
        activations = exact_activations(shapes)
    except EngineError as error:
        if kind == "int8":
            raise
        logger.info("quantization is 'none': %s", error)
        return unquantized
    if kind == "auto" and not _is_faster(dtype, max(shapes), activations):
        return unquantized
    return partial(Int8Linear.from_linear, activations=activations)


def _is_faster(dtype: torch.dtype, shape: tuple[int, int], activations: ActivationCodes) -> bool:
    ratio = _relative_time(dtype, shape, activations)
    is_faster = ratio <= MAX_RELATIVE_TIME
    logger.info(
        "quantization is %r: a product in int8 takes %.2f of its time in %s here; int8 is used up to %.2f",
        *("int8" if is_faster else "none", ratio, str(dtype).removeprefix("torch."), MAX_RELATIVE_TIME),
    )
    return is_faster


def exact_activations(shapes: Iterable[tuple[int, int]]) -> ActivationCodes:
    """Return the codes with the most bits whose products are exact on this processor.

    Products of the largest numbers are compared with integers, for each shape of the weights.

    Raises:
        EngineError: None are exact.
    """
    sizes, error = sorted(set(shapes)), 0.0
    for activations in (EIGHT_BITS, SEVEN_BITS):
        error = max(_worst_case_error(activations, *size) for size in sizes)
        if error <= EXACT:
            return activations
    raise EngineError(
        f"int8 products are not exact on this processor: a product of the largest numbers differs from integers by "
        f"{error:.2g} of its size. Set quantization to 'none'"
    )


def _worst_case_error(activations: ActivationCodes, size_out: int, size_in: int) -> float:
    """Return the largest relative difference between products of the largest numbers and integers."""
    signs = torch.ones(8, size_in, dtype=torch.float64)
    signs[1] = -1.0
    signs[2, ::2] = signs[3, 1::2] = signs[4, : size_in // 2] = signs[5, ::3] = signs[6, ::5] = -1.0
    repeats = -(-size_out // 8)
    codes = (signs * INT8_MAX).to(torch.int8).repeat(repeats, 1)[:size_out]
    linear = Int8Linear(codes, torch.ones(size_out), None, activations)
    rows = (signs * activations.limit).float().repeat(5, 1)
    exact = (rows.double() @ (signs * INT8_MAX).t()).repeat(1, repeats)[:, :size_out]
    found = linear(linear.encode(rows)).double()
    return float(((found - exact).abs() / exact.abs().clamp_min(size_in)).max())
