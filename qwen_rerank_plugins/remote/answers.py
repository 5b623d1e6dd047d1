"""Parses and validates the body of a service's answer. Knows nothing of HTTP.

A score assigned to the wrong document is worse than an error. An answer is therefore accepted as a whole or not at
all: exactly one finite score per document, each with a valid and unique index.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen_rerank_plugins.remote.dialects import Dialect
from qwen_rerank_plugins.types import PairScore, Span

__all__ = ["AnswerError", "ParsedAnswer", "parse_answer"]

_MAX_MODEL_CHARS = 200
MAX_SHOWN_INDEX = 10**9
MAX_WARNINGS, MAX_WARNING_CHARS = 10, 200
_ROUNDING = 1e-6  # 16-bit floats and rounded sums may leave [0, 1] by this much


class AnswerError(ValueError):
    """An answer is invalid. The message completes a sentence that begins with "it"."""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A valid answer.

    Attributes:
        scores: One per document, in the order of the request.
        model: Name of the model according to the service, or None.
    """

    scores: tuple[PairScore, ...]
    model: str | None


def parse_answer(dialect: Dialect, answer: bytes, documents: Sequence[str]) -> ParsedAnswer:
    """Validate an answer and return its scores in the order of the documents.

    Raises:
        AnswerError: The answer does not follow the dialect.
    """
    value = _parse(answer)
    items = _items(dialect, value)
    if len(items) != len(documents):
        raise AnswerError(f"holds {len(items)} scores for {len(documents)} documents")
    calibrated = _calibrated(dialect, value)
    scores: dict[int, PairScore] = {}
    for item in items:
        index = _index(item, len(documents))
        if index in scores:
            raise AnswerError(f"holds index {index} twice")
        scores[index] = _score(dialect, item, index, documents[index], calibrated=calibrated)
    model = value.get("model") if isinstance(value, Mapping) else None
    named = isinstance(model, str) and 0 < len(model) <= _MAX_MODEL_CHARS
    return ParsedAnswer(tuple(scores[index] for index in range(len(documents))), model if named else None)


def _parse(answer: bytes) -> Any:
    if not answer.strip():
        raise AnswerError("is empty")
    try:
        return json.loads(answer)
    except UnicodeDecodeError:
        raise AnswerError("is not UTF-8") from None
    except RecursionError:
        raise AnswerError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        if answer.lstrip().startswith(b"<"):
            raise AnswerError("is HTML or XML, not JSON") from None
        raise AnswerError(f"is not JSON ({error.msg} at character {error.pos})") from None
    except ValueError:  # an integer with thousands of digits
        raise AnswerError("holds a number that is too long") from None


def _items(dialect: Dialect, value: Any) -> list[Any]:
    if not dialect.results_keys:
        if not isinstance(value, list):
            raise AnswerError(f"is {_kind(value)}, not a list of scores")
        return value
    if not isinstance(value, Mapping):
        raise AnswerError(f"is {_kind(value)}, not an object with {dialect.results_keys[-1]!r}")
    if dialect.returns_details and value.get("status") in ("disabled", "failed"):
        raise AnswerError(f"holds no scores: its status is {value['status']!r}")
    if dialect.answer_key is not None and isinstance(value.get(dialect.answer_key), Mapping):
        value = value[dialect.answer_key]
    for key in dialect.results_keys:
        if isinstance(value.get(key), list):
            found: list[Any] = value[key]
            return found
    keys = ", ".join(repr(key[:40]) for key in list(value)[:8]) or "none"
    raise AnswerError(f"has no list {dialect.results_keys[-1]!r}; its keys: {keys}")


def _index(item: Any, num_documents: int) -> int:
    if not isinstance(item, Mapping):
        raise AnswerError(f"holds {_kind(item)} instead of an object with index and score")
    index = item.get("index")
    if not isinstance(index, int) or isinstance(index, bool):
        raise AnswerError(f"holds an index that is {_kind(index)}, not an integer")
    if not 0 <= index < num_documents:
        shown = str(index) if abs(index) < MAX_SHOWN_INDEX else "out of any range"
        raise AnswerError(f"holds index {shown}, which is not between 0 and {num_documents - 1}")
    return index


def _calibrated(dialect: Dialect, value: Any) -> bool | None:
    found = value.get("calibrated") if dialect.returns_details else None
    if found is not None and not isinstance(found, bool):
        raise AnswerError(f"holds a value of calibrated that is {_kind(found)}, not true or false")
    return found


def _score(
    dialect: Dialect, item: Mapping[str, Any], index: int, document: str, *, calibrated: bool | None
) -> PairScore:
    number = _number(item, dialect.score_key, index)
    if dialect.returns_log_odds:
        return PairScore.from_log_odds(number)
    if not -_ROUNDING <= number <= 1.0 + _ROUNDING:
        hint = "a raw score, before the sigmoid?"
        raise AnswerError(f"holds {number!r} for document {index}, which is not a probability ({hint})")
    probability = min(max(number, 0.0), 1.0)
    if not dialect.returns_details:
        return PairScore(probability)
    return PairScore(
        probability,
        _number(item, "log_odds", index) if item.get("log_odds") is not None else None,
        truncated=_flag(item, "truncated", index),
        query_truncated=_flag(item, "query_truncated", index),
        span=_span(item.get("span"), index, document),
        num_tokens=_count(item, "num_tokens", index),
        warnings=_warnings(item.get("warnings", []), index),
        calibrated=calibrated,
    )


def _number(item: Mapping[str, Any], key: str, index: int) -> float:
    value = item.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise AnswerError(f"holds a {key} of document {index} that is {_kind(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise AnswerError(f"holds a {key} of document {index} that is not finite: {number!r}")
    return number


def _flag(item: Mapping[str, Any], key: str, index: int) -> bool:
    value = item.get(key, False)
    if not isinstance(value, bool):
        raise AnswerError(f"holds a {key} of document {index} that is {_kind(value)}, not true or false")
    return value


def _count(item: Mapping[str, Any], key: str, index: int) -> int:
    value = item.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise AnswerError(f"holds a {key} of document {index} that is not a count")
    return value


def _span(value: Any, index: int, document: str) -> Span | None:
    if value is None:
        return None
    if isinstance(value, list) and [type(one) for one in value] == [int, int]:
        start, end = value
        if 0 <= start <= end <= len(document):
            return start, end
    raise AnswerError(f"holds a span of document {index} that is outside the document")


def _warnings(value: Any, index: int) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(one[:MAX_WARNING_CHARS] for one in value[:MAX_WARNINGS])
    raise AnswerError(f"holds warnings of document {index} that are not a list of strings")


def _kind(value: Any) -> str:
    """Return the type of a JSON value in words. The value itself may be a text of the caller's."""
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
