"""Validate what callers pass to a reranker, and turn it into requests for a scorer.

Messages name the position of a bad value and show its type, never a text that the caller passed.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict, get_args

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.config.validators import plain_number
from qwen_rerank_plugins.errors import InputError, InputTypeError
from qwen_rerank_plugins.types import Document, Priority, ScoreRequest, SpanOptions, TextLimits

__all__ = [
    "UNSET",
    "RankInput",
    "RankOptions",
    "Unset",
    "check_deadline",
    "check_documents",
    "check_instruction",
    "check_lists",
    "check_min_score",
    "check_priority",
    "check_query",
    "check_top_n",
    "list_requests",
    "pair_requests",
    "rank_input",
    "text_of",
]


_PRIORITIES: Final = get_args(Priority)


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET
"""Default of an option for which None has a meaning of its own."""


class RankOptions(TypedDict, total=False):
    """Options of `Reranker.arank`, `rank_many` and `arank_many`, the same as those of `Reranker.rank`."""

    top_n: int | Unset | None
    min_score: float | Unset | None
    instruction: str | None
    deadline_s: float | None
    priority: Priority
    limits: TextLimits | None
    spans: SpanOptions | None


@dataclass(frozen=True, slots=True)
class RankInput:
    """The validated input of one call: lists that are ranked together, and the options of all of them.

    Attributes:
        queries: One query per list.
        documents: One tuple of documents per query, of any length.
        requests: One request per document, list after list.
        top_n: Maximum number of documents of each list in the result, or None.
        min_score: Threshold, or None.
        deadline_s: Seconds within which the result is needed, or None.
        priority: Whether the call comes before or after calls of the other kind.
        spans: Which spans of the returned documents are wanted, or None.
        started_s: When the call began, by `time.monotonic()`.
    """

    queries: tuple[str, ...]
    documents: tuple[tuple[Document, ...], ...]
    requests: list[ScoreRequest]
    top_n: int | None
    min_score: float | None
    deadline_s: float | None
    priority: Priority
    spans: SpanOptions | None = None
    started_s: float = field(default_factory=time.monotonic)

    def seconds_left(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None for no deadline."""
        if self.deadline_s is None:
            return None
        return max(0.0, self.started_s + self.deadline_s - time.monotonic())


def check_query(query: object, name: str = "query") -> str:
    """Return the query if it is a non-blank string.

    Raises:
        InputTypeError: It is not a string.
        InputError: It is blank.
    """
    if not isinstance(query, str):
        raise _wrong_type(name, "a string", query)
    if not query.strip():
        raise InputError(f"`{name}` must not be blank, got {query[:20]!r}")
    return query


def check_documents(documents: object, name: str = "documents") -> tuple[Document, ...]:
    """Return the documents of any iterable of strings and mappings with `text`.

    Raises:
        InputTypeError: `documents` is a single text or mapping, not iterable, or has an element of another type.
    """
    if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
        raise _wrong_type(name, "a list of strings or mappings", documents)
    collected = tuple(documents)
    for index, document in enumerate(collected):
        text_of(document, f"{name}[{index}]")
    return collected


def text_of(document: object, name: str = "document") -> str:
    """Return the text of a document that is scored.

    Raises:
        InputTypeError: The document is neither a string nor a mapping with a string as `text`.
    """
    if isinstance(document, str):
        return document
    if not isinstance(document, Mapping):
        raise _wrong_type(name, "a string or a mapping with 'text'", document)
    if "text" not in document:
        raise InputTypeError(f"`{name}` has no 'text'; pass a string or a mapping with 'text'")
    text = document["text"]
    if not isinstance(text, str):
        raise _wrong_type(f"{name}['text']", "a string", text)
    return text


def check_instruction(instruction: object) -> None:
    """Refuse an instruction that is neither a string nor None.

    Raises:
        InputTypeError: It is something else.
    """
    if instruction is not None and not isinstance(instruction, str):
        raise _wrong_type("instruction", "a string or None", instruction)


def check_top_n(top_n: object) -> int | None:
    """Return None, or an integer of at least 1; other libraries' integers are converted.

    Raises:
        InputTypeError: It is not an integer.
        InputError: It is less than 1.
    """
    number = plain_number(top_n)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int):
        raise InputTypeError(f"`top_n` must be an integer or None, got {top_n!r}")
    if number < 1:
        raise InputError(f"`top_n` must be at least 1, got {top_n!r}")
    return number


def check_min_score(min_score: object) -> float | None:
    """Return None, or a number from 0 to 1; other libraries' numbers are converted.

    Raises:
        InputTypeError: It is not a number.
        InputError: It is NaN or out of range.
    """
    number = plain_number(min_score)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputTypeError(f"`min_score` must be a number or None, got {min_score!r}")
    if not 0.0 <= number <= 1.0:  # false for NaN as well
        raise InputError(f"`min_score` must be from 0 to 1, got {min_score!r}")
    return number


