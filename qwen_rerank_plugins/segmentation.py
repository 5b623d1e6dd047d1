"""Split a text into sentences or passages with exact offsets. Pure functions; knows no language by name and no tokens.

A blank line ends a paragraph. Within it a line end is a boundary at list items, table rows, headings and short lines;
longer lines are taken as wrapped text, and indented ones as code. Sentences end at terminators of many scripts; at a full
stop the next letter and the word before decide. The rules follow Unicode's sentence boundaries (UAX #29, section 5),
with abbreviations, initials, ordinals and quotes added.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from qwen_rerank_plugins.types import Span

__all__ = ["MAX_SPAN_CHARS", "segment"]

MAX_SPAN_CHARS = 1000
"""Longer sentences are cut, at white space or a comma if there is one; passages are windows up to this length."""

_MIN_WRAPPED_CHARS, _MIN_WRAPPED_WIDE_CHARS = 40, 20  # a shorter line was not wrapped: it ends on purpose

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_IS_CJK = re.compile(f"[{_CJK}]")
_WORD = re.compile(r"\w")
_ITEM = re.compile(
    r"\s*(?:[-*+•‣◦▪·–—]\s|\(?(?:\d{1,3}|[a-zA-Z])[.)]\s|#{1,6}\s|[>|<{\[①-⑳]|[一二三四五六七八九十]{1,3}、)"
)
_CODE = re.compile(r" {4}|\t|\s*[)\]}]")
_FENCES = ("```", "~~~")

# Sets without overlap and possessive quantifiers: a run of a million dots is read once.
_STRONG = "。！？｡．।॥؟۔։።"  # boundaries without white space after them
_END = re.compile(rf"([{_STRONG}.!?…]++)(?:[”’»›」』）)\]】》〉〕*_]|[\xa0\u202f]»| »(?=\s))*+")
_QUOTES = re.compile(r"[\"'“‘]*+")  # opening and closing quotes look the same
_OPENING = re.compile(r"[\s\"'“‘„«‹(\[*_¿¡]*+")
_CONTINUES = re.compile(r"[、，,;；:：]|と|って")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘„«/]++\Z")
_DOTTED = re.compile(r"(?:[^\W\d]{1,2}\.)+[^\W\d]{1,2}")
_LETTER_AND_STOP = re.compile(r"[^\W\d]\.")
_ORDINAL = re.compile(
    r"(?:\A|\b(?:am|der|die|das|dem|den|des|im|vom|zum|zur|bis|seit|ab)\s)\d{1,3}\Z", re.IGNORECASE
)
_LOOK_BACK = 40
_MAX_ABBREVIATED = 2  # letters before each full stop of an abbreviation like "z. B."

_ABBREVIATION = re.compile(
    "mr|mrs|ms|dr|prof|st|mt|rev|capt|lt|sgt|sen|messrs|vs|cf|viz|al|eds?|approx|dept|ft|"
    "bzw|evtl|geb|ggf|hrsg|inkl|mio|mrd|sog|usf|vgl|zzgl|"  # German
    "mme|mlle|mm|av|éd|réf|sra?|srta|dra|dott|avv|"  # French, Spanish, Italian
    "ул|им|тыс|млн|млрд|проф",  # Russian
    re.IGNORECASE,
)
"""Words whose full stop does not end a sentence, whatever follows; words that may end one, such as "etc", are left out."""

_BEFORE_NUMBER = re.compile(
    "figs?|eqs?|sec|ch|nos?|vols?|pp?|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|"
    "abb|abs|bd|ca|kap|max|min|nr|tel|art|pág|núm|стр|рис",
    re.IGNORECASE,
)
"""Words whose full stop does not end a sentence before a number."""


def segment(text: str, unit: Literal["sentence", "passage"]) -> list[Span]:
    """Split a text into sentences, or into passages: paragraphs, or windows of sentences where a paragraph is longer.

    Args:
        text: Any string.
        unit: What a span holds.

    Returns:
        Spans in order, in code points of `text`: without white space at their ends, of at most `MAX_SPAN_CHARS`, without
        overlap; together they cover every visible character. Empty for a blank text.
    """
    spans: list[Span] = []
    for paragraph in _paragraphs(text):
        pieces: list[Span] = []
        for start, end, is_code in paragraph:
            ends = [end] if is_code else [*_sentence_ends(text, start, end), end]
            pieces += [piece for bounds in pairwise([start, *ends]) for piece in _cut(text, *bounds)]
        spans += _join(text, pieces, unit)
    return spans


def _paragraphs(text: str) -> list[list[tuple[int, int, bool]]]:
    """Return each paragraph as blocks of lines that belong together: start, end, whether it is fenced code."""
    paragraphs: list[list[tuple[int, int, bool]]] = [[]]
    position, fenced, previous = 0, False, ""
    for line in text.splitlines(keepends=True):
        start, position = position, position + len(line)
        is_fence = line.lstrip().startswith(_FENCES)
        is_code = fenced or is_fence
        fenced ^= is_fence
        blocks = paragraphs[-1]
        if not line.strip():
            paragraphs.append([])
        elif blocks and blocks[-1][2] == is_code and (is_code or _is_continued(previous, line)):
            blocks[-1] = (blocks[-1][0], position, is_code)
        else:
            blocks.append((start, position, is_code))
        previous = line
    return paragraphs


def _is_continued(previous: str, line: str) -> bool:
    """Whether two lines of a paragraph are one piece of wrapped text, or of code."""
    if _ITEM.match(line) or previous.lstrip().startswith(("|", "#")) or "\t" in previous.strip():
        return False
    if _CODE.match(line):
        return True
    shown = previous.rstrip()
    is_wide = unicodedata.east_asian_width(shown[-1]) in {"W", "F"}
    return len(shown) >= (_MIN_WRAPPED_WIDE_CHARS if is_wide else _MIN_WRAPPED_CHARS)


def _sentence_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Yield the ends of the sentences within a block, quotes that close with them included."""
    counted, quoted = start, False
    for match in _END.finditer(text, start, end):
        after = match.end()
        quoted ^= text.count('"', counted, after) % 2 == 1
        counted = after
        quotes = _QUOTES.match(text, after, end)
        assert quotes is not None  # it matches the empty string as well
        if text[quotes.end() : quotes.end() + 1].isspace() or (quoted and quotes[0].startswith('"')):
            after = quotes.end()
        if start < after < end and _is_end(text, start, match, after, end):
            yield after
            start = after


