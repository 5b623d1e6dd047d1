"""Read the lines of a text file, plain or gzip, with their numbers for error messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from qwen_rerank_plugins.batch import streams
from qwen_rerank_plugins.batch.encodings import detect_encoding
from qwen_rerank_plugins.batch.rows import BadRowError, parse_json
from qwen_rerank_plugins.errors import InputError

logger = logging.getLogger(__name__)

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
            value = parse_json(self.text)
        except BadRowError as error:
            self.fail(str(error))
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


def read_lines(path: Path, encoding: str | None = None) -> Iterator[Line]:
    """Yield the lines that are not blank. Gzip is detected by the first bytes.

    Args:
        path: The file.
        encoding: The encoding; None to detect it.

    Raises:
        InputError: The file cannot be read, its encoding is not known, or a line is not valid in it.
    """
    if encoding is None:
        encoding, is_guess = detect_encoding(path)
        if is_guess:
            logger.warning("encoding of %s guessed: %s; correct it with --encoding", path, encoding)
    for number, text in streams.read_lines(path, encoding=encoding, name=str(path)):
        if text.strip():
            yield Line(path, number, text.rstrip("\r\n"))
