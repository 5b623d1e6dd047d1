"""Read the elements of a JSON array, or JSON values that span lines, as the lines of a text. Parses no element."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from qwen_rerank_plugins.batch.streams import BYTE_ORDER_MARK, LineTooLongError, TextLines

__all__ = ["JsonElements", "open_json"]

BLOCK_CHARS = 1 << 16
_OUTSIDE = re.compile(r'[\[\]{},"]')
_OUTSIDE_OR_LINE_END = re.compile(r'[\[\]{},"\n]')
_IN_STRING = re.compile(r'["\\]')
_BLANK = " \t\r\n"


def open_json(path: Path, *, encoding: str, max_chars: int) -> TextLines:
    """Open a file of JSON as lines: the elements of an array; in `.json` values that may span lines; else its lines.

    Args:
        path: As `TextLines`.
        encoding: As `TextLines`.
        max_chars: Maximum characters of an element or a line.
    """
    with TextLines(path, encoding=encoding, max_chars=max_chars) as lines:
        is_array = _begins_with(lines) == "["
    if is_array or path.name.lower().removesuffix(".gz").endswith(".json"):
        return JsonElements(path, encoding=encoding, max_chars=max_chars, is_array=is_array)
    return TextLines(path, encoding=encoding, max_chars=max_chars)


def _begins_with(lines: TextLines) -> str:
    """Return the first character of a file that is not blank; empty if there is none."""
    while block := lines.read(BLOCK_CHARS):
        if text := block.removeprefix(BYTE_ORDER_MARK).lstrip(_BLANK):
            return text[0]
    return ""


class JsonElements(TextLines):
    """Iterate over the elements of the array that a file contains, or over its values.

    A line break between tokens becomes a space, so that each element is one line. What follows the array, or the
    opening bracket of one that is not closed, is one more element, which is not valid JSON. Memory is bounded by `max_chars`.

    Args:
        path: As `TextLines`.
        encoding: As `TextLines`.
        max_chars: Maximum characters of an element.
        is_array: Whether the file contains one array; otherwise values, one after the other. Strings and numbers end
            with their line.

    Attributes:
        number: The line that the last element begins in, from 1.
    """

    def __init__(self, path: Path, *, encoding: str, max_chars: int, is_array: bool) -> None:
        super().__init__(path, encoding=encoding, max_chars=max_chars)
        self._base = int(is_array)
        self._parts: list[str] = []
        self._num_chars = 0
        self._num_lines = 0
        self._elements = self._split()

    def __next__(self) -> str:
        element = next(self._elements)
        if element is None:
            raise LineTooLongError(f"longer than {self._max_chars} characters")
        return element

    def _split(self) -> Iterator[str | None]:
        """Yield each element; None in place of one that is too long."""
        depth, is_quoted, state = 0, False, "before"
        outside = _OUTSIDE if self._base else _OUTSIDE_OR_LINE_END
        for block in self._blocks():
            begin = at = 0
            while found := (_IN_STRING if is_quoted else outside).search(block, at):
                at, char = found.end(), found[0]
                if is_quoted:
                    is_quoted, at = char != '"', at + (char == "\\")
                    continue
                is_quoted = char == '"'
                depth += (char in "[{") - (char in "]}")
                if char == "[" and self._base and state == "before":
                    state, begin = "inside", at
                elif depth == self._base == 1 and char == ",":
                    yield from self._take(block[begin : at - 1])
                    begin = at
                elif depth <= 0 and char in "]}\n":
                    # The bracket that closes the array is not part of its last element.
                    yield from self._take(block[begin : at - (state == "inside")])
                    state, begin = "after", at
            self._add(block[begin:])
        yield from self._take("")
        if depth == self._base == 1 and not is_quoted:
            yield "["  # the array is not closed: more elements may be missing

    def _blocks(self) -> Iterator[str]:
        is_first = True
        while block := self.read(BLOCK_CHARS):
            while block.endswith("\\"):  # an escape is never cut
                block += self.read(1) or " "
            yield block.removeprefix(BYTE_ORDER_MARK) if is_first else block
            is_first = False

    def _add(self, text: str) -> None:
        if not self._num_chars:
            blank = len(text) - len(text.lstrip(_BLANK))
            self._num_lines += text.count("\n", 0, blank)
            self.number = self._num_lines + 1
            text = text[blank:]
        self._num_lines += text.count("\n")
        self._num_chars += len(text)
        if self._num_chars <= self._max_chars:
            self._parts.append(text)
        else:
            self._parts.clear()

    def _take(self, rest: str) -> Iterator[str | None]:
        self._add(rest)
        element, num_chars = "".join(self._parts), self._num_chars
        self._parts.clear()
        self._num_chars = 0
        if num_chars > self._max_chars:
            yield None
        elif element:
            yield element.rstrip(_BLANK).replace("\r", " ").replace("\n", " ")
