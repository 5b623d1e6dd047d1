"""Turns the caller's search into the search that is sent, which covers the whole window.

Pure functions over request bodies; the caller's body is not changed. Knows no client, no texts and no scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opensearch_qwen_rerank.client.dotted_paths import get_path
from qwen_rerank_plugins import InputError, InputTypeError

__all__ = ["SearchRequest", "check_count", "find_instruction", "find_query", "widen_search"]

DEFAULT_SIZE = 10
SIMPLE_QUERY, RICH_QUERY = "ext.rerank.query_context", "ext.ml_inference"
CURSORS = ("search_after", "pit")


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A search as it is sent, and the page that is cut from its reranked hits.

    Attributes:
        body: The request body.
        params: The query parameters.
        offset: Rank of the first fetched hit in the first stage, from 0.
        window: Number of fetched hits that are scored.
        start: Position of the page's first hit among the reranked hits, from 0.
        size: Number of hits on the page; None for all fetched hits.
        is_cursor: The next page starts after the sort values of a hit of this one.
    """

    body: dict[str, Any]
    params: dict[str, Any]
    offset: int = 0
    window: int = 0
    start: int = 0
    size: int | None = None
    is_cursor: bool = False


def widen_search(
    body: Mapping[str, Any], params: Mapping[str, Any], *, window: int, widens: bool = True
) -> SearchRequest:
    """Widen a search so that it fetches the whole window, whichever page is requested.

    A page behind the window, a page of a cursor or a scroll, and a search with `size` 0 are sent as they are.

    Args:
        body: The search body.
        params: The query parameters; `from` and `size` in them override the body, as in the cluster.
        window: Number of hits to score.
        widens: False sends every search as it is.

    Raises:
        InputError: `from` or `size` is not a number of hits.
    """
    sent, rest = dict(body), dict(params)
    for name, aliases in (("from", ("from", "from_")), ("size", ("size",))):
        for alias in aliases:
            if alias in rest:
                sent[name] = rest.pop(alias)
    _drop_pipeline_query(sent)
    start, size = _count(sent, "from", 0), _count(sent, "size", DEFAULT_SIZE)
    has_cursor = any(sent.get(name) is not None for name in CURSORS)
    if has_cursor or "scroll" in rest:
        return SearchRequest(sent, rest, offset=start, window=window if widens else 0, is_cursor=has_cursor)
    if not widens or start >= window or size == 0:
        return SearchRequest(sent, rest, offset=start, window=0, size=size)
    sent |= {"from": 0, "size": max(window, start + size)}
    return SearchRequest(sent, rest, window=window, start=start, size=size)


def find_query(body: Mapping[str, Any], query: str | None, path: str | None) -> str:
    """Return the query's text: the argument, or the text at the path, or what a search pipeline would read.

    A pipeline reads `ext.ml_inference.query_text`, or `query_text` or `query_text_path` in `ext.rerank.query_context`.

    Raises:
        InputError: There is no query.
    """
    if query is not None:
        return query
    if path is None:
        for candidate in (f"{RICH_QUERY}.query_text", f"{SIMPLE_QUERY}.query_text"):
            text = get_path(body, candidate)
            if isinstance(text, str):
                return text
        path = get_path(body, f"{SIMPLE_QUERY}.query_text_path")
    if not isinstance(path, str):
        raise InputError(
            "the search has no query. Pass `query`, set `query_path`, or put it into the search's ext as for a pipeline."
        )
    found = _text_at(body, path)
    if found is None:
        raise InputError(
            f"the search has no text at query_path: {path!r}. Use the path of a string in the search body."
        )
    return found


def find_instruction(body: Mapping[str, Any]) -> str | None:
    """Return the instruction that a search has for a pipeline, `ext.ml_inference.instruction`, or None."""
    found = get_path(body, f"{RICH_QUERY}.instruction")
    return found if isinstance(found, str) and found.strip() else None


def _text_at(body: Mapping[str, Any], path: str) -> str | None:
    """Return the string at a path; `query.match.body.query` also matches the short form `{"match": {"body": "…"}}`."""
    found = get_path(body, path)
    if found is None:
        parent, _, last = path.rpartition(".")
        found = get_path(body, parent) if last == "query" and parent else None
    return found if isinstance(found, str) else None


def _drop_pipeline_query(body: dict[str, Any]) -> None:
    """Remove what only a reranking pipeline reads, and what a cluster without its plugins refuses."""
    read_by_pipelines = {"rerank": SIMPLE_QUERY, "ml_inference": f"{RICH_QUERY}.query_text"}
    present = {name for name, path in read_by_pipelines.items() if get_path(body, path) is not None}
    if not present:
        return
    body["ext"] = {name: value for name, value in body["ext"].items() if name not in present}
    if not body["ext"]:
        del body["ext"]


def check_count(name: str, value: object) -> int:
    """Return a number of hits after checking it.

    Raises:
        InputTypeError: The value is not an integer.
        InputError: The value is negative.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} has the wrong type: {value!r}. Use an integer of at least 0.")
    if value < 0:
        raise InputError(f"{name} is too small: {value!r}. Use an integer of at least 0.")
    return value


def _count(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    return default if value is None else check_count(name, value)
