"""The search that is sent for a given search, and the source of the query's text."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from opensearch_qwen_rerank.client.search_request import find_instruction, find_query, widen_search

from qwen_rerank_plugins import InputError, InputTypeError

MATCH = {"match": {"body": {"query": "whales"}}}


@pytest.mark.parametrize(
    ("body", "params", "sent", "page"),
    [
        ({}, {}, (0, 50), (0, 10)),
        ({"size": 5}, {}, (0, 50), (0, 5)),
        ({"from": 20, "size": 5}, {}, (0, 50), (20, 5)),
        ({"from": 45, "size": 10}, {}, (0, 55), (45, 10)),
        ({"size": 80}, {}, (0, 80), (0, 80)),
        ({"from": 20, "size": 5}, {"from": 7, "size": 3}, (0, 50), (7, 3)),
        ({}, {"from_": 7, "size": 3}, (0, 50), (7, 3)),
        ({"from": None, "size": None}, {}, (0, 50), (0, 10)),
    ],
)
def test_the_window_is_fetched_for_every_page(
    body: dict[str, Any], params: dict[str, Any], sent: tuple[int, int], page: tuple[int, int]
) -> None:
    search = widen_search(body, params, window=50)
    assert (search.body["from"], search.body["size"]) == sent
    assert (search.start, search.size, search.offset, search.window) == (*page, 0, 50)
    assert search.params == {}


@pytest.mark.parametrize(
    "body", [{"from": 50}, {"from": 60, "size": 3}, {"size": 0}, {"from": 10, "size": 0}]
)
def test_a_page_behind_the_window_or_without_hits_is_sent_unchanged(body: dict[str, Any]) -> None:
    search = widen_search(body, {}, window=50)
    assert search.body == body
    assert (search.offset, search.window, search.start) == (body.get("from", 0), 0, 0)


@pytest.mark.parametrize(
    ("body", "params"),
    [
        ({"search_after": [1], "sort": ["n"], "size": 5}, {}),
        ({"pit": {"id": "x"}, "size": 5}, {}),
        ({"size": 5}, {"scroll": "1m"}),
    ],
)
def test_a_page_of_a_cursor_or_a_scroll_is_sent_unchanged_and_reranked_separately(
    body: dict[str, Any], params: dict[str, Any]
) -> None:
    search = widen_search(body, params, window=50)
    assert (search.body, search.params, search.size, search.window) == (body, params, None, 50)
    assert search.is_cursor == ("scroll" not in params)


def test_everything_else_of_a_search_is_sent_unchanged() -> None:
    body = {
        "query": MATCH,
        "aggs": {"a": {"terms": {"field": "n"}}},
        "collapse": {"field": "n"},
        "highlight": {"fields": {"body": {}}},
        "sort": ["n"],
        "track_total_hits": False,
        "_source": ["body"],
        "min_score": 0.2,
    }
    params = {"routing": "r", "preference": "p"}
    before = copy.deepcopy((body, params))
    search = widen_search(body, params, window=50)
    assert {key: value for key, value in search.body.items() if key not in {"from", "size"}} == body
    assert search.params == params
    assert (body, params) == before


@pytest.mark.parametrize(("name", "value"), [("size", "5"), ("from", 1.0), ("size", True), ("from", [1])])
def test_a_size_that_is_not_an_integer_is_refused(name: str, value: object) -> None:
    with pytest.raises(InputTypeError, match=f"{name} has the wrong type"):
        widen_search({name: value}, {}, window=50)


@pytest.mark.parametrize("name", ["from", "size"])
def test_a_negative_size_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is too small: -1"):
        widen_search({name: -1}, {}, window=50)


def test_what_only_a_pipeline_reads_is_not_sent() -> None:
    context = {"query_context": {"query_text": "q"}}
    body = {"query": MATCH, "ext": {"rerank": context, "other": {"x": 1}}}
    assert widen_search(body, {}, window=50).body["ext"] == {"other": {"x": 1}}
    assert "ext" not in widen_search({"ext": {"rerank": context}}, {}, window=50).body
    assert body["ext"] == {"rerank": context, "other": {"x": 1}}
    rich = {"ext": {"ml_inference": {"query_text": "q", "instruction": "i"}, "other": {}}}
    assert widen_search(rich, {}, window=50).body["ext"] == {"other": {}}
    other = {"rerank": {"something": "else"}, "ml_inference": {"of": "another processor"}}
    assert widen_search({"ext": other}, {}, window=50).body["ext"] == other


@pytest.mark.parametrize(
    ("body", "query", "path", "text"),
    [
        ({"query": MATCH}, "given", "query.match.body.query", "given"),
        ({"query": MATCH}, None, "query.match.body.query", "whales"),
        ({"query": {"match": {"body": "short"}}}, None, "query.match.body.query", "short"),
        ({"query": {"match": {"body": "short"}}}, None, "query.match.body", "short"),
        (
            {"query": {"hybrid": {"queries": [{}, {"match": {"b": "x"}}]}}},
            None,
            "query.hybrid.queries.1.match.b",
            "x",
        ),
        (
            {"query": {"hybrid": {"queries": [{}, {"match": {"b": "x"}}]}}},
            None,
            "query.hybrid.queries[1].match.b",
            "x",
        ),
        ({"ext": {"rerank": {"query_context": {"query_text": "ext"}}}}, None, None, "ext"),
        ({"ext": {"ml_inference": {"query_text": "rich"}}}, None, None, "rich"),
        (
            {
                "query": MATCH,
                "ext": {"rerank": {"query_context": {"query_text_path": "query.match.body.query"}}},
            },
            None,
            None,
            "whales",
        ),
        (
            {"query": MATCH, "ext": {"rerank": {"query_context": {"query_text": "ext"}}}},
            None,
            "query.match.body.query",
            "whales",
        ),
    ],
)
def test_the_query_is_the_argument_or_is_read_from_the_body(
    body: dict[str, Any], query: str | None, path: str | None, text: str
) -> None:
    assert find_query(body, query, path) == text


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ({"query": MATCH}, None, "the search has no query"),
        (
            {"query": MATCH},
            "query.match.title.query",
            "no text at query_path: 'query.match.title.query'",
        ),
        ({"query": MATCH}, "query.match", "no text at query_path"),
        ({"query": {"range": {"n": {"gt": 5}}}}, "query.range.n.gt", "no text at query_path"),
        ({"query": [MATCH]}, "query.7.match", "no text at query_path"),
    ],
)
def test_a_search_without_a_query_is_refused(body: dict[str, Any], path: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_query(body, None, path)


def test_the_instruction_is_read_from_the_search() -> None:
    assert find_instruction({"ext": {"ml_inference": {"query_text": "q", "instruction": "i"}}}) == "i"
    cases: list[dict[str, Any]] = [
        {},
        {"ml_inference": {}},
        {"ml_inference": {"instruction": " "}},
        {"ml_inference": {"instruction": 5}},
    ]
    for ext in cases:
        assert find_instruction({"ext": ext}) is None
