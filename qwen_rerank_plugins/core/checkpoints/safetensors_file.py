"""Tensors of one or more safetensors files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwen_rerank_plugins.core.checkpoints.tensors import READ_BLOCK_BYTES
from qwen_rerank_plugins.errors import CheckpointFormatError, TensorMismatchError

__all__ = ["SafetensorsSource", "full_name"]

_FLOAT_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def full_name(name: str) -> str:
    """Return the name of a causal model's tensor for that of a bare decoder's; others stay as they are."""
    return name if name.startswith(("model.", "lm_head.", "score.")) else f"model.{name}"


class SafetensorsSource:
    """The tensors of safetensors files, as a `TensorSource`.

    Args:
        files: The files.
        rename: Converts a stored name; by default, a bare decoder's "norm.weight" becomes "model.norm.weight".

    Attributes:
        shapes: The shape of every tensor.
        is_bare: Whether names are those of a decoder that was saved without a head, as embedding models are.

    Raises:
        CheckpointFormatError: A file is not valid.
        TensorMismatchError: A tensor is stored twice.
    """

    def __init__(self, files: Sequence[Path], rename: Callable[[str], str] = full_name) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.is_bare = False
        self._dtypes: dict[str, str] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        self._open_files: dict[Path, Any] = {}
        self._mapped_bytes = 0
        for path in files:
            self._read_header(path, rename)

    def _read_header(self, path: Path, rename: Callable[[str], str]) -> None:
        file = _open(path)
        for stored in file.keys():  # noqa: SIM118 - not a mapping
            view, name = file.get_slice(stored), rename(stored)
            if name in self.shapes:
                raise TensorMismatchError(
                    f"tensor {name!r} is stored twice, the second time in {path.name!r}; remove one of them"
                )
            self._places[name] = (path, stored)
            self.is_bare |= name != stored
            self.shapes[name] = tuple(view.get_shape())
            self._dtypes[name] = str(view.get_dtype())

    def stored_dtype(self, name: str) -> str:
        """Return the stored dtype by the name that the format has for it, such as "BF16" or "I8"."""
        return self._dtypes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Return the stored dtype."""
        if self._dtypes[name] not in _FLOAT_DTYPES:
            raise CheckpointFormatError(
                f"{name} is stored as {self._dtypes[name]}; convert it to one of {', '.join(_FLOAT_DTYPES)}"
            )
        return _FLOAT_DTYPES[self._dtypes[name]]

    def read_rows(self, name: str, target: Tensor, first_row: int = 0) -> None:
        """Copy rows into `target`."""
        target.copy_(self.read(name, slice(first_row, first_row + len(target))))

    def read(self, name: str, *part: slice) -> Tensor:
        """Return a part of a tensor as it is stored, one slice per dimension; without slices, all of it.

        Every `READ_BLOCK_BYTES`, the files are closed, which releases their pages.
        """
        path, stored = self._places[name]
        try:
            if path not in self._open_files:
                self._open_files[path] = _open(path)
            file = self._open_files[path]
            tensor: Tensor = file.get_slice(stored)[part] if part else file.get_tensor(stored)
        except (OSError, SafetensorError) as error:
            raise CheckpointFormatError(f"{name} in {path.name!r} cannot be read: {error}") from error
        self._mapped_bytes += tensor.nbytes
        if self._mapped_bytes >= READ_BLOCK_BYTES:
            self._open_files.clear()
            self._mapped_bytes = 0
        return tensor


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (OSError, SafetensorError) as error:
        raise CheckpointFormatError(
            f"{str(path)!r} is not a valid safetensors file, or is cut short ({error}); download it again"
        ) from error
