"""The header of a GGUF file: metadata and the places of its tensors. Knows no model.

Every size is compared with the file before anything of that size is read or allocated, so that a truncated or a hostile file is
an error. The layout is that of ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen_rerank_plugins.errors import CheckpointFormatError, MissingDependencyError

__all__ = ["GgufFile", "GgufTensor", "read_gguf", "split_parts"]

_STRING, _ARRAY = 8, 9
_SCALARS = dict(
    zip(
        (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12),
        ("B", "b", "H", "h", "I", "i", "f", "?", "Q", "q", "d"),
        strict=True,
    )
)
"""Type of a metadata value → its format in `struct`."""
_MAX_ENTRIES = 1 << 24
"""Most metadata entries, tensors, or elements of an array; the largest vocabularies have a sixteenth of it."""
_MAX_DIMENSIONS = 4
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """The place of a tensor.

    Attributes:
        path: The file.
        offset: Its first byte in the file.
        shape: Rows first, as in torch.
        kind: Name of its number format, such as "Q8_0".
        row_bytes: Bytes of a row.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    kind: str
    row_bytes: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.row_bytes * math.prod(self.shape[:-1])


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The headers of a GGUF file and its further parts.

    Attributes:
        metadata: Key → value; strings, numbers, lists of strings, arrays of numbers.
        tensors: Name → place.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def split_parts(path: Path) -> tuple[Path, ...]:
    """Return the file, or all parts if its name is that of a part of a split file.

    Raises:
        CheckpointFormatError: A part is missing.
    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return (path,)
    numbers = range(1, int(match["count"]) + 1)
    parts = [path.with_name(f"{match['stem']}-{number:05}-of-{match['count']}.gguf") for number in numbers]
    missing = next((part.name for part in parts if not part.is_file()), None)
    if missing or not parts:
        raise CheckpointFormatError(f"{str(path)!r} lacks its part {missing!r}; download it again")
    return tuple(parts)


def read_gguf(parts: tuple[Path, ...]) -> GgufFile:
    """Read the headers of a file or of all parts of a split one.

    Raises:
        CheckpointFormatError: A file is truncated, broken, or not a part of the same model.
        MissingDependencyError: The package gguf is not installed.
    """
    try:
        import gguf.constants  # noqa: F401 (that it is there is what matters)
    except ImportError as error:
        raise MissingDependencyError(
            f"GGUF files need {error.name!r}: pip install 'qwen-rerank-plugins[gguf]'"
        ) from error
    files = [_read_part(path) for path in parts]
    tensors: dict[str, GgufTensor] = {}
    for path, file in zip(parts, files, strict=True):
        if file.metadata.get("split.count", 1) not in (len(parts), 0):
            raise CheckpointFormatError(
                f"{str(path)!r} is one of {file.metadata['split.count']} parts of a split file; keep the parts' names"
            )
        repeated = tensors.keys() & file.tensors.keys()
        if repeated:
            raise CheckpointFormatError(f"{str(path)!r} repeats the tensor {min(repeated)!r} of another part")
        tensors.update(file.tensors)
    return GgufFile(files[0].metadata, tensors)


def _read_part(path: Path) -> GgufFile:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(path, data).read()
    except (OSError, ValueError, struct.error) as error:
        raise CheckpointFormatError(f"{str(path)!r} is not a valid GGUF file: {error}") from error


class _Header:
    """Reads a header from front to back. Its errors are ValueErrors."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 0

    def read(self) -> GgufFile:
        if self._bytes(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._number("I")
        if version not in (2, 3):
            raise ValueError(
                f"version {version} is not supported; convert the model again, for a little-endian machine"
            )
        num_tensors, num_entries = self._count(), self._count()
        metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            key = self._string()
            if key in metadata:
                raise ValueError(f"the key {key!r} is there twice")
            metadata[key] = self._value(self._number("I"))
        infos = [self._tensor_info() for _ in range(num_tensors)]
        return GgufFile(metadata, self._placed(infos, metadata.get("general.alignment", 32)))

    def _bytes(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise ValueError(f"it ends at byte {len(self._data)}, within its header")
        return self._data[start : self._at]

    def _number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self._bytes(struct.calcsize(f"<{kind}")))[0]

    def _count(self, smallest: int = 1) -> int:
        """Return a number of things of at least `smallest` bytes, which must fit in the rest of the file."""
        count = int(self._number("Q"))
        if count > min(_MAX_ENTRIES, (len(self._data) - self._at) // smallest):
            raise ValueError(f"it announces {count} entries, which it cannot hold")
        return count

    def _string(self) -> str:
        return self._bytes(self._count()).decode("utf-8")

    def _strings(self, count: int) -> list[str]:
        """Return strings as `_string` does, without its calls: a vocabulary has hundreds of thousands."""
        data, start, length = self._data, self._at, struct.Struct("<Q")
        strings = []
        for _ in range(count):
            (size,) = length.unpack_from(data, start)
            end = start + length.size + size
            if end > len(data):
                raise ValueError(f"it ends at byte {len(data)}, within its header")
            strings.append(data[start + length.size : end].decode("utf-8"))
            start = end
        self._at = start
        return strings

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError(f"a value has the unknown type {kind}")
        kind = self._number("I")
        if kind == _STRING:
            return self._strings(self._count(8))
        if kind not in _SCALARS:
            raise ValueError(f"an array has elements of the type {kind}, which is not supported")
        dtype = np.dtype(f"<{_SCALARS[kind]}" if _SCALARS[kind] != "?" else "?")
        return np.frombuffer(self._bytes(self._count(dtype.itemsize) * dtype.itemsize), dtype)

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dimensions = self._string(), self._number("I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name!r} has {num_dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(num_dimensions))
        return name, shape[::-1], self._number("I"), self._number("Q")

    def _placed(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], alignment: Any
    ) -> dict[str, GgufTensor]:
        """Return tensors by name, each within the file and all together not larger than it."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"the alignment {alignment!r} is not a power of two")
        start = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise ValueError(f"the tensor {name!r} is there twice")
            tensor = GgufTensor(self._path, start + offset, shape, *_number_format(name, kind, shape[-1]))
            if tensor.offset + tensor.num_bytes > len(self._data):
                raise ValueError(
                    f"it ends at byte {len(self._data)}, before the end of the tensor {name!r}; download it again"
                )
            tensors[name] = tensor
        if sum(tensor.num_bytes for tensor in tensors.values()) > len(self._data):
            raise ValueError("its tensors overlap")
        return tensors


def _number_format(name: str, kind: int, row_size: int) -> tuple[str, int]:
    """Return the name of a number format, and the bytes of a row in it."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    if kind not in GGML_QUANT_SIZES:
        raise ValueError(f"the tensor {name!r} has the unknown number format {kind}")
    block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    if row_size % block_size:
        raise ValueError(
            f"the tensor {name!r} has rows of {row_size} numbers, which are not blocks of {block_size}"
        )
    return GGMLQuantizationType(kind).name, row_size // block_size * block_bytes
