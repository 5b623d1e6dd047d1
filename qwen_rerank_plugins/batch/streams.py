"""Read a text file as lines of bounded length, whatever its encoding and compression. Parses no rows.

Bytes that are not UTF-8 are read as lone surrogates (PEP 383), so that the affected row can be reported.
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

__all__ = ["LineTooLongError", "TextLines", "file_digest", "find_bad_bytes", "read_errors_as_input_errors"]

GZIP_MAGIC = b"\x1f\x8b"
READ_BYTES = 1 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_READ_ERRORS = (OSError, ValueError, EOFError, zlib.error)


class LineTooLongError(Exception):
    """A line exceeds the limit and was skipped; never raised outside this package."""


@contextmanager
def read_errors_as_input_errors(path: Path) -> Iterator[None]:
    """Convert errors that occur while a file is read into `InputError` with the file's name."""
    try:
        yield
    except _READ_ERRORS as error:
        raise _to_input_error(path, error) from error


def _to_input_error(path: Path, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    if isinstance(error, UnicodeDecodeError):
        message = f"{path} is not valid {error.encoding.upper()}: offset {error.start} of a block"
        return InputError(f"{message}; save it as UTF-8, or as UTF-16 with a byte order mark")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return InputError(f"{path} is not a complete gzip file: {error}")
    reason = getattr(error, "strerror", None) or error
    return InputError(f"file cannot be read: {str(path)!r}: {reason}")


def file_digest(path: Path) -> str:
    """Return the size and a hash of a file's content, as one string."""
    digest = hashlib.blake2b(digest_size=16)
    size = 0
    with read_errors_as_input_errors(path), path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return f"{size}:{digest.hexdigest()}"


class TextLines:
    """Iterate over the lines of a file, line ends included; only line feeds end a line.

    Args:
        path: Plain or gzip, detected by its first bytes; UTF-8 with or without a byte order mark, UTF-16 with one.
        max_chars: Maximum characters of a line, and of the lines since `start_record`.

    Attributes:
        number: Number of the last line, from 1.
        record: Lines since `start_record`.
    """

    def __init__(self, path: Path, *, max_chars: int) -> None:
        self._path = path
        self._max_chars = max_chars
        with read_errors_as_input_errors(path):
            self._raw = path.open("rb")
            try:
                self._size = max(1, path.stat().st_size)
                self._text = self._open()
            except BaseException:
                self._raw.close()
                raise
        self._record_chars = 0
        self.number = 0
        self.record: list[str] = []

    def _open(self) -> TextIO:
        stream: BinaryIO = self._raw
        if self._raw.peek(2)[:2] == GZIP_MAGIC:
            unpacked = gzip.GzipFile(fileobj=self._raw, mode="rb")
            stream = cast(BinaryIO, io.BufferedReader(unpacked, READ_BYTES))
        mark = cast(io.BufferedReader, stream).peek(4)[:4]
        if mark.startswith(_UTF16_MARKS):
            return io.TextIOWrapper(stream, encoding="utf-16", newline="\n")
        return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n")

    @property
    def fraction(self) -> float:
        """Fraction of the file that was read, from 0 to 1."""
        return min(1.0, self._raw.tell() / self._size)

    def start_record(self) -> None:
        """Clear `record` and start counting its characters again."""
        self.record.clear()
        self._record_chars = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._read(self._max_chars + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._record_chars += len(line)
        if self._record_chars > self._max_chars:
            while line and not line.endswith("\n"):
                line = self._read(READ_BYTES)
            raise LineTooLongError(f"longer than {self._max_chars} characters")
        self.record.append(line)
        return line

    def _read(self, max_chars: int) -> str:
        try:  # called once per line: cheaper than the context manager
            return self._text.readline(max_chars)
        except _READ_ERRORS as error:
            raise _to_input_error(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()
        self._raw.close()


def find_bad_bytes(line: str) -> str | None:
    """Describe the first byte of a line that is not UTF-8; None if there is none."""
    if line.isascii():
        return None
    try:
        line.encode()
    except UnicodeEncodeError as error:
        return f"not UTF-8: byte {ord(line[error.start]) & 0xFF:#04x} at character {error.start + 1}"
    return None
