"""The requests of a cluster with the `rich` recipe: a part of the search, and fields that may be missing."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_rerank_plugins.service.schemas import read_request
from qwen_rerank_plugins.service.schemas.dialect import Route

DOCUMENTS: list[dict[str, Any]] = [
    {"title": "Kettles", "body": "Vinegar removes limescale."},
    {"title": None, "body": "No title."},
    {"body": ["one", "two"]},
    {},
]


def ranked_texts(documents: list[Any], rank_fields: list[str]) -> tuple[str, ...]:
    body = {"search": {"query_text": "q"}, "documents": documents, "rank_fields": rank_fields}
    return read_request(Route.RERANK, body).to_request().documents[0]


def test_several_fields_become_one_text_and_missing_ones_nothing() -> None:
    assert ranked_texts(DOCUMENTS, ["title", "body"]) == (
        "title: Kettles\nbody: Vinegar removes limescale.",
        "body: No title.",
        "body:\n  - one\n  - two",
        "",
    )


def test_one_field_is_ranked_bare() -> None:
    assert ranked_texts(DOCUMENTS, ["body"]) == ("Vinegar removes limescale.", "No title.", "one\ntwo", "")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"page": {"body": "deep"}}, "deep"),
        ({"page": [{"body": "one"}, {"title": "none"}, {"body": "two"}]}, "one\ntwo"),
        ({"page.body": "literal", "page": None}, "literal"),
        ({"page": "flat"}, ""),
        ({"page": {"body": None}}, ""),
    ],
)
def test_a_dotted_name_leads_into_objects_and_lists(document: dict[str, Any], text: str) -> None:
    assert ranked_texts([document], ["page.body"]) == (text,)


@pytest.mark.parametrize(
    ("search", "query"),
    [
        ({"query_text": "a", "query": "b"}, "a"),
        ({"query_text": None, "query": "b"}, "b"),
        ({"query": "[draft]", "operator": "OR", "boost": 1.0}, "[draft]"),
    ],
)
def test_the_query_is_read_where_the_cluster_puts_it(search: dict[str, Any], query: str) -> None:
    assert read_request(Route.RERANK, {"search": search, "documents": DOCUMENTS}).to_request().queries == (
        query,
    )


@pytest.mark.parametrize(
    ("of_the_search", "of_the_connector", "chosen"),
    [("a", "b", "a"), (None, "b", "b"), (" ", "b", "b"), ("a", "", "a"), (None, None, None)],
)
def test_the_search_s_own_instruction_goes_before_the_connector_s(
    of_the_search: str | None, of_the_connector: str | None, chosen: str | None
) -> None:
    search = {"query_text": "q", "instruction": of_the_search}
    body = {"search": search, "documents": DOCUMENTS, "instruction": of_the_connector}
    assert read_request(Route.RERANK, body).to_request().instruction == chosen
