"""Bytes of a request to a JSON value, strictly: what one reader would take for this and another for that is refused.

Refused are anything but UTF-8, NaN and infinities (also as `1e400`), halves of surrogate pairs, keys that come twice,
numbers and nesting without measure. Nothing here knows a dialect; messages hold nothing of the body.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from pydantic_core import from_json

from qwen_rerank_plugins.service.errors import Problem, ProblemError
from qwen_rerank_plugins.service.schemas.request import BodyError

__all__ = ["MAX_DEPTH", "check_headers", "dump_json", "parse_json"]

MAX_DEPTH = 32
MAX_DIGITS = 300  # of an integer: below the largest float
MAX_CONTAINERS = 300_000  # lists and objects: more take seconds to build, in which nothing else runs

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)  # also one without an end, in linear time
_JSON_TYPE = re.compile(r"application/(?:json|[\w.+-]+\+json)\Z", re.IGNORECASE)


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse a body that is not declared as plain JSON in UTF-8.

    That a type is asked for keeps web pages of strangers out: without one, a browser sends their request unasked.

    Raises:
        ProblemError: With status 415.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        _unsupported("Content-Encoding is not supported; allowed: none, or identity")
    kind, _, parameters = headers.get("content-type", "").partition(";")
    if not _JSON_TYPE.match(kind.strip()):
        _unsupported("Content-Type is not JSON; allowed: application/json")
    charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in {"utf-8", "utf8", "us-ascii"}:
        _unsupported("Content-Type names another charset; allowed: utf-8")


def _unsupported(message: str) -> NoReturn:
    raise ProblemError(Problem(415, message, reason="media_type"))


def parse_json(raw: bytes | bytearray) -> Any:
    """Read a JSON value.

    Raises:
        BodyError: With status 400; the message says why, and where if that is known.
    """
    text = _decode(raw)
    _check_containers(raw)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_small_int,
        )
    except json.JSONDecodeError as error:
        raise _bad(f"{error.msg.lower()} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    if _SURROGATE.search(raw):
        _check_surrogates(raw)
    return value


def dump_json(value: Any) -> bytes:
    """Write a JSON value in ASCII, without blanks.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON does not have.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def _check_containers(raw: bytes | bytearray) -> None:
    """Refuse more lists and objects than anybody needs, before they are built."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_CONTAINERS:
        return
    bare = _STRING.sub(b"", raw)  # brackets in texts do not count
    if bare.count(b"[") + bare.count(b"{") > MAX_CONTAINERS:
        raise BodyError(f"too many lists and objects; allowed: {MAX_CONTAINERS!r}", status=400)


def _check_surrogates(raw: bytes | bytearray) -> None:
    """Refuse halves of pairs: the standard library takes them for characters, this parser does not."""
    try:
        from_json(bytes(raw), cache_strings=False)
    except ValueError:
        raise _bad("a text has half of a surrogate pair; allowed: whole characters") from None


def _decode(raw: bytes | bytearray) -> str:
    if not raw.strip():
        raise BodyError("the body is empty; allowed: a JSON object", status=400)
    # JSON starts with an ASCII character, so a zero among the first bytes means UTF-16 or UTF-32.
    if raw.startswith(_BYTE_ORDER_MARKS) or b"\0" in raw[:4]:
        raise _bad("it is UTF-16, UTF-32 or starts with a byte order mark; allowed: UTF-8 without one")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"byte {error.start} is not UTF-8") from None


def _bad(reason: str) -> BodyError:
    return BodyError(f"the body is not valid JSON: {reason}", status=400)


def _too_deep() -> BodyError:
    return BodyError(f"the body is nested too deep; allowed: {MAX_DEPTH} levels", status=400)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise BodyError("an object of the body has a key twice; allowed: each key once", status=400)
    return value


def _refuse_constant(name: str) -> NoReturn:  # noqa: ARG001 (the parser's signature)
    raise BodyError("the body holds NaN or an infinity; allowed: finite numbers", status=400)


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BodyError("a number in the body is too large; allowed: finite numbers", status=400)
    return number


def _small_int(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise BodyError(f"an integer in the body is too large; allowed: {MAX_DIGITS} digits", status=400)
    return int(digits)


def _check_depth(value: Any) -> None:
    """Walk the containers level by level; texts are not touched."""
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [part for one in level for part in _parts(one) if isinstance(part, dict | list)]
        if not level:
            return
    raise _too_deep()


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
