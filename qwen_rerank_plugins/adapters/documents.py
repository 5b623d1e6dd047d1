"""From a framework's documents to the texts that are scored.

Knows documents only through what a wrapper reads from them: metadata and content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from qwen_rerank_plugins.errors import ConfigurationError, InputTypeError

__all__ = ["Candidates", "check_metadata_fields", "collect_documents", "render_metadata"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candidates(Generic[T]):
    """Documents, and the text of each that is scored.

    Attributes:
        documents: The documents, as they were passed in.
        texts: One text per document: a prefix, and the document's content.
        offsets: Where the content begins in each text, in characters.
    """

    documents: Sequence[T]
    texts: list[str]
    offsets: list[int]

    @classmethod
    def render(cls, documents: Sequence[T], parts: Callable[[T], tuple[str, str]]) -> Candidates[T]:
        """Render documents; `parts` returns the prefix and the content of one."""
        pairs = [parts(document) for document in documents]
        texts = [prefix + content for prefix, content in pairs]
        return cls(documents, texts, [len(prefix) for prefix, _ in pairs])


def render_metadata(metadata: Mapping[str, Any], fields: Sequence[str]) -> str:
    r"""Return the text that precedes a document's content: one `name: value` line per field, and a blank line.

    Fields come in the order of `fields`. A field that is missing, None, blank or an empty collection is omitted;
    without any field the text is empty. Strings are written as they are, numbers, booleans, lists and mappings as
    JSON (with its non-ASCII characters), other values as `str` writes them.

    >>> render_metadata({"year": 1900, "title": "Farm", "tags": ["a"]}, ["title", "tags", "author"])
    'title: Farm\ntags: ["a"]\n\n'
    """
    if not fields:
        return ""
    lines = [
        f"{name}: {text}\n" for name in fields if (text := _render_value(metadata.get(name))) and text.strip()
    ]
    return "".join(lines) + "\n" if lines else ""


def collect_documents(
    documents: object, kinds: type | tuple[type, ...], *, name: str = "documents"
) -> list[Any]:
    """Collect an iterable of documents in a list; a single document is refused, even if it is iterable itself.

    Raises:
        InputTypeError: It is not an iterable of `kinds`; the message names the index of the first wrong item.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    expected = " or ".join(kind.__name__ for kind in kinds)
    if isinstance(documents, (str, bytes, Mapping, *kinds)) or not isinstance(documents, Iterable):
        found = type(documents).__name__
        raise InputTypeError(f"{name} has the wrong type: {found}. Pass a list of {expected}.")
    collected = list(documents)
    for index, document in enumerate(collected):
        if not isinstance(document, kinds):
            found = type(document).__name__
            raise InputTypeError(f"{name}[{index}] has the wrong type: {found}. Pass a list of {expected}.")
    return collected


def check_metadata_fields(fields: object, *, name: str = "metadata_fields") -> tuple[str, ...] | None:
    """Return a list of metadata keys, the value of the parameter `name`, as a tuple; None stays None.

    Raises:
        ConfigurationError: It is not a list of strings.
    """
    if fields is None:
        return None
    if not isinstance(fields, list | tuple) or not all(isinstance(field, str) for field in fields):
        raise ConfigurationError(f"{name} is not valid: {fields!r}. Pass a list of metadata keys.")
    return tuple(fields)


def _render_value(value: object) -> str:
    """Return a value as text; an empty text for None and for empty collections."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, Collection) and not value):
        return ""
    if not isinstance(value, bool | int | float | list | tuple | dict):
        return str(value)
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # a key that JSON has no form for, or a value that contains itself
        return str(value)
