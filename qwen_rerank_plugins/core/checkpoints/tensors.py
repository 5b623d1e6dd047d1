"""The contract between checkpoint formats and the loader: tensors by name, read in blocks of rows.

A format's class opens headers only. It converts on the way: a quantised format returns the dequantised numbers,
an adapter the merged ones, so that the loader sees plain tensors under the names of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["READ_BLOCK_BYTES", "TensorSource", "copy_tensor", "is_plain_pattern", "read_tensor"]

READ_BLOCK_BYTES = 32 << 20
"""Bytes of a large tensor read at once; the embedding of the 0.6B shape is ten times as large."""

_MAX_REPEATS = 4


def is_plain_pattern(pattern: str) -> bool:
    """Return whether a regular expression of a checkpoint cannot hang the loader: no repeated groups, and few repeats."""
    return not re.search(r"\)[*+?{]", pattern) and len(re.findall(r"[*+?{]", pattern)) <= _MAX_REPEATS


class TensorSource(Protocol):
    """The tensors of a checkpoint."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor, by its full name, such as "model.norm.weight"."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """Return the narrowest dtype that holds the tensor's numbers.

        Raises:
            CheckpointFormatError: The tensor is stored in a format that is not supported.
        """
        ...

    def read_rows(self, name: str, target: Tensor, first_row: int = 0) -> None:
        """Copy the rows from `first_row` on into `target`, whose dtype and device they take.

        Raises:
            CheckpointFormatError: The file cannot be read.
        """
        ...


def copy_tensor(source: TensorSource, name: str, target: Tensor) -> None:
    """Copy a whole tensor into `target`, a block of rows at a time."""
    rows = max(1, READ_BLOCK_BYTES // max(1, target[:1].nbytes))
    for first_row, part in zip(range(0, len(target), rows), target.split(rows), strict=True):
        source.read_rows(name, part, first_row)


def read_tensor(source: TensorSource, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a whole tensor."""
    target = torch.empty(source.shapes[name], dtype=dtype, device=device)
    copy_tensor(source, name, target)
    return target
