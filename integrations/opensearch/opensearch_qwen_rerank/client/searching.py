"""From the search that a caller wants to the search that is sent: a window wide enough to rerank, cut to a page later.

Pure functions over request bodies; the caller's own is never changed. Knows no client, no texts and no scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opensearch_qwen_rerank.client.paths import step_to
from qwen_rerank_plugins import InputError, InputTypeError

__all__ = ["Search", "check_count", "plan_search", "query_text", "search_instruction"]

DEFAULT_SIZE = 10
SIMPLE_QUERY, RICH_QUERY = "ext.rerank.query_context", "ext.ml_inference"
CURSORS = ("search_after", "pit")


@dataclass(frozen=True, slots=True)
class Search:
    """A search as it is sent, and what becomes of its hits.

    Attributes:
        body: The request's body.
        params: The request's parameters in its address.
        offset: How many of the first stage's hits lie before the first that is fetched.
        window: How many of the fetched hits are scored.
        start: The first fetched hit of the page, after reranking.
        size: Hits of the page; None for all that were fetched.
        is_cursor: The next page begins behind a hit of this one, by its sort values.
    """

    body: dict[str, Any]
    params: dict[str, Any]
    offset: int = 0
    window: int = 0
    start: int = 0
    size: int | None = None
    is_cursor: bool = False


def plan_search(
    body: Mapping[str, Any], params: Mapping[str, Any], *, window: int, widens: bool = True
) -> Search:
    """Widen a search so that its window can be reranked, whichever page is wanted.

    A page beyond the window, a page of a cursor or of a scroll, and a search without hits are sent as they are.

    Args:
        body: The search's body.
        params: Its parameters; `from` and `size` there beat those of the body, as in the cluster.
        window: Hits to score.
        widens: False sends every search as it is.

    Raises:
        InputError: `from` or `size` is not a count.
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
        return Search(sent, rest, offset=start, window=window if widens else 0, is_cursor=has_cursor)
    if not widens or start >= window or size == 0:
        return Search(sent, rest, offset=start, window=0, size=size)
    sent |= {"from": 0, "size": max(window, start + size)}
    return Search(sent, rest, window=window, start=start, size=size)


def query_text(body: Mapping[str, Any], query: str | None, path: str | None) -> str:
    """Give the query's text: the argument, else what stands at the path, else what a search pipeline would read.

    The last is `ext.ml_inference.query_text`, or in `ext.rerank.query_context` the `query_text` or `query_text_path`.

    Raises:
        InputError: There is none.
    """
    if query is not None:
        return query
    if path is None:
        for held in (f"{RICH_QUERY}.query_text", f"{SIMPLE_QUERY}.query_text"):
            text = step_to(body, held)
            if isinstance(text, str):
                return text
        path = step_to(body, f"{SIMPLE_QUERY}.query_text_path")
    if not isinstance(path, str):
        raise InputError(
            "no query was passed; allowed: query, query_path, or one in the search's ext, as pipelines want it"
        )
    found = _text_at(body, path)
    if found is None:
        raise InputError(
            f"no text stands at query_path: {path!r}; allowed: a path to a string of the search's body"
        )
    return found


def search_instruction(body: Mapping[str, Any]) -> str | None:
    """Give the instruction that a search carries for a pipeline, `ext.ml_inference.instruction`, or None."""
    found = step_to(body, f"{RICH_QUERY}.instruction")
    return found if isinstance(found, str) and found.strip() else None


def _text_at(body: Mapping[str, Any], path: str) -> str | None:
    """The string at a path; `query.match.body.query` is found in the short form `{"match": {"body": "…"}}` too."""
    found = step_to(body, path)
    if found is None:
        parent, _, last = path.rpartition(".")
        found = step_to(body, parent) if last == "query" and parent else None
    return found if isinstance(found, str) else None


def _drop_pipeline_query(body: dict[str, Any]) -> None:
    """Leave out what only a reranking pipeline reads: a cluster without its plugins refuses the search."""
    ours = {"rerank": SIMPLE_QUERY, "ml_inference": f"{RICH_QUERY}.query_text"}
    held = {name for name, path in ours.items() if step_to(body, path) is not None}
    if not held:
        return
    body["ext"] = {name: value for name, value in body["ext"].items() if name not in held}
    if not body["ext"]:
        del body["ext"]


def check_count(name: str, value: object) -> int:
    """Give a number of hits back, or refuse it.

    Raises:
        InputTypeError: It is no integer.
        InputError: It is negative.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} has the wrong type: {value!r}; allowed: an integer of at least 0")
    if value < 0:
        raise InputError(f"{name} is too small: {value!r}; allowed: an integer of at least 0")
    return value


def _count(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    return default if value is None else check_count(name, value)
