"""pydantic's errors as errors of a request's body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas.documents import json_type

__all__ = ["validated"]

T = TypeVar("T")

_EXPECTED: Final = {
    "list_type": "a list",
    "model_type": "an object",
    "string_pattern_mismatch": "a string with at least one visible character",
    "string_type": "a string",
    "too_short": "at least one item",
}


def validated(read: Callable[[Any], T], value: Any, place: str = "") -> T:
    """Return a value, read by pydantic.

    Args:
        read: Validates the value.
        value: A JSON value.
        place: Its place in the body, for errors.

    Raises:
        BodyError: The value is invalid; with status 400 if a list is empty.
    """
    try:
        return read(value)
    except ValidationError as error:
        raise _body_error(error, place) from None


def _body_error(error: ValidationError, place: str) -> BodyError:
    """Return one error with its place, the type of the value, and what to pass."""
    # That there is nothing to rank comes first.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] != "too_short")
    for part in first["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
    kind, value = first["type"], first["input"]
    if kind == "literal_error":
        wrong = "is unknown" if isinstance(value, str) else f"has the wrong type: {json_type(value)}"
        return BodyError(f"{place} {wrong}; pass {first['ctx']['expected']}")
    if kind not in _EXPECTED:
        return BodyError(f"{place} {first['msg']}")
    problems = {"string_pattern_mismatch": "is blank", "too_short": "is empty"}
    wrong = "is missing" if value is None else f"has the wrong type: {json_type(value)}"
    message = f"{place} {problems.get(kind, wrong)}; pass {_EXPECTED[kind]}"
    return BodyError(message, status=400 if kind == "too_short" else 422)
