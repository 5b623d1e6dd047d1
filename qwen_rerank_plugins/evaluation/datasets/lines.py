"""Lines of a text file, plain or gzipped, with their numbers and the errors that name them. Knows no form of data."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from qwen_rerank_plugins.errors import InputError

_GZIP_MARK = b"\x1f\x8b"
_SHOWN_KEYS = 8


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank.

    Attributes:
        path: Its file.
        number: Its place, from 1.
        text: What stands on it, without the end of line.
    """

    path: Path
    number: int
    text: str

    def refuse(self, what: str) -> NoReturn:
        """Raise an error that names the place.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{self.path}, line {self.number}: {what}")

    def record(self) -> dict[str, Any]:
        """Read the line as a JSON object.

        Raises:
            InputError: It is none.
        """
        try:
            value = json.loads(self.text)
        except json.JSONDecodeError as error:
            self.refuse(f"not JSON: {error.msg} at column {error.colno}")
        except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
            self.refuse(f"JSON that cannot be read: {error}")
        if not isinstance(value, dict):
            self.refuse(f"a {type(value).__name__}; allowed: an object")
        return cast(dict[str, Any], value)

    def one_of(self, record: dict[str, Any], keys: tuple[str, ...]) -> Any:
        """Give the value of the first of the keys that the record has.

        Raises:
            InputError: It has none of them.
        """
        present = next((key for key in keys if key in record), None)
        if present is None:
            found = ", ".join(repr(key) for key in list(record)[:_SHOWN_KEYS]) or "nothing"
            self.refuse(f"no {' or '.join(map(repr, keys))}, but {found}")
        return record[present]


def read_lines(path: Path) -> Iterator[Line]:
    """Give the lines that are not blank; a gzipped file is known by its first bytes.

    Raises:
        InputError: The file cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MARK
            raw.seek(0)
            with cast(BinaryIO, gzip.open(raw)) if packed else raw as stream:
                yield from _decoded(path, stream)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"file cannot be read: {str(path)!r}: {reason}") from error


def _decoded(path: Path, stream: BinaryIO) -> Iterator[Line]:
    for number, data in enumerate(stream, start=1):
        try:
            text = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, line {number}: not UTF-8: byte {data[error.start]:#04x}") from error
        if text.strip():
            yield Line(path, number, text.rstrip("\r\n"))
