"""Types of a request's fields: how a JSON value is read, and its JSON Schema.

Fields accept what clients send in practice: null means absent, booleans may be "true" and "false", integers "3" and 2.0.
A number is never converted to a string. Messages contain the place and type of a value, never the value.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, WithJsonSchema
from pydantic_core import PydanticCustomError

from qwen_rerank_plugins.service.schemas.documents import DOCUMENT_SCHEMA, json_type

__all__ = [
    "DOCUMENTS",
    "QUERIES",
    "QUERY",
    "TRUNCATE",
    "Count",
    "Documents",
    "Flag",
    "Ignored",
    "Names",
    "Probability",
    "Queries",
    "Query",
    "Text",
    "TokenLimit",
]

_WORDS: Final = {"true": True, "True": True, "false": False, "False": False}
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"0(?:\.[0-9]{1,18})?|1(?:\.0{1,18})?")
# Contains a character other than those that str.strip() removes; the meaning of \S differs between engines.
_VISIBLE: Final = r"[^\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


def _invalid(value: object, expected: str) -> PydanticCustomError:
    return PydanticCustomError("invalid", f"has the wrong type: {json_type(value)}; pass {expected}")


def _read_flag(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    raise _invalid(value, "a boolean, 'true', 'false' or null")


def _read_count(value: Any, *, expected: str = "an integer; 0 or null returns all") -> int | None:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(value, expected)
    if value < 0:
        raise PydanticCustomError("invalid", f"is negative; pass {expected}")
    if isinstance(value, float) and not value.is_integer():
        raise PydanticCustomError("invalid", f"is not an integer; pass {expected}")
    return int(value) or None


def _read_score(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(value, "a number from 0 to 1, or null")
    if not 0 <= value <= 1:
        raise PydanticCustomError("invalid", "is out of range; pass a number from 0 to 1, or null")
    return float(value)


def _read_token_limit(value: Any) -> int | None:
    return None if value == -1 else _read_count(value, expected="an integer; 0, -1 or null for no limit")


TRUNCATE: Final = (
    "Whether documents may be truncated; if false, a truncated document is an error. True by default."
)


def _number_schema(kind: str, digits: str, **limits: int) -> WithJsonSchema:
    number = {"type": [kind, "null"], **limits}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "pattern": f"^(?:{digits})$"}]})


def _none_if_blank(value: str | None) -> str | None:
    return value if value is not None and value.strip() else None


Query = Annotated[str, Field(pattern=_VISIBLE, description="The query; not blank.")]
Queries = Annotated[list[Query], Field(min_length=1, fail_fast=True, description="The queries.")]
Documents = Annotated[
    list[Annotated[Any, WithJsonSchema(DOCUMENT_SCHEMA)]],
    Field(min_length=1, description="The documents to rank; at least one."),
]
Text = Annotated[str | None, AfterValidator(_none_if_blank)]
Names = Annotated[
    Annotated[list[str], Field(fail_fast=True)] | None,
    Field(description="Fields of objects to rank, in this order; `a.b` is `b` in `a`."),
]
Flag = Annotated[
    bool | None, PlainValidator(_read_flag), WithJsonSchema({"enum": [True, False, None, *_WORDS]})
]
Count = Annotated[
    int | None,
    PlainValidator(_read_count),
    _number_schema("integer", "[0-9]{1,18}", minimum=0),
    Field(description="Number of results per query; all if absent, null or 0."),
]
Probability = Annotated[
    float | None,
    PlainValidator(_read_score),
    _number_schema("number", _DECIMAL.pattern, minimum=0, maximum=1),
]
TokenLimit = Annotated[
    int | None,
    PlainValidator(_read_token_limit),
    _number_schema("integer", "[0-9]{1,18}", minimum=-1),
    Field(description="Longer texts are truncated; no limit if null, 0 or -1."),
]
Ignored = Annotated[Any, Field(description="Accepted and ignored.")]

QUERY: Final[TypeAdapter[str]] = TypeAdapter(Query)
QUERIES: Final[TypeAdapter[list[str]]] = TypeAdapter(Queries)
DOCUMENTS: Final[TypeAdapter[list[Any]]] = TypeAdapter(Documents)