def _is_end(text: str, start: int, match: re.Match[str], after: int, end: int) -> bool:
    """Whether a sentence that began at `start` ends with the terminator of a match, closed at `after`."""
    marks, closed = match[1], after > match.end(1)
    following = text[after]
    if marks == "．" and following.isdigit():
        return False
    if not following.isspace():
        is_strong = any(mark in _STRONG for mark in marks)
        is_close = is_strong or ("…" not in marks and _IS_CJK.match(following))
        return bool(is_close) and not _CONTINUES.match(text, after, end)
    opening = _OPENING.match(text, after, end)
    assert opening is not None  # it matches the empty string as well
    begin = text[opening.end() : opening.end() + 1]
    if marks.strip(".…"):  # an exclamation or a question
        return not (closed and begin.islower())
    if begin.islower() or begin in {",", ";", ":"}:
        return False
    before = text[max(start, match.start() - _LOOK_BACK) : match.start()].lstrip()
    return marks != "." or not _is_abbreviation(before, text[opening.end() : opening.end() + 2])


def _is_abbreviation(before: str, following: str) -> bool:
    """Whether the full stop after `before`, a sentence's text so far, belongs to its last word: "z. B.", "J. K. Rowling"."""
    found = _LAST_WORD.search(before)
    if found is None:
        return False
    word = found[0]
    is_initial = len(word) == 1 and word.isupper() and word != "I"
    return (
        is_initial
        or (
            len(word) <= _MAX_ABBREVIATED and word.isalpha() and _LETTER_AND_STOP.match(following) is not None
        )
        or _ABBREVIATION.fullmatch(word) is not None
        or (following[:1].isdigit() and _BEFORE_NUMBER.fullmatch(word) is not None)
        or _DOTTED.fullmatch(word) is not None
        or _ORDINAL.search(before) is not None
    )


def _cut(text: str, start: int, end: int) -> Iterator[Span]:
    """Yield a piece of text without its outer white space, cut into parts of at most `MAX_SPAN_CHARS`."""
    while start < end:
        part = text[start : min(end, start + MAX_SPAN_CHARS + 1)]
        start += len(part) - len(part.lstrip())
        if part.isspace():
            continue
        stop = end if end - start <= MAX_SPAN_CHARS else _cut_position(text, start)
        stripped = start + len(text[start:stop].rstrip())
        yield start, stripped
        start = stop


def _cut_position(text: str, start: int) -> int:
    """Return where to cut a text that is too long: at white space, a comma, or between two characters as they are seen."""
    lowest, highest = start + MAX_SPAN_CHARS // 2, start + MAX_SPAN_CHARS
    for position in range(highest, lowest, -1):
        if text[position].isspace() or text[position - 1] in "，、；,;":
            return position
    for position in range(highest, lowest, -1):
        if not _is_within_character(text[position - 1], text[position]):
            return position
    return highest


def _is_within_character(before: str, here: str) -> bool:
    """Whether a mark, a joiner or a skin tone binds two code points to one character."""
    is_modifier = (
        unicodedata.category(here)[0] == "M" or here == "\u200d" or "\U0001f3fb" <= here <= "\U0001f3ff"
    )
    return is_modifier or before == "\u200d"


def _join(text: str, pieces: list[Span], unit: Literal["sentence", "passage"]) -> list[Span]:
    """Join the sentences of a paragraph to passages; as sentences, only pieces without any word to a neighbour."""
    joined: list[Span] = []
    for start, end in pieces:
        if (
            joined
            and end - joined[-1][0] <= MAX_SPAN_CHARS
            and (
                unit == "passage" or not (_WORD.search(text, start, end) and _WORD.search(text, *joined[-1]))
            )
        ):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
