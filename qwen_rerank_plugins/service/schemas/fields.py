"""The values that requests hold, one reader and one schema each, which say the same. Knows no dialect.

A key whose value is null counts as absent, for clients send every option they know. Booleans may be "true" and
"false", integers "3" and 2.0, for clients send these as well. A number is never taken for a text. Messages name a
value's place and type and never the value, which is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from qwen_rerank_plugins.service.schemas.documents import DOCUMENT_SCHEMA, json_type
from qwen_rerank_plugins.service.schemas.request import BodyError

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
    "description": "What is searched for; not blank.",
    "type": "string",
    # What str.strip() leaves something of; \S means other characters in other regular expressions.
    "pattern": r"[^\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
}
DOCUMENTS: Final[dict[str, Any]] = {
    "description": "What is ranked; at least one.",
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
IGNORED: Final[dict[str, Any]] = {"description": "Accepted, without effect."}

INSTRUCTION_FIELDS: Final[dict[str, Any]] = {
    "instruction": {
        **TEXT,
        "description": "What relevance means; null or blank for the service's default.",
    },
    "instruct": {**TEXT, "description": "Another spelling of `instruction`, which goes first."},
}

RAW_FIELDS: Final[dict[str, Any]] = {
    "raw_scores": {**FLAG, "description": "Log-odds in place of probabilities."},
    "use_activation": {**FLAG, "description": "False is another spelling of `raw_scores`: true."},
}

TRUNCATE_FIELD: Final[dict[str, Any]] = {
    "truncate": {
        **FLAG,
        "description": "False: an error in place of a document that was cut; true by default.",
    },
}


def object_schema(
    properties: Mapping[str, Any], *, required: Sequence[str] = (), description: str = ""
) -> dict[str, Any]:
    """Describe an object that may have any other keys as well."""
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    return {"description": description, **schema} if description else schema


def non_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what a schema does, without null."""
    return {"allOf": [dict(schema), {"not": {"type": "null"}}]}


def read_object(body: Mapping[str, Any], key: str, place: str = "") -> Mapping[str, Any]:
    """Give an object; an empty one when it is absent.

    Raises:
        BodyError: It is something else.
    """
    value = body.get(key)
    if value is not None and not isinstance(value, dict):
        raise _wrong_type(place or key, value, "an object")
    return value or {}


def read_query(body: Mapping[str, Any], key: str = "query", place: str = "") -> str:
    """Give a text that is not blank.

    Raises:
        BodyError: It is absent, no text or blank.
    """
    return check_query(body.get(key), place or key)


def check_query(value: Any, place: str) -> str:
    """Give back a text that is not blank.

    Raises:
        BodyError: It is no text, or blank.
    """
    if value is None:
        raise BodyError(f"{place} is missing; allowed: a string with at least one visible character")
    if not isinstance(value, str):
        raise _wrong_type(place, value, "a string")
    if not value.strip():
        raise BodyError(f"{place} is blank; allowed: a string with at least one visible character")
    return value


def read_documents(body: Mapping[str, Any], key: str = "documents", place: str = "") -> list[Any]:
    """Give a list that holds something; what it holds is not looked at.

    Raises:
        BodyError: It is absent, no list or, with status 400, empty.
    """
    return check_list(body.get(key), place or key, "documents")


def check_list(value: Any, place: str, of: str) -> list[Any]:
    """Give back a list that holds something.

    Raises:
        BodyError: It is absent, no list or, with status 400, empty.
    """
    if value is None:
        raise BodyError(f"{place} is missing; allowed: a list of {of}")
    if not isinstance(value, list):
        raise _wrong_type(place, value, f"a list of {of}")
    if not value:
        raise BodyError(f"{place} is empty; allowed: a list of at least one of the {of}", status=400)
    return value


def read_text(body: Mapping[str, Any], key: str, place: str = "") -> str | None:
    """Give a text, or None when it is absent or blank.

    Raises:
        BodyError: It is something else.
    """
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong_type(place or key, value, "a string or null")
    return value if value is not None and value.strip() else None


def read_instruction(body: Mapping[str, Any], prefix: str = "") -> str | None:
    """Give the instruction in either spelling, `instruction` before `instruct`; None when both are absent.

    Raises:
        BodyError: One of them is no text.
    """
    instruction = read_text(body, "instruction", f"{prefix}instruction")
    instruct = read_text(body, "instruct", f"{prefix}instruct")
    return instruct if instruction is None else instruction


def read_raw(body: Mapping[str, Any]) -> bool:
    """Tell whether log-odds are wanted in place of probabilities: `raw_scores`, or vLLM's `use_activation` false.

    Raises:
        BodyError: One of them is no boolean.
    """
    raw = read_flag(body, "raw_scores", default=False)
    return not read_flag(body, "use_activation", default=True) or raw


def read_flag(body: Mapping[str, Any], key: str, *, default: bool, place: str = "") -> bool:
    """Give a boolean, written as one or as a word.

    Raises:
        BodyError: It is something else.
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
    """Give how many are wanted, None for all: absent, null or 0.

    Raises:
        BodyError: It is negative, no whole number or something else.
    """
    value = body.get(key)
    allowed = "a whole number, 0 or null for all"
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(place or key, value, allowed)
    if value < 0:
        raise BodyError(f"{place or key} is negative; allowed: {allowed}")
    if isinstance(value, float) and not value.is_integer():
        raise BodyError(f"{place or key} is not whole; allowed: {allowed}")
    return int(value) or None


def read_names(body: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Give a list of names, an empty one when it is absent.

    Raises:
        BodyError: It is no list, or holds something else.
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


def _wrong_type(place: str, value: Any, allowed: str) -> BodyError:
    return BodyError(f"{place} has the wrong type: {json_type(value)}; allowed: {allowed}")
