"""Fields of requests, with one reader and one equivalent schema each. Knows no dialect.

Readers accept what clients send in practice: null means absent, booleans may be "true" and "false", integers "3" and
2.0. A number is never converted to a string. Messages contain the place and type of a value, never the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas.documents import DOCUMENT_SCHEMA, json_type

__all__ = [
    "COUNT",
    "DOCUMENTS",
    "FLAG",
    "IGNORED",
    "INSTRUCTION_FIELDS",
    "NAMES",
    "QUERY",
    "RAW_FIELDS",
    "TEXT",
    "TRUNCATE_FIELD",
    "check_list",
    "check_query",
    "non_null",
    "object_schema",
    "read_count",
    "read_documents",
    "read_flag",
    "read_instruction",
    "read_names",
    "read_object",
    "read_query",
    "read_raw",
    "read_text",
]

_FLAGS: Final = {"true": True, "True": True, "false": False, "False": False}
_DIGITS: Final = re.compile(r"[0-9]{1,18}")

QUERY: Final[dict[str, Any]] = {
    "description": "The query; not blank.",
    "type": "string",
    # Equivalent to a non-empty str.strip(); the meaning of \S differs between regular expression engines.
    "pattern": r"[^\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
}
DOCUMENTS: Final[dict[str, Any]] = {
    "description": "The documents to rank; at least one.",
    "type": "array",
    "items": DOCUMENT_SCHEMA,
    "minItems": 1,
}
TEXT: Final[dict[str, Any]] = {"type": ["string", "null"]}
NAMES: Final[dict[str, Any]] = {"type": ["array", "null"], "items": {"type": "string"}}
FLAG: Final[dict[str, Any]] = {"enum": [True, False, None, *_FLAGS]}
COUNT: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": ["integer", "null"], "minimum": 0},
        {"type": "string", "pattern": "^[0-9]{1,18}$"},
    ]
}
IGNORED: Final[dict[str, Any]] = {"description": "Accepted and ignored."}

INSTRUCTION_FIELDS: Final[dict[str, Any]] = {
    "instruction": {
        **TEXT,
        "description": "Definition of relevance; null or blank for the default.",
    },
    "instruct": {**TEXT, "description": "Alias of `instruction`, which takes precedence."},
}

RAW_FIELDS: Final[dict[str, Any]] = {
    "raw_scores": {**FLAG, "description": "Return log-odds instead of probabilities."},
    "use_activation": {**FLAG, "description": "False has the effect of `raw_scores`: true."},
}

TRUNCATE_FIELD: Final[dict[str, Any]] = {
    "truncate": {
        **FLAG,
        "description": "Whether documents may be truncated; if false, a truncated document is an error. True by default.",
    },
}


def object_schema(
    properties: Mapping[str, Any], *, required: Sequence[str] = (), description: str = ""
) -> dict[str, Any]:
    """Return the schema of an object with these and any other keys."""
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    return {"description": description, **schema} if description else schema


def non_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without null."""
    return {"allOf": [dict(schema), {"not": {"type": "null"}}]}


def read_object(body: Mapping[str, Any], key: str, place: str = "") -> Mapping[str, Any]:
    """Return an object; an empty one if it is absent.

    Raises:
        BodyError: The value has another type.
    """
    value = body.get(key)
    if value is not None and not isinstance(value, dict):
        raise _wrong_type(place or key, value, "an object")
    return value or {}


def read_query(body: Mapping[str, Any], key: str = "query", place: str = "") -> str:
    """Return a string that is not blank.

    Raises:
        BodyError: The value is absent, blank or has another type.
    """
    return check_query(body.get(key), place or key)


def check_query(value: Any, place: str) -> str:
    """Return the value if it is a string that is not blank.

    Raises:
        BodyError: The value is null, blank or has another type.
    """
    if value is None:
        raise BodyError(f"{place} is missing; pass a string with at least one visible character")
    if not isinstance(value, str):
        raise _wrong_type(place, value, "a string")
    if not value.strip():
        raise BodyError(f"{place} is blank; pass a string with at least one visible character")
    return value


def read_documents(body: Mapping[str, Any], key: str = "documents", place: str = "") -> list[Any]:
    """Return a non-empty list. Its items are not checked.

    Raises:
        BodyError: The value is absent, has another type or, with status 400, is empty.
    """
    return check_list(body.get(key), place or key, "documents")


def check_list(value: Any, place: str, of: str) -> list[Any]:
    """Return the value if it is a non-empty list.

    Raises:
        BodyError: The value is null, has another type or, with status 400, is empty.
    """
    if value is None:
        raise BodyError(f"{place} is missing; pass a list of {of}")
    if not isinstance(value, list):
        raise _wrong_type(place, value, f"a list of {of}")
    if not value:
        raise BodyError(f"{place} is empty; pass a list with at least one of the {of}", status=400)
    return value


def read_text(body: Mapping[str, Any], key: str, place: str = "") -> str | None:
    """Return a string, or None if it is absent or blank.

    Raises:
        BodyError: The value has another type.
    """
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong_type(place or key, value, "a string or null")
    return value if value is not None and value.strip() else None


def read_instruction(body: Mapping[str, Any], prefix: str = "") -> str | None:
    """Return `instruction` or its alias `instruct`; None if both are absent.

    Raises:
        BodyError: One of them has another type.
    """
    instruction = read_text(body, "instruction", f"{prefix}instruction")
    instruct = read_text(body, "instruct", f"{prefix}instruct")
    return instruct if instruction is None else instruction


def read_raw(body: Mapping[str, Any]) -> bool:
    """Return whether log-odds are requested: `raw_scores`, or vLLM's `use_activation` set to false.

    Raises:
        BodyError: One of them is not a boolean.
    """
    raw = read_flag(body, "raw_scores", default=False)
    return not read_flag(body, "use_activation", default=True) or raw


def read_flag(body: Mapping[str, Any], key: str, *, default: bool, place: str = "") -> bool:
    """Return a boolean, given as a boolean or a string.

    Raises:
        BodyError: The value is neither.
    """
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _FLAGS:
        return _FLAGS[value]
    raise _wrong_type(place or key, value, "a boolean, 'true', 'false' or null")


def read_count(body: Mapping[str, Any], key: str, place: str = "") -> int | None:
    """Return a number of results; None for all (absent, null or 0).

    Raises:
        BodyError: The value is negative, not an integer, or has another type.
    """
    value = body.get(key)
    expected = "an integer; 0 or null returns all"
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(place or key, value, expected)
    if value < 0:
        raise BodyError(f"{place or key} is negative; pass {expected}")
    if isinstance(value, float) and not value.is_integer():
        raise BodyError(f"{place or key} is not an integer; pass {expected}")
    return int(value) or None


def read_names(body: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of names; an empty one if it is absent.

    Raises:
        BodyError: The value is not a list of strings.
    """
    value = body.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _wrong_type(key, value, "a list of names or null")
    for index, name in enumerate(value):
        if not isinstance(name, str):
            raise _wrong_type(f"{key}[{index}]", name, "a string")
    return tuple(value)


def _wrong_type(place: str, value: Any, expected: str) -> BodyError:
    return BodyError(f"{place} has the wrong type: {json_type(value)}; pass {expected}")
