"""Read the lines of a text file, plain or gzip, with their numbers for error messages."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from qwen_rerank_plugins.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_NAMED_KEYS = 8


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank.

    Attributes:
        path: The file.
        number: The line number, from 1.
        text: The text without the line end.
    """

    path: Path
    number: int
    text: str

    def fail(self, problem: str) -> NoReturn:
        """Raise an error with the file and the line.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{self.path}, line {self.number}: {problem}")

    def record(self) -> dict[str, Any]:
        """Parse the line as a JSON object.

        Raises:
            InputError: The line is not a JSON object.
        """
        try:
            value = json.loads(self.text)
        except json.JSONDecodeError as error:
            self.fail(f"not valid JSON: {error.msg} at column {error.colno}")
        except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
            self.fail(f"JSON cannot be parsed: {error}")
        if not isinstance(value, dict):
            self.fail(f"the line must be a JSON object, not {type(value).__name__}")
        return cast(dict[str, Any], value)

    def first_of(self, record: dict[str, Any], keys: tuple[str, ...]) -> Any:
        """Return the value of the first key that the record has.

        Raises:
            InputError: The record has none of the keys.
        """
        present = next((key for key in keys if key in record), None)
        if present is None:
            found = ", ".join(repr(key) for key in list(record)[:_MAX_NAMED_KEYS]) or "no keys"
            self.fail(f"no {' or '.join(map(repr, keys))}, only {found}")
        return record[present]


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines that are not blank. Gzip is detected by the first bytes.

    Raises:
        InputError: The file cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            with cast(BinaryIO, gzip.open(raw)) if packed else raw as stream:
                yield from _decode(path, stream)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"file cannot be read: {str(path)!r}: {reason}") from error


def _decode(path: Path, stream: BinaryIO) -> Iterator[Line]:
    for number, data in enumerate(stream, start=1):
        try:
            text = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, line {number}: not UTF-8: byte {data[error.start]:#04x}") from error
        if text.strip():
            yield Line(path, number, text.rstrip("\r\n"))
