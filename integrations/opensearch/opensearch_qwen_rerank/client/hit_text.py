"""Reads the texts of a hit that are scored, and maps a span of such a text back to its field.

A hit has one text, or one per inner hit. Pure functions over plain JSON; no model, no settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opensearch_qwen_rerank.client.dotted_paths import get_path, text_at_path
from qwen_rerank_plugins import ConfigurationError, InputTypeError, Span

__all__ = ["FieldSpan", "HitText", "HitTextReader"]

SEPARATOR = "\n\n"
INNER = "inner_hits."
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class FieldSpan:
    """The span of a field's text in a scored text.

    Attributes:
        field: Path of the field.
        start: Offset of the first character.
        end: Offset after the last character.
    """

    field: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class HitText:
    """A scored text of a hit.

    Attributes:
        text: The text.
        fields: The span of each field; empty if the user's function returned the text.
        inner_hit: Position of the inner hit that the text belongs to, or None.
    """

    text: str
    fields: tuple[FieldSpan, ...] = ()
    inner_hit: int | None = None

    def passage(self, span: Span) -> dict[str, Any]:
        """Return the text of a span, its field, and its span there; of several fields the one with the largest share."""
        if not self.fields:
            return {"passage": self.text[slice(*span)], "passage_span": list(span)}
        field = max(self.fields, key=lambda one: min(one.end, span[1]) - max(one.start, span[0]))
        start, end = max(field.start, span[0]), min(field.end, span[1])
        if start >= end:
            return {}
        field_span = [start - field.start, end - field.start]
        return {"passage": self.text[start:end], "passage_field": field.field, "passage_span": field_span}


class HitTextReader:
    """Reads the texts of hits by paths, a template, or a function."""

    def __init__(
        self,
        fields: Sequence[str] = (),
        template: str | None = None,
        text_of: Callable[[Mapping[str, Any]], str | None] | None = None,
    ) -> None:
        """Create a reader from one of the three.

        Raises:
            ConfigurationError: The template has no path or a single brace, or paths name more than one kind of inner hits.
        """
        self._pieces = None if template is None else _pieces(template)
        self._fields = (
            tuple(fields) if self._pieces is None else tuple(path for _, path in self._pieces if path)
        )
        self._text_of = text_of
        self._inner_name = _inner_name([path for path in self._fields if path.startswith(INNER)])

    def read(self, hit: Mapping[str, Any]) -> list[HitText]:
        """Return the texts of a hit that are not blank; an empty list if it has none of the fields.

        Raises:
            InputTypeError: The user's function returned neither a string nor None.
        """
        if self._text_of is not None:
            return _from_function(self._text_of(hit))
        if self._inner_name is None:
            return self._build(hit, None, None)
        inner = get_path(hit.get("inner_hits"), f"{self._inner_name}.hits.hits") or []
        return [text for index, one in enumerate(inner) for text in self._build(hit, one, index)]

    def _build(
        self, hit: Mapping[str, Any], inner: Mapping[str, Any] | None, index: int | None
    ) -> list[HitText]:
        """Return the text of fields or template in a list, which is empty if all fields, or all of the inner hit, are blank."""
        values = {path: self._value(hit, inner, path) for path in self._fields}
        own = [value for path, value in values.items() if inner is None or path.startswith(INNER)]
        if not any(own):
            return []
        return [_fill(self._pieces or _joined(self._fields, values), values, index)]

    def _value(self, hit: Mapping[str, Any], inner: Mapping[str, Any] | None, path: str) -> str:
        if inner is None or not path.startswith(INNER):
            return _field_text(hit, path)
        own = path.removeprefix(f"{INNER}{self._inner_name}.")
        nested = get_path(inner, "_nested.field")  # requested fields have the full path, the source does not
        return (_field_text(inner, f"{nested}.{own}") if nested else "") or _field_text(inner, own)


def _inner_name(paths: Sequence[str]) -> str | None:
    """Return the name of the inner hits in paths, or None if there are no such paths."""
    kinds = {path: path.split(".")[1] for path in paths}
    for path, name in kinds.items():
        if path == INNER + name:
            raise ConfigurationError(f"path ends at inner hits: {path!r}. Use 'inner_hits.<name>.<path>'.")
    names = sorted(set(kinds.values()))
    if len(names) > 1:
        raise ConfigurationError(f"paths name several kinds of inner hits: {names!r}. Use one kind.")
    return names[0] if names else None


def _field_text(hit: Mapping[str, Any], path: str) -> str:
    """Return a field's text; as in the cluster, requested `fields` take precedence over the source."""
    requested = hit.get("fields")
    if isinstance(requested, Mapping) and path in requested:
        return text_at_path({"value": requested[path]}, "value")
    return text_at_path(hit.get("_source"), path)


def _from_function(text: object) -> list[HitText]:
    if text is not None and not isinstance(text, str):
        kind = type(text).__name__
        raise InputTypeError(f"text_of returned neither a string nor None: {kind}. Return one of them.")
    return [HitText(text)] if text and text.strip() else []


def _joined(fields: Sequence[str], values: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Return the pieces of a text of the fields that are not blank."""
    present = [path for path in fields if values[path]]
    return [(SEPARATOR if number else "", path) for number, path in enumerate(present)]


def _fill(pieces: Sequence[tuple[str, str | None]], values: Mapping[str, str], inner: int | None) -> HitText:
    """Build a text from pieces, each a literal and the path that follows it."""
    text, fields = "", []
    for literal, path in pieces:
        text += literal
        if path is not None:
            fields.append(FieldSpan(path, len(text), len(text) + len(values[path])))
            text += values[path]
    return HitText(text, tuple(fields), inner)


def _pieces(template: str) -> list[tuple[str, str | None]]:
    """Split a template into literals, each with the path that follows it, None after the last.

    Raises:
        ConfigurationError: It has no path, an empty one, or a single brace.
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
                f"template has {match[0]!r}: {template!r}. Put paths in braces, and double literal braces."
            )
    if not pieces:
        raise ConfigurationError(f"template has no path: {template!r}. Add one, such as '{{body}}'.")
    return [*pieces, (literal + template[end:], None)]