def check_deadline(deadline_s: object) -> float | None:
    """Return None, or a positive number of seconds; other libraries' numbers are converted.

    Raises:
        InputTypeError: It is not a number.
        InputError: It is NaN, zero or negative.
    """
    number = plain_number(deadline_s)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputTypeError(f"`deadline_s` must be a number of seconds or None, got {deadline_s!r}")
    if not number > 0:  # false for NaN as well
        raise InputError(f"`deadline_s` must be greater than 0, got {deadline_s!r}")
    return number


def check_priority(priority: object) -> None:
    """Refuse anything but the two priorities.

    Raises:
        InputError: It is something else.
    """
    if priority not in _PRIORITIES:
        raise InputError(f'`priority` must be "interactive" or "background", got {priority!r}')


def check_lists(queries: object, documents_per_query: object) -> list[tuple[str, tuple[Document, ...]]]:
    """Return each query with its documents; messages number the lists if there are several.

    Raises:
        InputTypeError: A value has the wrong type.
        InputError: A query is blank, or the number of lists differs from the number of queries.
    """
    checked_queries = _check_list(queries, "queries")
    lists = _check_list(documents_per_query, "documents_per_query")
    if len(checked_queries) != len(lists):
        counts = f"{len(checked_queries)} queries and {len(lists)} lists"
        raise InputError(f"`documents_per_query` must have one list per query, got {counts}")
    if len(lists) == 1:
        return [(check_query(checked_queries[0]), check_documents(lists[0]))]
    return [
        (check_query(query, f"queries[{index}]"), check_documents(documents, f"documents_per_query[{index}]"))
        for index, (query, documents) in enumerate(zip(checked_queries, lists, strict=True))
    ]


def rank_input(  # noqa: PLR0913 (one parameter per option)
    config: RerankConfig,
    queries: Sequence[str],
    documents_per_query: Sequence[Iterable[Document]],
    *,
    top_n: int | Unset | None = UNSET,
    min_score: float | Unset | None = UNSET,
    instruction: str | None = None,
    deadline_s: float | None = None,
    priority: Priority = "interactive",
    limits: TextLimits | None = None,
    spans: SpanOptions | None = None,
) -> RankInput:
    """Return the validated input of a call, with the configuration's values for options that were not given.

    Raises:
        InputTypeError: A value has the wrong type.
        InputError: A value is out of range, or the lists do not fit together.
    """
    chosen_top_n = config.top_n if isinstance(top_n, Unset) else check_top_n(top_n)
    threshold = config.min_score if isinstance(min_score, Unset) else check_min_score(min_score)
    deadline_s = check_deadline(deadline_s)
    check_priority(priority)
    check_instruction(instruction)
    if spans is not None and not isinstance(spans, SpanOptions):
        raise _wrong_type("spans", "`SpanOptions` or None", spans)
    lists = check_lists(queries, documents_per_query)
    return RankInput(
        queries=tuple(query for query, _ in lists),
        documents=tuple(docs for _, docs in lists),
        requests=list_requests(lists, config.instruction if instruction is None else instruction, limits),
        top_n=chosen_top_n,
        min_score=threshold,
        deadline_s=config.deadline_s if deadline_s is None else deadline_s,
        priority=priority,
        spans=spans,
    )


def list_requests(
    lists: Sequence[tuple[str, Sequence[Document]]], instruction: str | None, limits: TextLimits | None = None
) -> list[ScoreRequest]:
    """Return one request per document, for queries with their documents that are validated.

    Raises:
        InputTypeError: The limits have the wrong type.
    """
    if limits is not None and not isinstance(limits, TextLimits):
        raise _wrong_type("limits", "`TextLimits` or None", limits)
    return [
        ScoreRequest(query, text_of(document), instruction, limits)
        for query, documents in lists
        for document in documents
    ]


def pair_requests(pairs: object, instruction: str | None) -> list[ScoreRequest]:
    """Return one request per pair, for any iterable of (query, document).

    Raises:
        InputTypeError: A value has the wrong type.
        InputError: A query is blank.
    """
    if isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Iterable):
        raise _wrong_type("pairs", "a list of (query, document)", pairs)
    requests: list[ScoreRequest] = []
    for index, pair in enumerate(pairs):
        match pair:
            case (query, document):
                checked = check_query(query, f"pairs[{index}][0]")
                text = text_of(document, f"pairs[{index}][1]")
                requests.append(ScoreRequest(checked, text, instruction))
            case _:
                raise _wrong_type(f"pairs[{index}]", "a pair (query, document)", pair)
    return requests


def _check_list(value: object, name: str) -> Sequence[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _wrong_type(name, "a list", value)
    return value


def _wrong_type(name: str, expected: str, value: object) -> InputTypeError:
    return InputTypeError(f"`{name}` must be {expected}, got {type(value).__name__}")
