"""Redacted excerpts of a service's answer for error messages, without keys and without texts of the caller's.

Services often echo the request. Every run of characters that the answer shares with a text of the request and that is
long enough to be meaningful is masked.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

__all__ = ["MAX_EXCERPT_CHARS", "redacted_excerpt"]

MAX_EXCERPT_CHARS = 200

_WINDOW_CHARS = 800
_MASK = "[…]"
_TEXT_BLOCK = 12
_KEY_BLOCK = 4
_SHORT_TEXT = 4
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_LETTERS = {"n": " ", "r": " ", "t": " ", "b": " ", "f": " "}


def redacted_excerpt(answer: bytes, texts: Sequence[str], key: str | None = None) -> str:
    """Return the beginning of an answer on one line, redacted.

    Args:
        answer: The answer, or its beginning.
        texts: Texts to mask: query, instruction and documents of the request.
        key: Key to mask, or None.
    """
    shown = _to_one_line(_unescape(answer[: 4 * _WINDOW_CHARS].decode("utf-8", "replace"))[:_WINDOW_CHARS])
    hidden = [False] * len(shown)
    if key:
        _hide_runs(shown, key, _KEY_BLOCK, hidden)
    lines = [_to_one_line(text) for text in texts]
    _hide_runs(shown, "\n".join(lines), _TEXT_BLOCK, hidden)
    _hide_whole(shown, {line for line in lines if _SHORT_TEXT <= len(line) < 2 * _TEXT_BLOCK}, hidden)
    masked = _mask(shown, hidden)
    return masked if len(masked) <= MAX_EXCERPT_CHARS else masked[: MAX_EXCERPT_CHARS - 1] + "…"


def _hide_runs(shown: str, text: str, block: int, hidden: list[bool]) -> None:
    """Mark shared runs. A run of at least twice the block's length contains an aligned block, wherever it begins."""
    for start in range(0, len(shown) - block + 1, block):
        place = text.find(shown[start : start + block])
        if place < 0:
            continue
        before = _common_prefix(reversed(shown[:start]), reversed(text[max(place - start, 0) : place]))
        rest = len(shown) - start
        length = _common_prefix(shown[start:], text[place : place + rest])
        hidden[start - before : start + length] = [True] * (before + length)


def _common_prefix(one: Iterable[str], other: Iterable[str]) -> int:
    """Return the length of the common prefix."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)


def _hide_whole(shown: str, texts: Iterable[str], hidden: list[bool]) -> None:
    for text in texts:
        start = shown.find(text)
        while start >= 0:
            hidden[start : start + len(text)] = [True] * len(text)
            start = shown.find(text, start + 1)


def _mask(shown: str, hidden: list[bool]) -> str:
    parts: list[str] = []
    for character, is_hidden in zip(shown, hidden, strict=True):
        if not is_hidden:
            parts.append(character if character.isprintable() else " ")
        elif not parts or parts[-1] != _MASK:
            parts.append(_MASK)
    return "".join(parts)


def _unescape(text: str) -> str:
    """Decode JSON escapes, so that an escaped echo is recognised."""

    def plain(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else _LETTERS.get(match[2], match[2])

    return _ESCAPE.sub(plain, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _to_one_line(text: str) -> str:
    """Return the text without line ends, control characters and repeated white space."""
    return _BLANK.sub(" ", text).strip()
