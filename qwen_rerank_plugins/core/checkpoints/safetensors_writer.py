"""Write a safetensors file a part of a tensor at a time, so that no tensor need be in memory. Knows no model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen_rerank_plugins.closing import CloseMixin

__all__ = ["SafetensorsWriter", "TensorForm", "num_bytes"]

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int8: "I8"}
_HEADER_MULTIPLE = 8

TensorForm = tuple[torch.dtype, tuple[int, ...]]
"""Dtype and shape of a tensor."""


def num_bytes(form: TensorForm) -> int:
    """Return the size of a tensor."""
    return form[0].itemsize * math.prod(form[1])


class SafetensorsWriter(CloseMixin):
    """A file whose tensors are known in advance, and written in any order.

    The wider a dtype, the closer to the file's start are its tensors, so that each is aligned.

    Args:
        path: The file, which must not exist.
        tensors: Name → dtype and shape.
    """

    def __init__(self, path: Path, tensors: Mapping[str, TensorForm]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._places: dict[str, tuple[int, TensorForm]] = {}
        end = 0
        for name, form in sorted(tensors.items(), key=lambda item: -item[1][0].itemsize):
            start, end = end, end + num_bytes(form)
            self._places[name] = start, form
            header[name] = {"dtype": _DTYPES[form[0]], "shape": form[1], "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _HEADER_MULTIPLE)
        self._file = path.open("xb")
        self._data_start = self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._data_start + end)

    def write_rows(self, name: str, rows: Tensor, first_row: int = 0) -> None:
        """Write rows of a tensor, from `first_row` on."""
        start, (dtype, _) = self._places[name]
        assert rows.dtype is dtype
        self._file.seek(self._data_start + start + first_row * rows[:1].nbytes)
        self._file.write(rows.contiguous().view(torch.uint8).numpy().data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
