"""A text file as lines of bounded length, whatever its encoding and compression. Knows no rows.

Bytes that are no UTF-8 come as lone surrogates (PEP 383), so that the row that holds them can be told.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self, TextIO, cast

from qwen_rerank_plugins.errors import InputError

__all__ = ["TextLines", "TooLongError", "bad_bytes", "digest_of", "reading"]

GZIP_MARK = b"\x1f\x8b"
READ_BYTES = 1 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class TooLongError(Exception):
    """A line is longer than it may be; it was skipped. Never leaves the room."""


_READ_ERRORS = (OSError, ValueError, EOFError, zlib.error)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Tell what can go wrong while a file is read as an input error with the file's name."""
    try:
        yield
    except _READ_ERRORS as error:
        raise _told(name, error) from error


def _told(name: str, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    if isinstance(error, UnicodeDecodeError):
        message = f"{name} is not {error.encoding.upper()}: offset {error.start} of a block"
        return InputError(f"{message}; allowed: UTF-8, or UTF-16 with a byte order mark")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return InputError(f"{name} is not a whole gzip file: {error}")
    reason = getattr(error, "strerror", None) or error
    return InputError(f"file cannot be read: {name!r}: {reason}")


def digest_of(path: Path) -> str:
    """Give a name for a file's content: its size and a hash of all of it."""
    digest = hashlib.blake2b(digest_size=16)
    size = 0
    with reading(str(path)), path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return f"{size}:{digest.hexdigest()}"


class TextLines:
    """The lines of a file, ends included; only line feeds end one.

    Args:
        path: Plain or gzip, by its first bytes; UTF-8 with or without a mark, UTF-16 with one.
        max_chars: Characters of a line, and of the lines since `start_record`.
    """

    def __init__(self, path: Path, *, max_chars: int) -> None:
        self._name = str(path)
        self._max_chars = max_chars
        with reading(self._name):
            self._raw = path.open("rb")
            try:
                self._size = max(1, path.stat().st_size)
                self._text = self._open()
            except BaseException:
                self._raw.close()
                raise
        self._taken_chars = 0
        self.number = 0
        self.record: list[str] = []

    def _open(self) -> TextIO:
        stream: BinaryIO = self._raw
        if self._raw.peek(2)[:2] == GZIP_MARK:
            unpacked = gzip.GzipFile(fileobj=self._raw, mode="rb")
            stream = cast(BinaryIO, io.BufferedReader(unpacked, READ_BYTES))
        mark = cast(io.BufferedReader, stream).peek(4)[:4]
        if mark.startswith(_UTF16_MARKS):
            return io.TextIOWrapper(stream, encoding="utf-16", newline="\n")
        return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n")

    @property
    def fraction(self) -> float:
        """How much of the file was read, from 0 to 1."""
        return min(1.0, self._raw.tell() / self._size)

    def start_record(self) -> None:
        """Forget the lines of the record before."""
        self.record.clear()
        self._taken_chars = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._read(self._max_chars + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._taken_chars += len(line)
        if self._taken_chars > self._max_chars:
            while line and not line.endswith("\n"):
                line = self._read(READ_BYTES)
            raise TooLongError(f"longer than {self._max_chars} characters")
        self.record.append(line)
        return line

    def _read(self, max_chars: int) -> str:
        try:  # not `reading`: this is once a line
            return self._text.readline(max_chars)
        except _READ_ERRORS as error:
            raise _told(self._name, error) from error

    def close(self) -> None:
        """Close the file."""
        self._text.close()
        self._raw.close()


def bad_bytes(line: str) -> str | None:
    """Say which byte of a line is no UTF-8, or None."""
    if line.isascii():
        return None
    try:
        line.encode()
    except UnicodeEncodeError as error:
        return f"not UTF-8: byte {ord(line[error.start]) & 0xFF:#04x} at character {error.start + 1}"
    return None
