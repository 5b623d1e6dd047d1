"""Where a text may be cut: clips at token boundaries, chunks at word boundaries."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.types import Span

__all__ = ["chunk_spans", "clip_at_token_boundary"]

# Every tokenizer of the Qwen kind begins a new word at a space that follows a visible character and precedes a
# letter, so the text before that space has the same tokens with and without what follows.
_TOKEN_BOUNDARY = re.compile(r"(?<=\S) (?=[^\W\d_])")

# Scripts written without spaces: a chunk may end between any two characters.
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_MARGIN_TOKENS = 2  # a chunk is tokenised alone, after a space, and may have one token more than in its text
_SEARCH_WINDOW = 4096


def clip_at_token_boundary(text: str, max_characters: int) -> str:
    """Return a prefix of at most `max_characters` whose tokens are a prefix of the whole text's tokens.

    Without such a boundary the text is clipped at the limit, and its last tokens may differ.
    """
    if len(text) <= max_characters:
        return text
    window_start = max(0, max_characters - _SEARCH_WINDOW)
    boundaries = [match.start() for match in _TOKEN_BOUNDARY.finditer(text, window_start, max_characters)]
    return text[: boundaries[-1]] if boundaries and boundaries[-1] > 0 else text[:max_characters]


def chunk_spans(text: str, tokenizer: PromptTokenizer, limit: int, overlap: int) -> list[Span]:
    """Split a text into overlapping chunks at word boundaries.

    Args:
        text: The text.
        tokenizer: Counts the tokens.
        limit: Maximum tokens per chunk, tokenised after a space.
        overlap: Approximate number of tokens that neighbouring chunks share; less than `limit`.

    Returns:
        Spans in characters, in order, without white space at their ends; together they cover every visible
        character. Empty for a blank text.
    """
    offsets = tokenizer.token_offsets(text)
    spans: list[Span] = []
    first = 0
    while first < len(offsets):
        start = offsets[first]
        end, after = _chunk_end(text, offsets, first, tokenizer, limit)
        span = _strip_span(text, start, end)
        if span and (not spans or span[1] > spans[-1][1]):  # otherwise it adds no visible character
            spans.append(span)
        if end >= len(text):
            break
        first = _next_chunk_start(text, offsets, first, after, overlap)
    return spans


def _chunk_end(
    text: str, offsets: Sequence[int], first: int, tokenizer: PromptTokenizer, limit: int
) -> tuple[int, int]:
    """Return the end of the chunk that begins at token `first`, in characters, and the next token."""
    max_tokens = max(1, limit - _MARGIN_TOKENS)
    while True:
        after = min(first + max_tokens, len(offsets))
        if after == len(offsets):
            end = len(text)
        else:
            after = _last_word_boundary(text, offsets, first + max(1, max_tokens * 3 // 4), after)
            end = offsets[after]
        if end <= offsets[first]:  # a character of several tokens is not split
            end = offsets[first] + 1
            after = next((i for i in range(first, len(offsets)) if offsets[i] >= end), len(offsets))
            return end, after
        if max_tokens == 1 or len(tokenizer.encode([" " + text[offsets[first] : end].strip()])[0]) <= limit:
            return end, after
        max_tokens = max(1, max_tokens * 3 // 4)


def _last_word_boundary(text: str, offsets: Sequence[int], lowest: int, highest: int) -> int:
    """Return the last token in [lowest, highest] at a word boundary; `highest` if there is none."""
    for token in range(highest, lowest - 1, -1):
        if _is_boundary(text, offsets[token]):
            return token
    return highest


def _next_chunk_start(text: str, offsets: Sequence[int], first: int, after: int, overlap: int) -> int:
    """Return the first token of the next chunk: after `first`, at most `after`."""
    earliest = max(first + 1, after - overlap)
    for token in range(earliest, after):
        # Within a character of several tokens the offset does not advance.
        if offsets[token] > offsets[first] and _is_boundary(text, offsets[token]):
            return token
    return after if overlap else max(first + 1, after)


def _is_boundary(text: str, position: int) -> bool:
    if position <= 0 or position >= len(text):
        return True
    before, here = text[position - 1], text[position]
    return before.isspace() or here.isspace() or bool(_UNSPACED.match(before) or _UNSPACED.match(here))


def _strip_span(text: str, start: int, end: int) -> Span | None:
    piece = text[start:end]
    inner = piece.strip()
    if not inner:
        return None
    start += len(piece) - len(piece.lstrip())
    return start, start + len(inner)
