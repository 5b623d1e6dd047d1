"""From a hit to the texts that are scored of it, and from a place in such a text back to the field.

A hit has one text, or one for each of its inner hits. Pure functions over plain JSON; no model, no settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opensearch_qwen_rerank.client.paths import step_to, text_at
from qwen_rerank_plugins import ConfigurationError, InputTypeError, Span

__all__ = ["HitText", "Part", "TextReader"]

SEPARATOR = "\n\n"
INNER = "inner_hits."
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Part:
    """Where a field's text stands in the text that is scored.

    Attributes:
        field: The field's path.
        start: Its first character.
        end: The one after its last.
    """

    field: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class HitText:
    """A text that is scored for a hit.

    Attributes:
        text: What is scored.
        parts: Where each field stands in it; empty where a function of the user wrote it.
        inner_hit: Position of the inner hit that it was read from, or None.
    """

    text: str
    parts: tuple[Part, ...] = ()
    inner_hit: int | None = None

    def passage(self, span: Span) -> dict[str, Any]:
        """Tell a passage: its text, its field and its place there; of several fields the one with most of it."""
        if not self.parts:
            return {"passage": self.text[slice(*span)], "passage_span": list(span)}
        part = max(self.parts, key=lambda one: min(one.end, span[1]) - max(one.start, span[0]))
        start, end = max(part.start, span[0]), min(part.end, span[1])
        if start >= end:
            return {}
        place = [start - part.start, end - part.start]
        return {"passage": self.text[start:end], "passage_field": part.field, "passage_span": place}


class TextReader:
    """Reads texts of hits by paths, a template, or a function."""

    def __init__(
        self,
        fields: Sequence[str] = (),
        template: str | None = None,
        text_of: Callable[[Mapping[str, Any]], str | None] | None = None,
    ) -> None:
        """Create a reader; one of the three says what is read.

        Raises:
            ConfigurationError: The template has no path or a lone brace, or paths into inner hits do not name one kind.
        """
        self._pieces = None if template is None else _pieces(template)
        self._fields = (
            tuple(fields) if self._pieces is None else tuple(path for _, path in self._pieces if path)
        )
        self._text_of = text_of
        self._inner_name = _inner_name([path for path in self._fields if path.startswith(INNER)])

    def read(self, hit: Mapping[str, Any]) -> list[HitText]:
        """Give the texts of a hit that are not blank; none where it has none of the fields.

        Raises:
            InputTypeError: The user's function gave something else than a text or None.
        """
        if self._text_of is not None:
            return _given(self._text_of(hit))
        if self._inner_name is None:
            return self._written(hit, None, None)
        inner = step_to(hit.get("inner_hits"), f"{self._inner_name}.hits.hits") or []
        return [text for index, one in enumerate(inner) for text in self._written(hit, one, index)]

    def _written(
        self, hit: Mapping[str, Any], inner: Mapping[str, Any] | None, index: int | None
    ) -> list[HitText]:
        """The text that fields or template give, in a list; none where every field is blank, or the inner hit's are."""
        values = {path: self._value(hit, inner, path) for path in self._fields}
        own = [value for path, value in values.items() if inner is None or path.startswith(INNER)]
        if not any(own):
            return []
        return [_filled(self._pieces or _joined(self._fields, values), values, index)]

    def _value(self, hit: Mapping[str, Any], inner: Mapping[str, Any] | None, path: str) -> str:
        if inner is None or not path.startswith(INNER):
            return _field_text(hit, path)
        own = path.removeprefix(f"{INNER}{self._inner_name}.")
        nested = step_to(inner, "_nested.field")  # requested fields carry the whole path, the source does not
        return (_field_text(inner, f"{nested}.{own}") if nested else "") or _field_text(inner, own)


def _inner_name(paths: Sequence[str]) -> str | None:
    """The name of the inner hits that paths lead into, None where there are no such paths."""
    kinds = {path: path.split(".")[1] for path in paths}
    for path, name in kinds.items():
        if path == INNER + name:
            raise ConfigurationError(
                f"path ends at inner hits: {path!r}; allowed: 'inner_hits.<name>.<path>'"
            )
    names = sorted(set(kinds.values()))
    if len(names) > 1:
        raise ConfigurationError(f"paths name several kinds of inner hits: {names!r}; allowed: one")
    return names[0] if names else None


def _field_text(hit: Mapping[str, Any], path: str) -> str:
    """A field's text: what the search asked for under `fields` goes before the source, as in the cluster."""
    asked = hit.get("fields")
    if isinstance(asked, Mapping) and path in asked:
        return text_at({"value": asked[path]}, "value")
    return text_at(hit.get("_source"), path)


def _given(text: object) -> list[HitText]:
    if text is not None and not isinstance(text, str):
        kind = type(text).__name__
        raise InputTypeError(f"text_of gave something else than a text: {kind}; allowed: a string or None")
    return [HitText(text)] if text and text.strip() else []


def _joined(fields: Sequence[str], values: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """The pieces of a text of those fields that are there."""
    present = [path for path in fields if values[path]]
    return [(SEPARATOR if number else "", path) for number, path in enumerate(present)]


def _filled(
    pieces: Sequence[tuple[str, str | None]], values: Mapping[str, str], inner: int | None
) -> HitText:
    """Put values into pieces, each a literal and the path that follows it."""
    text, parts = "", []
    for literal, path in pieces:
        text += literal
        if path is not None:
            parts.append(Part(path, len(text), len(text) + len(values[path])))
            text += values[path]
    return HitText(text, tuple(parts), inner)


def _pieces(template: str) -> list[tuple[str, str | None]]:
    """Cut a template into literals, each with the path that follows it, None after the last.

    Raises:
        ConfigurationError: It has no path, an empty one, or a lone brace.
    """
    pieces: list[tuple[str, str | None]] = []
    literal, end = "", 0
    for match in _PLACEHOLDER.finditer(template):
        literal += template[end : match.start()]
        end = match.end()
        if match[0] in {"{{", "}}"}:
            literal += match[0][0]
        elif match[1] and all(match[1].split(".")):
            pieces.append((literal, match[1]))
            literal = ""
        else:
            raise ConfigurationError(
                f"template has {match[0]!r}: {template!r}; allowed: paths in braces, and braces written twice"
            )
    if not pieces:
        raise ConfigurationError(
            f"template has no path: {template!r}; allowed: at least one, as in '{{body}}'"
        )
    return [*pieces, (literal + template[end:], None)]
