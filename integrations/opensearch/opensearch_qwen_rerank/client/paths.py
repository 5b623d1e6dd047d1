"""Dotted paths into nested JSON, as OpenSearch writes them. Knows no hits and no searches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["step_to", "text_at"]

_POSITION = re.compile(r"\[(\d+)\]")


def text_at(node: object, path: str) -> str:
    """Give the text at a path, several values one a line; empty where there is none.

    Lists on the way are looked into, and keys that hold dots are found as they stand: `{"a": [{"b": 1}]}` and
    `{"a.b": 1}` both have `a.b`. Numbers and booleans are written as JSON writes them, null counts as absent, an
    object gives all of its values.
    """
    texts = [_written(value) for value in _leaves(node, path.split("."))]
    return "\n".join(text for text in texts if text.strip())


def step_to(node: object, path: str) -> Any:
    """Give what stands at a path through objects and, by position, lists; None where there is nothing.

    A position is written `queries.0` or `queries[0]`.
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
    """Every scalar below a path, in the order of the document."""
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
    """What lies behind the path's beginning: under one name, or under a key that holds several with their dots."""
    cuts = range(1, len(names) + 1)
    keys = [(".".join(names[:cut]), names[cut:]) for cut in cuts]
    return [(node[key], rest) for key, rest in keys if key in node]


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
