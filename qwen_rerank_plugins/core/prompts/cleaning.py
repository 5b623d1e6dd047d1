"""Repair texts that UTF-8 cannot encode, and find prompt templates that clients have already put around them.

Knows families and strings, and no tokens. A template is recognized by its control tokens, or by a label such as
`<Document>:`, at the start or the end of a text. Elsewhere both are user text.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from qwen_rerank_plugins.core.prompts.families import FAMILIES, PLACEHOLDER, Placeholder, PromptFamily
from qwen_rerank_plugins.recipe import (
    REMOVED_TEMPLATE,
    REPAIRED_TEXT,
    TEMPLATE_IN_TEXT,
    replace_surrogates,
)

__all__ = ["CleanText", "TextCleaner", "Unwrap"]

logger = logging.getLogger(__name__)

Unwrap = Literal["warn", "strip", "off"]

END_WINDOW = 1024
"""Characters at the end of a text in which the end of a template is looked for."""

MAX_NESTING = 4
"""Templates around one another that are removed from one text."""

_LABEL = re.compile(r"<\w+>:")
_TURN = re.compile(r"<\|im_(start|end)\|>")
_logged: set[str] = set()


@dataclass(frozen=True, slots=True)
class CleanText:
    """A text as it goes into a prompt.

    Attributes:
        text: The text, repaired, and without a template if templates are removed.
        offset: Where it begins in the caller's string, in characters.
        instruction: The instruction of the template that was removed from a query, if it had one.
        warnings: What was wrong with the caller's string.
    """

    text: str
    offset: int = 0
    instruction: str | None = None
    warnings: tuple[str, ...] = ()


class TextCleaner:
    """Prepares texts for the prompts of a family.

    Args:
        family: The family of the prompts.
        unwrap: What happens to a text with a template around it: "warn" marks it, "strip" removes the template, "off"
            looks for none.
    """

    def __init__(self, family: PromptFamily, unwrap: Unwrap) -> None:
        self._strip = family.strip
        self._unwrap = unwrap
        families = [family, *(other for other in FAMILIES.values() if other != family)]
        self._edges: dict[str, list[_Edges]] = {
            name: [_edges(one, name) for one in families if _places(one, name)]
            for name in ("instruction", "query", "document")
        }
        starts = [mark for one in families for mark in _marks(one)]
        ends = [mark for one in families for mark in _marks(one, at_end=True)]
        self._start_mark = re.compile(rf"\s{{0,4}}(?:{'|'.join(starts)})")
        self._end_mark = re.compile(rf"(?:{'|'.join(ends)})\s{{0,4}}\Z")

    def clean(self, text: str, place: Placeholder) -> CleanText:
        """Return a caller's text as it goes into the place of a prompt.

        Lone surrogates become U+FFFD, one for one. A warning is logged once per process, without the text.
        """
        repaired = replace_surrogates(text)
        clean = CleanText(repaired, warnings=(REPAIRED_TEXT,) if repaired != text else ())
        if self._unwrap != "off" and self._has_template(repaired):
            clean = self._handle_template(clean, place)
        if self._strip and place != "instruction":
            stripped = clean.text.strip()
            offset = clean.offset + clean.text.find(stripped)
            clean = CleanText(stripped, offset, clean.instruction, clean.warnings)
        for warning in clean.warnings:
            if warning not in _logged:
                _logged.add(warning)
                logger.warning("scoring: %s; this is logged once per process", warning)
        return clean

    def _has_template(self, text: str) -> bool:
        end = max(0, len(text) - END_WINDOW)
        return bool(self._start_mark.match(text) or self._end_mark.search(text, end))

    def _handle_template(self, outer: CleanText, place: Placeholder) -> CleanText:
        """Return the text inside if templates are removed and nothing of one remains, else the text as it is."""
        inner = outer
        for _ in range(MAX_NESTING if self._unwrap == "strip" else 0):
            if self._has_template(inner.text):
                inner = self._inside(inner, place)
        if inner.text == outer.text or _TURN.search(inner.text):
            return CleanText(outer.text, warnings=(*outer.warnings, TEMPLATE_IN_TEXT))
        return CleanText(inner.text, inner.offset, inner.instruction, (*outer.warnings, REMOVED_TEMPLATE))

    def _inside(self, outer: CleanText, place: Placeholder) -> CleanText:
        """Return what is inside the template that fits best."""
        found = []
        for edges in self._edges[place]:
            before = edges.before.match(outer.text)
            start = 0 if before is None else before.end()
            after = edges.after.search(outer.text, max(start, len(outer.text) - END_WINDOW))
            text = outer.text[start : None if after is None else after.start()]
            instruction = before and before.groupdict().get("instruction")
            found.append(CleanText(text, outer.offset + start, instruction or outer.instruction))
        return min(found, key=lambda inner: len(inner.text))


class _Edges(NamedTuple):
    """Patterns of what a template has before and after the text in one place; all of it may be missing."""

    before: re.Pattern[str]
    after: re.Pattern[str]


class _Part(NamedTuple):
    """A placeholder, a control text, or a literal text of a family."""

    kind: Literal["value", "control", "label"]
    text: str


def _parts(family: PromptFamily) -> list[_Part]:
    parts: list[_Part] = []
    for piece in family.pieces:
        if piece.control:
            parts.append(_Part("control", piece.text))
            continue
        for number, text in enumerate(PLACEHOLDER.split(piece.text)):
            if number % 2:
                parts.append(_Part("value", text))
            elif parts and parts[-1].kind == "label":
                parts[-1] = _Part("label", parts[-1].text + text)
            elif text:
                parts.append(_Part("label", text))
    return parts


def _places(family: PromptFamily, name: str) -> bool:
    return _Part("value", name) in _parts(family)


def _marks(family: PromptFamily, *, at_end: bool = False) -> list[str]:
    """Return patterns of what begins or ends a text with a template, and no other text."""
    pieces = family.query + family.document if at_end else family.root
    controls = [_words(piece.text) for piece in pieces if piece.control]
    labels = [_words(part.text) for part in _parts(family) if _LABEL.fullmatch(part.text.strip())]
    return controls + labels


def _edges(family: PromptFamily, name: str) -> _Edges:
    parts = _parts(family)
    here = parts.index(_Part("value", name))
    following = next(
        (number for number in range(here + 1, len(parts)) if parts[number].kind == "value"), len(parts)
    )
    before = "".join(f"(?:{pattern})?" for pattern in _leading(parts[:here]))
    if name == "document" and parts[0].kind == "control":  # the whole prompt may be in the document's place
        start, between = _pattern(parts[0]), _pattern(parts[here - 1])
        before = rf"(?:\s{{0,4}}{start}.*?{between})?{before}"
    after = "".join(_trailing(part) for part in parts[here + 1 : following])
    return _Edges(re.compile(before, re.DOTALL), re.compile(rf"{after}\Z"))


def _leading(parts: list[_Part]) -> list[str]:
    """Return the patterns of the parts before a place; an instruction belongs to the label before it."""
    patterns: list[str] = []
    for number, part in enumerate(parts):
        if part.kind != "value":
            patterns.append((r"\s{0,4}" if number == 0 else "") + _pattern(part))
        elif part.text == "instruction":
            patterns[-1] += rf"(?P<instruction>.*?)(?={_pattern(parts[number + 1])})"
        else:  # the query is not in the document's text, nor is what precedes it
            patterns.clear()
    return patterns


def _trailing(part: _Part) -> str:
    if part.kind == "control":
        return rf"(?:{_words(part.text)}\s{{0,4}})?"
    words = _words(part.text)
    newlines = r"(?:\r?\n){0,2}" if part.text.startswith("\n") else ""
    return newlines + (rf"(?:{words}\s?)?" if words else "")


def _pattern(part: _Part) -> str:
    """Return the pattern of a literal text; more and fewer line ends around it are allowed."""
    before = r"(?:\r?\n){0,2}" if part.text.startswith("\n") else ""
    newlines = len(part.text) - len(part.text.rstrip("\n"))
    after = rf"(?:\r?\n){{0,{newlines}}}" if newlines else " ?" if part.text.endswith(" ") else ""
    return before + _words(part.text) + after


def _words(text: str) -> str:
    return r"\s{1,4}".join(map(re.escape, text.split()))
