"""Read the sizes of Parquet pages from their headers, in Thrift's compact protocol. Decompresses no page.

Format: https://github.com/apache/parquet-format, `PageHeader` in parquet.thrift. A footer may state other sizes than the
pages have; readers allocate what the header of a page states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

__all__ = ["DELTA_ENCODINGS", "Page", "read_pages"]

DELTA_ENCODINGS = (6, 7)
"""DELTA_LENGTH_BYTE_ARRAY; DELTA_BYTE_ARRAY, in which a string repeats the beginning of the one before."""

FIRST_READ_BYTES = 1 << 10
MAX_HEADER_BYTES = 16 << 20
_MAX_DEPTH = 8
_DATA_PAGE, _DATA_PAGE_V2 = 5, 8
_INTEGERS, _BINARY, _STRUCT = (4, 5, 6), 8, 12
_FIXED_BYTES = {1: 0, 2: 0, 3: 1, 7: 8}  # true, false, byte, double


class Page(NamedTuple):
    """A page of a column.

    Attributes:
        num_bytes: Bytes after decompression.
        num_values: Values of a data page; 0 in a dictionary.
        encoding: The number of the encoding.
    """

    num_bytes: int
    num_values: int
    encoding: int


def read_pages(file: BinaryIO, start: int, num_bytes: int, num_values: int) -> Iterator[Page]:
    """Yield the pages of a column in a row group, up to its last value.

    Args:
        file: The file.
        start: Where the first page begins.
        num_bytes: Bytes of all pages with their headers.
        num_values: Values of the column.

    Raises:
        ValueError: A header is not valid.
    """
    end = start + num_bytes
    while start < end and num_values > 0:
        header, length = _read_header(file, start)
        counted = header.get(_DATA_PAGE) or header.get(_DATA_PAGE_V2) or {}
        encoding = counted.get(2 if _DATA_PAGE in header else 4, 0)
        page = Page(header.get(2, -1), counted.get(1, 0), encoding)
        if min(page.num_bytes, page.num_values, header.get(3, -1)) < 0:
            raise ValueError(f"page header at byte {start} is not valid")
        yield page
        num_values -= page.num_values
        start += length + header[3]


def _read_header(file: BinaryIO, start: int) -> tuple[dict[int, Any], int]:
    size = FIRST_READ_BYTES
    while size <= MAX_HEADER_BYTES:
        file.seek(start)
        reader = _CompactReader(file.read(size))
        try:
            return reader.struct(), reader.at
        except IndexError:  # statistics of long strings make a header long
            size *= 16
    raise ValueError(f"page header at byte {start} does not end")


class _CompactReader:
    """Reads a struct as field id → value; values that are neither integers nor structs are None."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._integer()
            fields[field] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _STRUCT and depth < _MAX_DEPTH:
            return self.struct(depth + 1)
        if kind != _BINARY and kind not in _FIXED_BYTES:
            raise ValueError("page header is not valid")
        length = self._varint() if kind == _BINARY else _FIXED_BYTES[kind]
        self.at += length
        return None

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:  # noqa: PLR2004 (the bit that another byte follows)
                return value
        raise ValueError("page header is not valid")

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]
