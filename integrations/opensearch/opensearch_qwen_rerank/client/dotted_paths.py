"""Reads dotted paths in nested JSON as OpenSearch does. Knows no hits and no searches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["get_path", "text_at_path"]

_POSITION = re.compile(r"\[(\d+)\]")


def text_at_path(node: object, path: str) -> str:
    """Return the text at a path, one line per value; empty if there is none.

    The path passes through lists, and a key may contain dots: `{"a": [{"b": 1}]}` and `{"a.b": 1}` both have `a.b`.
    Numbers and booleans have their JSON form, null is not a value, and an object has the values of all its keys.
    """
    texts = [_to_text(value) for value in _leaves(node, path.split("."))]
    return "\n".join(text for text in texts if text.strip())


def get_path(node: object, path: str) -> Any:
    """Return the value at a path through objects and lists, or None.

    A list's position is written `queries.0` or `queries[0]`.
    """
    for name in _POSITION.sub(r".\1", path).split("."):
        if isinstance(node, Mapping):
            node = node.get(name)
        elif isinstance(node, list) and name.isascii() and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def _leaves(node: object, names: Sequence[str]) -> Iterator[object]:
    """Yield every scalar below a path, in the order of the document."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _leaves(item, names)
    elif isinstance(node, Mapping):
        children = _children(node, names) if names else [(value, names) for value in node.values()]
        for child, rest in children:
            yield from _leaves(child, rest)
    elif not names and node is not None:
        yield node


def _children(node: Mapping[str, Any], names: Sequence[str]) -> list[tuple[Any, Sequence[str]]]:
    """Return the values under the first name, or under a key that joins several names with dots, and the remaining names."""
    cuts = range(1, len(names) + 1)
    keys = [(".".join(names[:cut]), names[cut:]) for cut in cuts]
    return [(node[key], rest) for key, rest in keys if key in node]


def _to_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
