"""Converts a document of a request (a string, an object or a list of fields) to the text to rank.

Knows no dialect; the caller passes the documents and the fields to rank.

The text of a string is the string. The text of a list of fields is its non-empty items, one per line. The text of an
object is the first of these that applies:

1. With `rank_fields`: these fields, in this order. A single field is its bare value, several are `name: value` lines.
   The text is empty if the object has none of them. A dotted name that is not a field itself selects from nested
   objects and lists of objects.
2. With `content` parts in vLLM's format, `{"content": [{"type": "text", "text": ...}]}`: the texts, one per line. Parts
   of other types (images, audio) are rejected, since the model only reads text.
3. Its `text`.
4. All its fields as `name: value` lines. Nested fields are indented as in YAML, empty ones are omitted.

An object or a list without a text, but with an image, a video or audio, is rejected. Beside a text such a field is
ordinary metadata.

Values other than strings are written as JSON, so that no part of a document is silently missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.types import RankedDocument

__all__ = ["DOCUMENT_SCHEMA", "MEDIA_FIELDS", "echo", "json_type", "text_of", "texts_of"]

_NON_TEXT_PARTS: Final = (
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
MEDIA_FIELDS: Final = (
    *(name for name in _NON_TEXT_PARTS if name != "file"),
    "images",
    "multi_images",
    "videos",
)
_LABELS: Final = (
    "_id",
    "detail",
    "format",
    "id",
    "media_type",
    "mime_type",
    "type",
)  # say nothing about relevance
_JSON_TYPES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "boolean"),  # before int, its base class
    (int, "number"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)

DOCUMENT_SCHEMA: Final[dict[str, Any]] = {
    "description": (
        "A string; or an object, ranked by `text` or by all its fields as `name: value` lines; "
        "or a list of fields, one per line. Content parts in vLLM's format must be texts. An image, a video or audio "
        "without a text is rejected."
    ),
    "not": {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"enum": list(MEDIA_FIELDS)},
        "additionalProperties": {"type": "string", "pattern": "[!-~]"},
    },
    "type": ["string", "object", "array"],
    "properties": {
        "content": {
            "not": {
                "type": "array",
                "contains": {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"enum": list(_NON_TEXT_PARTS)}},
                },
            }
        }
    },
}


def json_type(value: object) -> str:
    """Return the JSON type of a value, which errors show instead of the value."""
    return next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null")


def text_of(document: Any, place: str, rank_fields: Sequence[str] = ()) -> str:
    """Return the text of a document.

    Args:
        document: A JSON value.
        place: Its place in the body, for errors.
        rank_fields: Fields of an object to rank; empty for the default.

    Raises:
        BodyError: The document is a number, a boolean or null, has content parts other than text, or has no text but
            an image, a video or audio.
    """
    if isinstance(document, str):
        return document
    if _is_media(document):
        raise BodyError(f"{place} has no text but an image, a video or audio; this model only reads text")
    if isinstance(document, list):
        return _value_text(document)
    if isinstance(document, dict):
        return _object_text(document, place, rank_fields)
    raise BodyError(
        f"{place} has the wrong type: {json_type(document)}; pass a string, an object or a list of fields"
    )


def texts_of(documents: Sequence[Any], place: str, rank_fields: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the text of each document in a list.

    Raises:
        BodyError: As for `text_of`; the message contains the index.
    """
    return tuple(
        text_of(document, f"{place}[{index}]", rank_fields) for index, document in enumerate(documents)
    )


def echo(document: Any, ranked: RankedDocument) -> dict[str, Any]:
    """Return a document for the field `document` of an answer: an object unchanged, others as an object with `text`."""
    return document if isinstance(document, dict) else {"text": ranked.document}


def _object_text(document: Mapping[str, Any], place: str, rank_fields: Sequence[str]) -> str:
    parts = _content_texts(document.get("content"), place)
    if rank_fields:
        chosen = {name: _field(document, name) for name in rank_fields}
        return _value_text(chosen[rank_fields[0]] if len(rank_fields) == 1 else chosen)
    if parts is not None:
        return "\n".join(part for part in parts if part)
    text = document.get("text")
    return _value_text(document if text is None else text)


def _is_media(value: Any) -> bool:
    """Return whether an object or a list has an image, a video or audio and nothing else to read."""
    if isinstance(value, list):
        items = [item for item in value if not _is_blank(item)]
        return bool(items) and all(map(_is_media, items))
    if not isinstance(value, dict):
        return False
    fields = {name: item for name, item in value.items() if name not in _LABELS and not _is_blank(item)}
    return bool(fields) and all(name in MEDIA_FIELDS or _is_media(item) for name, item in fields.items())


def _is_blank(value: Any) -> bool:
    return not value.strip() if isinstance(value, str) else value is None or value in ([], {})


def _field(value: Any, name: str) -> Any:
    """Return a field, by name or by dotted path, as a list if the path contains lists; None if it is absent."""
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
    """Return the texts of vLLM's content parts, or None if `content` is an ordinary field."""
    if not isinstance(content, list):
        return None
    kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
    for index, kind in enumerate(kinds):
        if isinstance(kind, str) and kind in _NON_TEXT_PARTS:
            raise BodyError(f"{place}.content[{index}] is not text; pass only parts of type 'text'")
    if not content or any(kind != "text" for kind in kinds):
        return None
    texts = [part.get("text") for part in content]
    return texts if all(isinstance(text, str) for text in texts) else None


def _value_text(value: Any) -> str:
    """Return the text of a value: a string unchanged, items of a list and fields of an object one per line."""
    if isinstance(value, str):
        return value
    return "\n".join(_lines(value, bullet="")) if isinstance(value, dict | list) else _scalar(value)


def _lines(value: Any, bullet: str = "- ", indent: str = "") -> Iterator[str]:
    """Yield the items of a list or the fields of an object as lines; nested values are indented below their name."""
    named = isinstance(value, dict)
    for name, item in value.items() if named else (("", item) for item in value):
        label = f"{indent}{name}:" if named else f"{indent}{bullet}".rstrip()
        if isinstance(item, dict | list):
            nested = list(_lines(item, indent=f"{indent}  " if label else indent))
            yield from [label, *nested] if label and nested else nested
        elif text := _scalar(item):
            yield f"{label} {text}" if label else text


def _scalar(value: Any) -> str:
    """Return the text of a scalar; empty for null and blank strings."""
    if isinstance(value, str):
        return value if value.strip() else ""
    return "" if value is None else json.dumps(value)
