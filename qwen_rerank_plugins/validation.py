"""From what a caller passed to requests for a scorer: every check of types and ranges is here. No scorer, no settings."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from qwen_rerank_plugins.errors import InputError, InputTypeError
from qwen_rerank_plugins.types import Document, ScoreRequest


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET
"""Stands for an option that was not passed, where None has a meaning of its own."""


def check_query(query: object, place: str = "query") -> str:
    """Give the query back, or refuse it.

    Raises:
        InputTypeError: It is no string.
        InputError: It is blank.
    """
    if not isinstance(query, str):
        raise InputTypeError(f"{place} has the wrong type: {type(query).__name__}; allowed: a string")
    if not query.strip():
        raise InputError(
            f"{place} is blank: {query[:20]!r}; allowed: a string with at least one visible character"
        )
    return query


def check_documents(documents: object, place: str = "documents") -> tuple[Document, ...]:
    """Collect the documents, any iterable of strings and mappings with `text`.

    Raises:
        InputTypeError: They are a single text or mapping, no iterable, or hold something else; names the index.
    """
    if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
        kind = type(documents).__name__
        raise InputTypeError(f"{place} has the wrong type: {kind}; allowed: a list of strings or mappings")
    collected = tuple(documents)
    for index, document in enumerate(collected):
        text_of(document, f"{place}[{index}]")
    return collected


def text_of(document: object, place: str = "document") -> str:
    """Give the text that is scored of a document.

    Raises:
        InputTypeError: It is neither a string nor a mapping whose `text` is one.
    """
    if isinstance(document, str):
        return document
    if not isinstance(document, Mapping):
        kind = type(document).__name__
        raise InputTypeError(
            f"{place} has the wrong type: {kind}; allowed: a string, or a mapping with 'text'"
        )
    if "text" not in document:
        raise InputTypeError(f"{place} has no 'text'; allowed: a string, or a mapping with 'text'")
    text = document["text"]
    if not isinstance(text, str):
        raise InputTypeError(f"{place}['text'] has the wrong type: {type(text).__name__}; allowed: a string")
    return text


def check_instruction(instruction: object) -> None:
    """Refuse an instruction that is neither a string nor None.

    Raises:
        InputTypeError: It is something else.
    """
    if instruction is not None and not isinstance(instruction, str):
        kind = type(instruction).__name__
        raise InputTypeError(f"instruction has the wrong type: {kind}; allowed: a string or None")


def check_top_n(top_n: object) -> None:
    """Refuse anything but None and integers of at least 1.

    Raises:
        InputTypeError: It is no integer.
        InputError: It is too small.
    """
    if top_n is None:
        return
    if isinstance(top_n, bool) or not isinstance(top_n, int):
        raise InputTypeError(
            f"top_n has the wrong type: {top_n!r}; allowed: an integer of at least 1, or None"
        )
    if top_n < 1:
        raise InputError(f"top_n is too small: {top_n!r}; allowed: an integer of at least 1, or None")


def check_min_score(min_score: object) -> None:
    """Refuse anything but None and numbers from 0 to 1.

    Raises:
        InputTypeError: It is no number.
        InputError: It is NaN or out of range.
    """
    if min_score is None:
        return
    if isinstance(min_score, bool) or not isinstance(min_score, int | float):
        raise InputTypeError(
            f"min_score has the wrong type: {min_score!r}; allowed: a number from 0 to 1, or None"
        )
    if not 0.0 <= min_score <= 1.0:  # false for NaN as well
        raise InputError(f"min_score is out of range: {min_score!r}; allowed: a number from 0 to 1, or None")


def check_deadline(deadline_s: object) -> None:
    """Refuse anything but None and positive numbers of seconds.

    Raises:
        InputTypeError: It is no number.
        InputError: It is NaN, zero or negative.
    """
    if deadline_s is None:
        return
    if isinstance(deadline_s, bool) or not isinstance(deadline_s, int | float):
        raise InputTypeError(
            f"deadline_s has the wrong type: {deadline_s!r}; allowed: seconds above 0, or None"
        )
    if not deadline_s > 0:
        raise InputError(f"deadline_s is out of range: {deadline_s!r}; allowed: seconds above 0, or None")


def check_lists(queries: object, documents_per_query: object) -> list[tuple[str, tuple[Document, ...]]]:
    """Pair each query with its documents; places in messages are numbered only where there are several.

    Raises:
        InputTypeError: Something is of the wrong type.
        InputError: A query is blank, or there are not as many lists as queries.
    """
    checked_queries = _check_list(queries, "queries")
    lists = _check_list(documents_per_query, "documents_per_query")
    if len(checked_queries) != len(lists):
        counts = f"{len(checked_queries)} queries, {len(lists)} lists of documents"
        raise InputError(f"queries and documents do not match: {counts}; allowed: one list for each query")
    if len(lists) == 1:
        return [(check_query(checked_queries[0]), check_documents(lists[0]))]
    return [
        (check_query(query, f"queries[{index}]"), check_documents(documents, f"documents_per_query[{index}]"))
        for index, (query, documents) in enumerate(zip(checked_queries, lists, strict=True))
    ]


def list_requests(query: str, documents: Sequence[Document], instruction: str | None) -> list[ScoreRequest]:
    """Give one request a document, for a query and documents that were checked."""
    return [ScoreRequest(query, text_of(document), instruction) for document in documents]


def pair_requests(pairs: object, instruction: str | None) -> list[ScoreRequest]:
    """Give one request a pair, for any iterable of (query, document).

    Raises:
        InputTypeError: Something is of the wrong type; names the pair.
        InputError: A query is blank; names the pair.
    """
    if isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Iterable):
        kind = type(pairs).__name__
        raise InputTypeError(f"pairs has the wrong type: {kind}; allowed: a list of (query, document)")
    requests: list[ScoreRequest] = []
    for index, pair in enumerate(pairs):
        match pair:
            case (query, document):
                checked = check_query(query, f"pairs[{index}][0]")
                text = text_of(document, f"pairs[{index}][1]")
                requests.append(ScoreRequest(checked, text, instruction))
            case _:
                kind = type(pair).__name__
                raise InputTypeError(f"pairs[{index}] is no pair: {kind}; allowed: (query, document)")
    return requests


def _check_list(value: object, place: str) -> Sequence[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InputTypeError(f"{place} has the wrong type: {type(value).__name__}; allowed: a list")
    return value
