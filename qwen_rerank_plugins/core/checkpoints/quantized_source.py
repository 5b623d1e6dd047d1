"""The dequantised tensors of quantised safetensors files: (code - zero point) * scale, a block of rows at a time.

Each tensor's shape is compared with its neighbours' before anything is read; zero points and scales are checked as they are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen_rerank_plugins.core.checkpoints.quantization import Quantization, Scheme
from qwen_rerank_plugins.core.checkpoints.safetensors_file import SafetensorsSource
from qwen_rerank_plugins.errors import CheckpointFormatError, TensorMismatchError

__all__ = ["QuantizedSource"]

_WORD_BITS = 32
_CODES = {"plain": "weight", "packed": "weight_packed", "awq": "qweight", "gptq": "qweight"}
_SCALES = ("weight_scale", "weight_scale_inv", "scales")
_ZERO_POINTS = ("weight_zero_point", "qzeros")
_COLUMN_GROUPS = ("weight_g_idx", "g_idx")
_OF_ACTIVATIONS = ("input_scale", "input_zero_point")
_PARTS = (*_CODES.values(), *_SCALES, *_ZERO_POINTS, *_COLUMN_GROUPS, *_OF_ACTIVATIONS, "weight_shape")
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""The place in a word of AWQ's of each of eight neighbouring codes."""

_E4M3_NAN = 127
"""The bits of NaN, whatever its sign."""

_FLOATS = ("F64", "F32", "F16", "BF16")
_DEQUANTISE_BLOCK_BYTES = 2 << 20
"""Bytes of fp32 numbers that are dequantised at once, so that they stay in the processor's cache."""


