"""The dialect of a body whose keys allow several."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_rerank_plugins.service import schemas
from qwen_rerank_plugins.service.schemas import DIALECTS, read_request
from qwen_rerank_plugins.service.schemas.dialect import Route

# Each key that decides, in the order in which they do, with a value that its dialect takes.
DECIDING: list[tuple[str, Any, str]] = [
    ("search", {"query_text": "q"}, "opensearch"),
    ("texts", ["a"], "tei"),
    ("input", {"query": "q", "documents": ["a"]}, "dashscope"),
    ("queries", ["q"], "multi_query"),
    ("property", "", "weaviate"),
    ("top_k", 0, "voyage"),
    ("truncation", False, "voyage"),
]
BODY: dict[str, Any] = {"query": "q", "documents": ["a"]}


@pytest.mark.parametrize("at", range(len(DECIDING)))
def test_the_first_deciding_key_wins_over_all_that_follow(at: int) -> None:
    body = {**BODY, **{key: value for key, value, _ in reversed(DECIDING[at:])}}
    assert read_request(Route.RERANK, body).name == DECIDING[at][2]


@pytest.mark.parametrize("at", range(len(DECIDING)))
def test_a_deciding_key_that_is_null_does_not_decide(at: int) -> None:
    key, value, dialect = DECIDING[at]
    body = {**BODY, **{key: None for key, _, _ in DECIDING}}
    assert read_request(Route.RERANK, body).name == "cohere"
    assert read_request(Route.RERANK, {**body, key: value}).name == dialect


def test_documents_alone_are_cohere_s_dialect_and_unknown_keys_change_nothing() -> None:
    assert read_request(Route.RERANK, BODY).name == "cohere"
    assert read_request(Route.RERANK, {**BODY, "foo": {"texts": 1}, "user": 5}).name == "cohere"


def test_the_other_routes_look_at_no_deciding_key() -> None:
    body = {**BODY, **{key: value for key, value, _ in DECIDING}}
    assert read_request(Route.DASHSCOPE, body).name == "dashscope"
    assert read_request(Route.SCORE, body).name == "score"


def test_the_table_of_keys_in_the_documentation_is_the_order_in_the_code() -> None:
    table = [line for line in (schemas.__doc__ or "").splitlines() if line.startswith("| `")]
    keys = [cell.strip(" `") for line in table for cell in line.split("|")[1].split(" or ")]
    assert keys == [key for key, _, _ in DECIDING]


def test_every_name_of_a_dialect_is_declared() -> None:
    assert list(DIALECTS) == sorted({*(name for *_, name in DECIDING), "cohere", "score"})


def test_the_first_spelling_whose_left_side_is_there_decides_on_the_score_route() -> None:
    body = {
        "text_1": "l1",
        "text_2": "r1",
        "data_1": "l2",
        "data_2": "r2",
        "queries": "l3",
        "documents": "r3",
        "items": "r4",
    }
    for left, right, keys in (
        ("l1", "r1", ()),
        ("l2", "r2", ("text_1",)),
        ("l3", "r3", ("text_1", "data_1")),
        ("l3", "r4", ("text_1", "data_1", "documents")),
    ):
        request = read_request(Route.SCORE, {**body, **dict.fromkeys(keys)}).to_request()
        assert (request.queries, request.documents) == ((left,), ((right,),))
