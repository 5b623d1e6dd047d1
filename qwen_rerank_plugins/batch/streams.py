"""Read a text file as lines of bounded length, whatever its encoding and compression. Parses no rows.

Bytes that are not valid in the encoding are read as lone surrogates (PEP 383), so that the affected row can be reported.
UTF-16 and UTF-32 are the exception: there such bytes are an error.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TextIO, cast

from qwen_rerank_plugins.errors import InputError

__all__ = [
    "ContentDigest",
    "LineTooLongError",
    "TextLines",
    "file_digest",
    "find_bad_bytes",
    "open_unpacked",
    "read_errors_as_input_errors",
    "read_lines",
]

GZIP_MAGIC = b"\x1f\x8b"
READ_BYTES = 1 << 20
MAX_LINE_CHARS = 16 << 20
BYTE_ORDER_MARK = "\ufeff"
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
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return InputError(f"{path} is not a complete gzip file: {error}")
    reason = getattr(error, "strerror", None) or error
    return InputError(f"file cannot be read: {str(path)!r}: {reason}")


class ContentDigest:
    """The size and a hash of content that is added in blocks; `str` returns both."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._size = 0

    def add(self, block: bytes) -> None:
        """Add a block."""
        self._hash.update(block)
        self._size += len(block)

    def __str__(self) -> str:
        return f"{self._size}:{self._hash.hexdigest()}"


def file_digest(path: Path) -> str:
    """Return the size and a hash of a file's content, as one string."""
    digest = ContentDigest()
    with read_errors_as_input_errors(path), path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.add(block)
    return str(digest)


def open_unpacked(raw: io.BufferedReader) -> io.BufferedReader:
    """Return a stream of the content of an open file: plain, or unpacked if it begins like gzip."""
    if raw.peek(2)[:2] != GZIP_MAGIC:
        return raw
    return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw, mode="rb")), READ_BYTES)


class TextLines:
    """Iterate over the lines of a file, line ends included; only line feeds end a line.

    Args:
        path: Plain or gzip, detected by its first bytes. A byte order mark is not part of the text.
        encoding: The name of the codec.
        max_chars: Maximum characters of a line, and of the lines since `start_record`.

    Attributes:
        encoding: The name of the codec.
        number: Number of the last line, from 1.
        record: Lines since `start_record`.
    """

    def __init__(self, path: Path, *, encoding: str = "utf-8", max_chars: int) -> None:
        self._path = path
        self._max_chars = max_chars
        self.encoding = encoding
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
        stream = open_unpacked(self._raw)
        # The UTF-16 and UTF-32 codecs cannot represent a bad unit as surrogates.
        errors = "strict" if self.encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
        return io.TextIOWrapper(stream, encoding=self.encoding, errors=errors, newline="\n")

    @property
    def fraction(self) -> float:
        """Fraction of the file that was read, from 0 to 1."""
        return min(1.0, self._raw.tell() / self._size)

    def records(self) -> Iterator[tuple[str, str | None]]:
        """Yield each line as a record, with None; of one that is too long, nothing and the reason."""
        while True:
            self.start_record()
            try:
                yield next(self), None
            except StopIteration:
                return
            except LineTooLongError as error:
                yield "", str(error)

    def start_record(self) -> None:
        """Clear `record` and start counting its characters again."""
        self.record.clear()
        self._record_chars = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self.read(self._max_chars + 1)
        if self.number == 0:
            line = line.removeprefix(BYTE_ORDER_MARK)
        if not line:
            raise StopIteration
        self.number += 1
        self._record_chars += len(line)
        if self._record_chars > self._max_chars:
            while line and not line.endswith("\n"):
                line = self.read(READ_BYTES)
            raise LineTooLongError(f"longer than {self._max_chars} characters")
        self.record.append(line)
        return line

    def read(self, max_chars: int) -> str:
        """Return the rest of the line, at most so many characters; empty at the end of the file."""
        try:  # called once per line: cheaper than the context manager
            return self._text.readline(max_chars)
        except UnicodeDecodeError as error:
            place = f"byte {error.object[error.start]:#04x} after line {self.number}"
            hint = "save the file again, or name its encoding with --encoding"
            raise InputError(
                f"{self._path} is not valid {self.encoding.upper()}: {place}: {error.reason}; {hint}"
            ) from error
        except _READ_ERRORS as error:
            raise _to_input_error(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()
        self._raw.close()


def find_bad_bytes(line: str, encoding: str) -> str | None:
    """Describe the first byte of a line that is not valid in the encoding; None if there is none."""
    if line.isascii():
        return None
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) & 0xFF
        return f"not {encoding.upper()}: byte {byte:#04x} at character {error.start + 1}"
    return None


def read_lines(lines: TextLines, name: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of an open file with their numbers, without line ends.

    Args:
        lines: The file, which is closed at the end.
        name: Its name in error messages.

    Raises:
        InputError: The file cannot be read, or a line is too long or not valid in the encoding.
    """
    with lines:
        while True:
            lines.start_record()
            try:
                line = next(lines, None)
            except LineTooLongError as error:
                raise InputError(f"{name}, line {lines.number}: {error}") from None
            if line is None:
                return
            problem = find_bad_bytes(line, lines.encoding)
            if problem is not None:
                raise InputError(f"{name}, line {lines.number}: {problem}; name the encoding with --encoding")
            yield lines.number, line.removesuffix("\n").removesuffix("\r")
