"""From a document as clients send it, a string, an object or a list of fields, to the text that is ranked.

Knows no dialect: which documents a request holds, and which fields it wants ranked, is the caller's to find out.

A string is its own text. A list of fields is its non-empty items, one a line. An object is, in this order:

1. with chosen fields (`rank_fields`), those it has, in the order chosen: one field as its bare value, several as
   `name: value` lines; the text is empty when it has none of them; a dotted name that is no field leads into nested
   objects and lists of them;
2. with `content` parts as vLLM takes them, `{"content": [{"type": "text", "text": ...}]}`, the parts' texts, one a
   line; parts that are no text (images, sound) are refused, since nothing here could judge them;
3. its `text`;
4. all its fields as `name: value` lines, nested ones indented as in YAML, empty ones left out.

Values that are no strings are written as in JSON, so nothing that was sent is silently missing from the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from qwen_rerank_plugins.service.schemas.request import BodyError

__all__ = ["DOCUMENT_SCHEMA", "echo", "json_type", "text_of", "texts_of"]

_NO_TEXT_PARTS: Final = (
    "audio",
    "audio_url",
    "file",
    "image",
    "image_embeds",
    "image_url",
    "input_audio",
    "input_image",
    "video",
    "video_url",
)
_JSON_TYPES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "boolean"),  # before int, of which it is a kind
    (int, "number"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)

DOCUMENT_SCHEMA: Final[dict[str, Any]] = {
    "description": (
        "A text; or an object, of which `text` is ranked, else all its fields as `name: value` lines; "
        "or a list of fields, ranked one a line. Content parts as vLLM takes them must be texts."
    ),
    "type": ["string", "object", "array"],
    "properties": {
        "content": {
            "not": {
                "type": "array",
                "contains": {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"enum": list(_NO_TEXT_PARTS)}},
                },
            }
        }
    },
}


def json_type(value: object) -> str:
    """Name a JSON value's type as JSON does; errors say this in place of the value."""
    return next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null")


def text_of(document: Any, place: str, rank_fields: Sequence[str] = ()) -> str:
    """Give the text of a document that is ranked.

    Args:
        document: A JSON value.
        place: Where it stands in the body, for errors.
        rank_fields: The fields of an object that are ranked; empty for the default.

    Raises:
        BodyError: It is a number, a boolean or null, or has content parts that are no text.
    """
    if isinstance(document, str):
        return document
    if isinstance(document, list):
        return _value_text(document)
    if isinstance(document, dict):
        return _object_text(document, place, rank_fields)
    raise BodyError(
        f"{place} has the wrong type: {json_type(document)}; allowed: a string, an object or a list of fields"
    )


def texts_of(documents: Sequence[Any], place: str, rank_fields: Sequence[str] = ()) -> tuple[str, ...]:
    """Give the text of each document of a list, as `text_of` does.

    Raises:
        BodyError: One of them has none; names its index.
    """
    return tuple(
        text_of(document, f"{place}[{index}]", rank_fields) for index, document in enumerate(documents)
    )


def echo(document: Any, text: str) -> dict[str, Any]:
    """Give a document as an answer's `document`: an object whole, anything else as its text."""
    return document if isinstance(document, dict) else {"text": text}


def _object_text(document: Mapping[str, Any], place: str, rank_fields: Sequence[str]) -> str:
    parts = _content_texts(document.get("content"), place)
    if rank_fields:
        chosen = {name: _field(document, name) for name in rank_fields}
        return _value_text(chosen[rank_fields[0]] if len(rank_fields) == 1 else chosen)
    if parts is not None:
        return "\n".join(part for part in parts if part)
    text = document.get("text")
    return _value_text(document if text is None else text)


def _field(value: Any, name: str) -> Any:
    """Give a field, or what a dotted name leads to, from lists as a list; None where there is nothing."""
    if isinstance(value, list):
        found = [_field(item, name) for item in value]
        return [item for item in found if item is not None] or None
    if not isinstance(value, dict):
        return None
    if value.get(name) is not None:
        return value[name]
    head, dot, rest = name.partition(".")
    return _field(value.get(head), rest) if dot else None


def _content_texts(content: Any, place: str) -> list[str] | None:
    """Give the texts of vLLM's content parts, or None when `content` is an ordinary field."""
    if not isinstance(content, list):
        return None
    kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
    for index, kind in enumerate(kinds):
        if isinstance(kind, str) and kind in _NO_TEXT_PARTS:
            raise BodyError(f"{place}.content[{index}] is no text; allowed: parts whose type is 'text'")
    if not content or any(kind != "text" for kind in kinds):
        return None
    texts = [part.get("text") for part in content]
    return texts if all(isinstance(text, str) for text in texts) else None


def _value_text(value: Any) -> str:
    """Give a value without a name as text: a string as it is, a list's items and an object's fields one a line."""
    if isinstance(value, str):
        return value
    return "\n".join(_lines(value, bullet="")) if isinstance(value, dict | list) else _scalar(value)


def _lines(value: Any, bullet: str = "- ", indent: str = "") -> Iterator[str]:
    """Write a list's items or an object's fields, one a line; what is nested stands indented below its name."""
    named = isinstance(value, dict)
    for name, item in value.items() if named else (("", item) for item in value):
        label = f"{indent}{name}:" if named else f"{indent}{bullet}".rstrip()
        if isinstance(item, dict | list):
            nested = list(_lines(item, indent=f"{indent}  " if label else indent))
            yield from [label, *nested] if label and nested else nested
        elif text := _scalar(item):
            yield f"{label} {text}" if label else text


def _scalar(value: Any) -> str:
    """Give a value's text; an empty one for what has nothing to say."""
    if isinstance(value, str):
        return value if value.strip() else ""
    return "" if value is None else json.dumps(value)
