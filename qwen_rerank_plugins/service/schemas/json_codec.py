"""Strict JSON: rejects bodies that parsers interpret differently.

Rejected are encodings other than UTF-8, NaN and infinities (also as `1e400`), duplicate keys, and excessive numbers and
nesting. Lone surrogates, which JavaScript makes by cutting an emoji in half, become U+FFFD. Nothing here knows a dialect. Messages contain no part of the body.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from qwen_rerank_plugins.recipe import repair_json
from qwen_rerank_plugins.service.errors import BodyError, Problem, ProblemError

__all__ = ["MAX_DEPTH", "check_headers", "dump_json", "parse_json"]

MAX_DEPTH = 32
MAX_DIGITS = 300  # of an integer, so that it fits a float
MAX_CONTAINERS = 300_000  # lists and objects; building more blocks the process for seconds

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)  # also an unterminated one, in linear time
_JSON_TYPE = re.compile(r"application/(?:json|[\w.+-]+\+json)\Z", re.IGNORECASE)


def check_headers(headers: Mapping[str, str]) -> None:
    """Reject a body that is not declared as uncompressed JSON in UTF-8.

    Requiring the content type keeps foreign web pages out: browsers send requests without it unasked (CORS).

    Raises:
        ProblemError: With status 415.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        _unsupported("Content-Encoding is not supported; send the body uncompressed")
    kind, _, parameters = headers.get("content-type", "").partition(";")
    if not _JSON_TYPE.match(kind.strip()):
        _unsupported("Content-Type is not JSON; use application/json")
    charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in {"utf-8", "utf8", "us-ascii"}:
        _unsupported("the charset of Content-Type is not supported; use utf-8")


def _unsupported(message: str) -> NoReturn:
    raise ProblemError(Problem(415, message, reason="media_type"))


def parse_json(raw: bytes | bytearray) -> tuple[Any, bool]:
    """Parse a JSON value; a byte order mark before it is ignored, as RFC 8259 permits.

    Returns:
        The value, and whether a string had a lone surrogate, which was replaced.

    Raises:
        BodyError: With status 400; the message contains the reason and, if known, the position.
    """
    raw = raw.removeprefix(_UTF8_MARK)
    text = _decode(raw)
    repaired = repair_json(text)
    _check_containers(raw)
    try:
        value = json.loads(
            repaired,
            object_pairs_hook=_reject_duplicate_keys,
            parse_constant=_reject_constant,
            parse_float=_finite_float,
            parse_int=_small_int,
        )
    except json.JSONDecodeError as error:
        raise _invalid(
            f"{error.msg.lower().removesuffix(' at')} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    return value, repaired != text


def dump_json(value: Any) -> bytes:
    """Return a value as compact JSON in ASCII.

    Raises:
        ValueError: The value contains NaN or an infinity.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def _check_containers(raw: bytes | bytearray) -> None:
    """Reject excessive lists and objects before building them."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_CONTAINERS:
        return
    bare = _STRING.sub(b"", raw)  # brackets in strings do not count
    if bare.count(b"[") + bare.count(b"{") > MAX_CONTAINERS:
        raise BodyError(f"too many lists and objects; send at most {MAX_CONTAINERS!r}", status=400)


def _decode(raw: bytes | bytearray) -> str:
    if not raw.strip():
        raise BodyError("the body is empty; send a JSON object", status=400)
    # JSON starts with an ASCII character, so a zero in the first bytes means UTF-16 or UTF-32.
    if raw.startswith(_UTF16_MARKS) or b"\0" in raw[:4]:
        raise _invalid("it is UTF-16 or UTF-32; send UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"byte {error.start} is not UTF-8") from None


def _invalid(reason: str) -> BodyError:
    return BodyError(f"the body is not valid JSON: {reason}", status=400)


def _too_deep() -> BodyError:
    return BodyError(f"the body is nested too deeply; use at most {MAX_DEPTH} levels", status=400)


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise BodyError("an object in the body has a duplicate key; send each key once", status=400)
    return value


def _reject_constant(name: str) -> NoReturn:  # noqa: ARG001 (the parser's signature)
    raise BodyError("the body contains NaN or an infinity; send finite numbers", status=400)


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BodyError("a number in the body is too large; send finite numbers", status=400)
    return number


def _small_int(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise BodyError(f"an integer in the body is too large; send at most {MAX_DIGITS} digits", status=400)
    return int(digits)


def _check_depth(value: Any) -> None:
    """Check the nesting of containers, level by level."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        parts = (one.values() if isinstance(one, dict) else one for one in level)
        level = [part for some in parts for part in some if isinstance(part, dict | list)]
    if level:
        raise _too_deep()