class QuantizedSource:
    """The tensors of safetensors files, dequantised, as a `TensorSource`.

    Args:
        stored: The tensors as they are stored.
        quantization: How they are quantised.

    Attributes:
        shapes: The shape of every tensor, by the names of an unquantised checkpoint.

    Raises:
        CheckpointFormatError: A tensor has another dtype than its format.
        TensorMismatchError: The tensors of a layer do not fit together.
    """

    def __init__(self, stored: SafetensorsSource, quantization: Quantization) -> None:
        self._stored = stored
        self._weights: dict[str, _Weight] = {}
        self.shapes = dict(stored.shapes)
        for module in sorted({name.rpartition(".")[0] for name in stored.shapes}):
            scheme = quantization.scheme(module)
            if scheme is None or not _is_quantized(stored, module, scheme):
                continue
            weight = _Weight(stored, module, scheme)
            for part in _PARTS:
                self.shapes.pop(f"{module}.{part}", None)
            self._weights[f"{module}.weight"] = weight
            self.shapes[f"{module}.weight"] = weight.shape

    def dtype(self, name: str) -> torch.dtype:
        """Return fp32 for a quantised tensor, and the stored dtype for another one."""
        return torch.float32 if name in self._weights else self._stored.dtype(name)

    def read_rows(self, name: str, target: Tensor, first_row: int = 0) -> None:
        """Dequantise rows into `target`. A target of `torch.int8` receives the codes of a tensor with `has_int8_rows`."""
        if name not in self._weights:
            self._stored.read_rows(name, target, first_row)
            return
        weight = self._weights[name]
        num_rows = max(8, _DEQUANTISE_BLOCK_BYTES // max(1, 4 * target[:1].numel()) // 8 * 8)
        for start in range(0, len(target), num_rows):
            part = target[start : start + num_rows]
            rows = range(first_row + start, first_row + start + len(part))
            if target.dtype is torch.int8:
                part.copy_(weight.codes(rows))
            else:
                weight.dequantize(rows, part)

    def has_int8_rows(self, name: str) -> bool:
        """Return whether a tensor is stored as signed 8-bit codes with one scale per row, and no zero points."""
        return name in self._weights and self._weights[name].has_int8_rows

    def row_scales(self, name: str) -> Tensor:
        """Return the scale of each row of a tensor with `has_int8_rows`: [rows] fp32."""
        return self._weights[name].scales(range(self.shapes[name][0]))[:, 0].contiguous()


def _is_quantized(stored: SafetensorsSource, module: str, scheme: Scheme) -> bool:
    """Return whether the module has codes; modules that a quantiser left out have plain weights."""
    codes = f"{module}.{_CODES[scheme.layout]}"
    return codes in stored.shapes and stored.stored_dtype(codes) not in _FLOATS


class _Weight:
    """The weights of a linear layer: codes, and the scale and zero point of each block of them.

    Args:
        stored: The tensors as they are stored.
        module: The layer's name.
        scheme: How it is stored.
    """

    def __init__(self, stored: SafetensorsSource, module: str, scheme: Scheme) -> None:
        self._stored, self._module, self._scheme = stored, module, scheme
        self._is_transposed = scheme.layout in ("awq", "gptq")
        self._codes = f"{module}.{_CODES[scheme.layout]}"
        self._scale, self._zeros, self._groups = (
            next((name for part in parts if (name := f"{module}.{part}") in stored.shapes), None)
            for parts in (_SCALES, _ZERO_POINTS, _COLUMN_GROUPS)
        )
        self._per_word = _WORD_BITS // scheme.bits
        self.shape = self._read_shape()
        self._grid = self._block_grid()
        self._has_packed_zeros = False
        self._check_parts()

    def _read_shape(self) -> tuple[int, int]:
        """Return the shape [out, in] of the weights, which the codes must have room for."""
        shape = self._stored.shapes[self._codes]
        if len(shape) != 2 or 0 in shape:  # noqa: PLR2004
            raise self._mismatch(self._codes, "two dimensions")
        rows, columns = shape
        if self._scheme.layout == "awq":
            return columns * self._per_word, rows
        if self._scheme.layout == "gptq":
            return columns, rows * self._per_word
        if self._scheme.layout == "plain":
            return rows, columns
        name = f"{self._module}.weight_shape"
        if self._stored.shapes.get(name) != (2,) or self._stored.stored_dtype(name) not in ("I64", "I32"):
            raise TensorMismatchError(f"{self._module} lacks a weight_shape of two integers")
        found = tuple(self._stored.read(name).tolist())
        if found[0] != rows or not 0 < found[1] <= columns * self._per_word < found[1] + self._per_word:
            raise TensorMismatchError(
                f"{name} is {found}, which {self._codes} of the shape {shape} does not hold"
            )
        return found

    def _block_grid(self) -> tuple[int, int]:
        """Return the numbers of blocks along both dimensions."""
        rows, columns = self._scheme.block
        if rows == 1 and columns and self.shape[1] % columns:
            raise TensorMismatchError(
                f"{self._module} has {self.shape[1]} columns, which are not groups of {columns}, as its configuration says"
            )
        return -(-self.shape[0] // (rows or self.shape[0])), -(-self.shape[1] // (columns or self.shape[1]))

    def _check_parts(self) -> None:
        """Compare dtypes and shapes of all parts with those of the scheme."""
        scheme, (rows, columns) = self._scheme, self._grid
        coded = ("F8_E4M3" if scheme.is_float else "I8") if scheme.layout == "plain" else "I32"
        grids: list[tuple[int, ...]] = [(columns, rows)] if self._is_transposed else [(rows, columns)]
        if self._grid[1] == 1 and not self._is_transposed:
            grids += [(rows,), ()] if rows == 1 else [(rows,)]
        self._check(self._codes, [self._stored.shapes[self._codes]], (coded,))
        if self._scale is None or (self._zeros is None and self._is_transposed):
            raise TensorMismatchError(
                f"{self._module} has codes but no {'scales' if self._scale is None else 'qzeros'}"
            )
        self._check(self._scale, grids, _FLOATS)
        if self._groups is not None:
            self._check(self._groups, [(self.shape[1],)], ("I32", "I64"))
        if self._zeros is not None:
            packed = (-(-rows // self._per_word), columns)
            packed = packed[::-1] if self._is_transposed else packed
            self._has_packed_zeros = self._is_transposed or (
                scheme.layout == "packed" and self._stored.stored_dtype(self._zeros) == "I32"
            )
            kinds = ("I32",) if self._has_packed_zeros else ("I8", "F8_E4M3", *_FLOATS)
            self._check(self._zeros, [packed] if self._has_packed_zeros else grids, kinds)

    def _check(self, name: str, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> None:
        if self._stored.shapes[name] not in shapes:
            raise self._mismatch(name, " or ".join(map(str, shapes)))
        if self._stored.stored_dtype(name) not in dtypes:
            raise CheckpointFormatError(
                f"{name} is stored as {self._stored.stored_dtype(name)}, but its format has {' or '.join(dtypes)}"
            )

    def _mismatch(self, name: str, wanted: str) -> TensorMismatchError:
        return TensorMismatchError(
            f"{name} has the shape {self._stored.shapes[name]}, but {self._scheme.number_format} weights in its format "
            f"need {wanted}; check that config.json and weights belong together"
        )

    @property
    def has_int8_rows(self) -> bool:
        """See `QuantizedSource.has_int8_rows`."""
        return self._scheme.is_int8 and self._zeros is None and self._groups is None

    def dequantize(self, rows: range, target: Tensor) -> None:
        """Write some rows into `target`, on its device.

        Codes less zero points are at most 8 bits long, exact in each dtype; the product is rounded once.
        """
        target.copy_(self.codes(rows))
        scales, zeros = (part.to(target.device) for part in (self.scales(rows), self._zero_points(rows)))
        groups = self._column_groups()
        if groups is None:
            target.unflatten(1, (self._grid[1], -1)).sub_(zeros[..., None]).mul_(scales[..., None])
        else:
            groups = groups.to(target.device)
            zeros = zeros.expand(-1, self._grid[1])
            target.sub_(zeros.index_select(1, groups)).mul_(scales.index_select(1, groups))

    def codes(self, rows: range) -> Tensor:
        """Return the codes of some rows: [rows, in], packed ones from 0 on, and floating-point ones in fp16.

        Raises:
            CheckpointFormatError: A floating-point code is NaN.
        """
        if self._scheme.layout == "plain":
            stored = self._stored.read(self._codes, slice(rows.start, rows.stop)).view(torch.int8)
            if self._scheme.is_float and (stored & _E4M3_NAN).max() == _E4M3_NAN:
                raise CheckpointFormatError(
                    f"{self._codes} has values that are not finite; download it again"
                )
            return _e4m3_to_half(stored) if self._scheme.is_float else stored
        if self._scheme.layout == "awq":
            return self._words_of_rows(self._codes, rows)
        part = slice(rows.start, rows.stop)
        if self._is_transposed:
            return self._unpack(self._stored.read(self._codes, slice(None), part).T)
        return self._unpack(self._stored.read(self._codes, part))[:, : self.shape[1]]

    def _unpack(self, words: Tensor) -> Tensor:
        """Return the unsigned codes of words along the last dimension, the lowest bits first."""
        octets = words.contiguous().view(torch.uint8)
        if self._scheme.bits == 8:  # noqa: PLR2004
            return octets
        return torch.stack((octets & 15, octets >> 4), -1).flatten(-2)

    def _words_of_rows(self, name: str, rows: range) -> Tensor:
        """Return the codes of some rows where each word holds several of them: [rows, other dimension]."""
        bits, first, last = self._scheme.bits, rows.start // self._per_word, -(-rows.stop // self._per_word)
        part = slice(first, last)
        words = (
            self._stored.read(name, slice(None), part).T
            if self._is_transposed
            else self._stored.read(name, part)
        )
        if self._scheme.zero_offset:
            # GPTQ's first format stores zero points less 1, subtracted from whole words: a borrow is undone by a carry.
            words = words + sum(1 << shift for shift in range(0, _WORD_BITS, bits))
        places = _AWQ_PLACES if self._scheme.layout == "awq" else range(self._per_word)
        words, mask = words.contiguous(), (1 << bits) - 1
        codes = torch.stack([(words >> bits * place & mask).to(torch.uint8) for place in places], 1).flatten(
            0, 1
        )
        return codes[rows.start - first * self._per_word :][: len(rows)]

    def scales(self, rows: range) -> Tensor:
        """Return the scales of some rows: [rows or 1, blocks of columns] fp32.

        Raises:
            CheckpointFormatError: One is not finite.
        """
        assert self._scale is not None
        scales = self._grid_rows(self._scale, rows)
        if not torch.isfinite(scales).all():
            raise CheckpointFormatError(f"{self._scale} has values that are not finite; download it again")
        return scales

    def _zero_points(self, rows: range) -> Tensor:
        """Return the zero points of some rows: [rows or 1, blocks of columns or 1] fp32."""
        middle = 1 << (self._scheme.bits - 1) if self._scheme.layout == "packed" else 0
        if self._zeros is None:
            return torch.full((1, 1), float(middle))
        if self._has_packed_zeros:
            return self._words_of_rows(self._zeros, rows).float()
        zeros = self._grid_rows(self._zeros, rows)
        if not (zeros.abs() <= 1 << (self._scheme.bits - 1)).all():
            raise CheckpointFormatError(f"{self._zeros} has values that {self._scheme.bits} bits cannot hold")
        return zeros + middle

    def _grid_rows(self, name: str, rows: range) -> Tensor:
        """Return the values of some rows out of a tensor with one value for each block: [rows or 1, blocks of columns]."""
        size = self._scheme.block[0]
        if self._is_transposed:
            return self._stored.read(name, slice(None), slice(rows.start, rows.stop)).T.float()
        if not size or not self._stored.shapes[name]:
            return self._stored.read(name).float().view(1, self._grid[1])
        first, last = rows.start // size, -(-rows.stop // size)
        values = self._stored.read(name, slice(first, last)).float().view(last - first, self._grid[1])
        return values if size == 1 else values[torch.arange(rows.start, rows.stop) // size - first]

    def _column_groups(self) -> Tensor | None:
        """Return the block of each column; None if all blocks have the same size and are in order.

        Raises:
            CheckpointFormatError: A column names a block that does not exist.
        """
        size = self._scheme.block[1] or self.shape[1]
        if self._groups is None:
            return None if self.shape[1] % size == 0 else torch.arange(self.shape[1]) // size
        groups = self._stored.read(self._groups).long()
        if not ((groups >= 0) & (groups < self._grid[1])).all():
            raise CheckpointFormatError(
                f"{self._groups} names groups outside of 0 to {self._grid[1] - 1}; download it again"
            )
        return None if torch.equal(groups, torch.arange(self.shape[1]) // size) else groups


def _e4m3_to_half(codes: Tensor) -> Tensor:
    """Return E4M3 numbers in fp16, which holds them exactly; torch's own conversion takes several times as long."""
    # One sign bit and four bits of exponent above three of mantissa, as in fp16 with its exponent's bias of 15 in place of 7.
    return ((codes.to(torch.int16) << 7) & ~(1 << 14)).view(torch.float16).mul_(1 << 8)
