"""Where a long text may be cut: clips that change no token before them, and overlapping chunks at word boundaries."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.types import Span

__all__ = ["chunk_spans", "safe_clip"]

# Before a space that follows a visible character and is followed by a letter every tokenizer of the Qwen kind
# begins a new word, so the text up to there has the same tokens with and without what comes after it.
_SAFE = re.compile(r"(?<=\S) (?=[^\W\d_])")

# Scripts that are written without spaces: any place between two of their characters is as good as another.
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_SPARE_TOKENS = (
    2  # a chunk is tokenised by itself, behind a space, and may have a token more than in its text
)
_SEARCH_WINDOW = 4096


def safe_clip(text: str, max_characters: int) -> str:
    """The beginning of a text, of at most `max_characters`, whose tokens are those of the whole text.

    Where there is no safe place the text is clipped at the limit itself, and its last word may differ.
    """
    if len(text) <= max_characters:
        return text
    window_start = max(0, max_characters - _SEARCH_WINDOW)
    places = [match.start() for match in _SAFE.finditer(text, window_start, max_characters)]
    return text[: places[-1]] if places and places[-1] > 0 else text[:max_characters]


def chunk_spans(text: str, tokenizer: PromptTokenizer, limit: int, overlap: int) -> list[Span]:
    """Cut a text into overlapping chunks at word boundaries.

    Args:
        text: The text.
        tokenizer: Counts the tokens.
        limit: Most tokens of a chunk, tokenised behind a space.
        overlap: Tokens that neighbouring chunks share, about; less than `limit`.

    Returns:
        Spans in characters, in order, without white space at their ends; together they hold every visible
        character. Empty for a blank text.
    """
    offsets = tokenizer.token_offsets(text)
    spans: list[Span] = []
    first = 0
    while first < len(offsets):
        start = offsets[first]
        end, after = _chunk_end(text, offsets, first, tokenizer, limit)
        span = _stripped(text, start, end)
        if span and (not spans or span[1] > spans[-1][1]):  # else nothing visible is new in it
            spans.append(span)
        if end >= len(text):
            break
        first = _next_first(text, offsets, first, after, overlap)
    return spans


def _chunk_end(
    text: str, offsets: Sequence[int], first: int, tokenizer: PromptTokenizer, limit: int
) -> tuple[int, int]:
    """End of the chunk that begins with token `first`, in characters, and the first token after it."""
    room = max(1, limit - _SPARE_TOKENS)
    while True:
        after = min(first + room, len(offsets))
        if after == len(offsets):
            end = len(text)
        else:
            after = _word_start(text, offsets, first + max(1, room * 3 // 4), after)
            end = offsets[after]
        if end <= offsets[first]:  # a character of several tokens: take all of it
            end = offsets[first] + 1
            after = next((i for i in range(first, len(offsets)) if offsets[i] >= end), len(offsets))
            return end, after
        if room == 1 or len(tokenizer.encode([" " + text[offsets[first] : end].strip()])[0]) <= limit:
            return end, after
        room = max(1, room * 3 // 4)


def _word_start(text: str, offsets: Sequence[int], lowest: int, highest: int) -> int:
    """The last token in [lowest, highest] before which a word ends; `highest` if there is none."""
    for token in range(highest, lowest - 1, -1):
        if _is_boundary(text, offsets[token]):
            return token
    return highest


def _next_first(text: str, offsets: Sequence[int], first: int, after: int, overlap: int) -> int:
    """The token with which the next chunk begins: after `first`, at most at `after`."""
    wanted = max(first + 1, after - overlap)
    for token in range(wanted, after):
        # A character of several tokens is no progress.
        if offsets[token] > offsets[first] and _is_boundary(text, offsets[token]):
            return token
    return after if overlap else max(first + 1, after)


def _is_boundary(text: str, position: int) -> bool:
    if position <= 0 or position >= len(text):
        return True
    before, here = text[position - 1], text[position]
    return before.isspace() or here.isspace() or bool(_UNSPACED.match(before) or _UNSPACED.match(here))


def _stripped(text: str, start: int, end: int) -> Span | None:
    piece = text[start:end]
    inner = piece.strip()
    if not inner:
        return None
    start += len(piece) - len(piece.lstrip())
    return start, start + len(inner)
