"""A service's answer to scores, or to words that say what is wrong with it. Knows no HTTP and trusts nothing.

A score that is put to the wrong document is worse than an error, so an answer is taken whole or not at all: one
finite score for each document, by an index that was asked for, once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen_rerank_plugins.remote.dialects import Dialect
from qwen_rerank_plugins.types import PairScore, Span

__all__ = ["AnswerError", "Scored", "read_answer"]

_MAX_MODEL_CHARS = 200
_ROUNDING = 1e-6  # a probability of a 16-bit float or a rounded sum may miss its bounds by so much


class AnswerError(ValueError):
    """What is wrong with an answer, as the end of a sentence that begins with "it"."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A good answer.

    Attributes:
        scores: One a document, in the order in which they were sent.
        model: The model that the service says it used, or None.
    """

    scores: tuple[PairScore, ...]
    model: str | None


def read_answer(dialect: Dialect, answer: bytes, documents: Sequence[str]) -> Scored:
    """Check an answer and put its scores into the order of the documents.

    Raises:
        AnswerError: It is not what the dialect promises.
    """
    value = _parse(answer)
    items = _items(dialect, value)
    if len(items) != len(documents):
        raise AnswerError(f"holds {len(items)} scores for {len(documents)} documents")
    scores: dict[int, PairScore] = {}
    for item in items:
        index = _index(item, len(documents))
        if index in scores:
            raise AnswerError(f"holds index {index} twice")
        scores[index] = _score(dialect, item, index, documents[index])
    model = value.get("model") if isinstance(value, Mapping) else None
    named = isinstance(model, str) and 0 < len(model) <= _MAX_MODEL_CHARS
    return Scored(tuple(scores[index] for index in range(len(documents))), model if named else None)


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
    except ValueError:  # an integer of thousands of digits
        raise AnswerError("holds a number that is too long") from None


def _items(dialect: Dialect, value: Any) -> list[Any]:
    if not dialect.items:
        if not isinstance(value, list):
            raise AnswerError(f"is {_kind(value)}, not a list of scores")
        return value
    if not isinstance(value, Mapping):
        raise AnswerError(f"is {_kind(value)}, not an object with {dialect.items[-1]!r}")
    if dialect.gives_details and value.get("status") in ("disabled", "failed"):
        raise AnswerError(f"holds no scores, because scoring is {value['status']} at the service")
    for key in dialect.items:
        if isinstance(value.get(key), list):
            found: list[Any] = value[key]
            return found
    keys = ", ".join(repr(key[:40]) for key in list(value)[:8]) or "none"
    raise AnswerError(f"has no list {dialect.items[-1]!r}; its keys: {keys}")


def _index(item: Any, num_documents: int) -> int:
    if not isinstance(item, Mapping):
        raise AnswerError(f"holds {_kind(item)} where an object with index and score belongs")
    index = item.get("index")
    if not isinstance(index, int) or isinstance(index, bool):
        raise AnswerError(f"holds an index that is {_kind(index)}, not an integer")
    if not 0 <= index < num_documents:
        shown = str(index) if abs(index) < 10**9 else "a huge one"
        raise AnswerError(f"holds a foreign index: {shown}; allowed: 0 to {num_documents - 1}")
    return index


def _score(dialect: Dialect, item: Mapping[str, Any], index: int, document: str) -> PairScore:
    number = _number(item, dialect.score, index)
    if dialect.gives_log_odds:
        return PairScore(_sigmoid(number), number)
    if not -_ROUNDING <= number <= 1.0 + _ROUNDING:
        hint = "a raw score, before the sigmoid?"
        raise AnswerError(f"holds {number!r} for document {index}, which is no probability ({hint})")
    probability = min(max(number, 0.0), 1.0)
    if not dialect.gives_details:
        return PairScore(probability)
    return PairScore(
        probability,
        _number(item, "log_odds", index) if item.get("log_odds") is not None else None,
        truncated=_flag(item, "truncated", index),
        query_truncated=_flag(item, "query_truncated", index),
        span=_span(item.get("span"), index, document),
        num_tokens=_count(item, "num_tokens", index),
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
        raise AnswerError(f"holds a {key} of document {index} that is no count")
    return value


def _span(value: Any, index: int, document: str) -> Span | None:
    if value is None:
        return None
    if isinstance(value, list) and [type(one) for one in value] == [int, int]:
        start, end = value
        if 0 <= start <= end <= len(document):
            return start, end
    raise AnswerError(f"holds a span of document {index} that lies outside of it")


def _sigmoid(log_odds: float) -> float:
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    small = math.exp(log_odds)
    return small / (1.0 + small)


def _kind(value: Any) -> str:
    """What a JSON value is, in words; never the value, which may be a text of the caller's."""
    names = {type(None): "missing", bool: "a truth value", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
