"""Read the lines of a text file, plain or gzip, with their numbers for error messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, cast

from qwen_rerank_plugins.batch import Guess, streams
from qwen_rerank_plugins.batch.elements import open_json
from qwen_rerank_plugins.batch.encodings import detect_encoding
from qwen_rerank_plugins.batch.protocols import TextFormat
from qwen_rerank_plugins.batch.rows import BadRowError, parse_json
from qwen_rerank_plugins.errors import InputError

logger = logging.getLogger(__name__)

_MAX_NAMED_KEYS = 8
_GUESS_LINES = 1000


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


def read_lines(path: Path, encoding: str | None = None, *, is_json: bool = True) -> Iterator[Line]:
    """Yield the lines that are not blank. Gzip is detected by the first bytes.

    Args:
        path: The file.
        encoding: The encoding; None to detect it.
        is_json: Whether the file may be an array, whose elements are yielded.

    Raises:
        InputError: The file cannot be read, its encoding is not known, or a line is not valid in it.
    """
    if encoding is None:
        encoding, is_guess = detect_encoding(path)
        if is_guess:
            guess = Guess.of(
                TextFormat(encoding, None, ("encoding",)), _first_texts(path, encoding, is_json=is_json)
            )
            logger.warning("%s: %s", path, guess)
    for number, text in _open(path, encoding, is_json=is_json):
        if text.strip():
            yield Line(path, number, text.rstrip("\r\n"))


def _open(path: Path, encoding: str, *, is_json: bool) -> Iterator[tuple[int, str]]:
    open_lines = open_json if is_json else streams.TextLines
    lines = open_lines(path, encoding=encoding, max_chars=streams.MAX_LINE_CHARS)
    return streams.read_lines(lines, str(path))


def _first_texts(path: Path, encoding: str, *, is_json: bool) -> Iterator[str]:
    """Yield the strings of the first lines: values of JSON objects, else cells between tabs."""
    for _, line in islice(_open(path, encoding, is_json=is_json), _GUESS_LINES):
        try:
            values = [*parse_json(line).values()] if line.startswith("{") else line.split("\t")
        except BadRowError:
            values = [line]
        yield from (value for value in values if isinstance(value, str))
