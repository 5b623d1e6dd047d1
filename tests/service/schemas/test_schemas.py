"""The request schemas describe exactly what is accepted."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import (
    DIALECTS,
    answer_schema,
    examples,
    read_request,
    request_schema,
)
from qwen_rerank_plugins.service.schemas.dialect import Route
from tests.service.schemas.answering import refusal, sizes_differ, unhurried
from tests.service.schemas.test_clients import CLIENTS

VALIDATORS = {route: jsonschema_rs.validator_for(request_schema(route)) for route in Route}

JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2.0,
    2.5,
    -0.0,
    1e300,
    10**20,
    "",
    " ",
    "q",
    "0",
    "3",
    "-3",
    "true",
    "False",
    "yes",
    [],
    {},
    ["a"],
    ["a", ""],
    [[]],
    [["a"]],
    [["a"], ["b"]],
    [[["a"]]],
    ["a", ["b"]],
    [1],
    ["a", None],
    {"text": "a"},
    {"text": 1},
    [{"text": "a"}],
    {"query": "q", "documents": ["a"]},
    {"query": "q"},
    {"top_n": -1},
    [{"content": [{"type": "text", "text": "a"}]}],
    [{"content": [{"type": "image_url", "image_url": {}}]}],
    [[{"content": [{"type": "image_url"}]}]],
    {"content": [{"type": "image_url"}]},
    {"content": [{"type": 5}, 5]},
    "\x1c\u3000",
    "\ufeff",
    "\u200b",
]
KEYS = [
    "query",
    "documents",
    "texts",
    "input",
    "parameters",
    "queries",
    "property",
    "top_k",
    "truncation",
    "top_n",
    "model",
    "return_documents",
    "return_text",
    "return_pairs",
    "rank_fields",
    "instruction",
    "instruct",
    "raw_scores",
    "use_activation",
    "truncate",
    "truncation_direction",
    "max_tokens_per_doc",
    "priority",
    "text_1",
    "text_2",
    "data_1",
    "data_2",
    "items",
    "search",
    "unknown",
]
VALID: list[dict[str, Any]] = [
    {"query": "q", "documents": ["a", {"title": "b"}, ["c"]]},
    {"search": {"query_text": "q"}, "documents": [{"title": "a"}], "rank_fields": ["title"]},
    {"query": "q", "texts": ["a"]},
    {"query": "q", "documents": ["a"], "top_k": 1},
    {"query": "q", "documents": ["a"], "truncation": False},
    {"query": "q", "documents": ["a"], "property": ""},
    {"queries": ["q", "r"], "documents": [["a"], [["b"]]]},
    {"queries": ["q"], "documents": ["a"]},
    {"input": {"query": "q", "documents": ["a"]}, "parameters": {"top_n": 1}},
    {"text_1": "q", "text_2": "a"},
    {"data_1": ["q", "r"], "data_2": ["a", "b"]},
    {"queries": "q", "items": ["a"]},
]

changes = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(JUNK)), max_size=4)


def _check(route: Route, body: Any) -> None:
    valid = VALIDATORS[route].is_valid(body)
    if not sizes_differ(body, route=route):
        error = refusal(body, route=route)
        assert valid is (error is None), (route, body, error)
        # One of our own sentences, never one of pydantic's: a place, and what is wrong there.
        assert error is None or re.match(r"(the body|[\w.\[\]]+) (is|has) ", str(error)), error


@unhurried
@given(st.sampled_from(Route), st.sampled_from(VALID), changes, st.sets(st.sampled_from(KEYS), max_size=1))
def test_what_the_schema_allows_is_accepted_and_what_it_forbids_is_not(
    route: Route, base: dict[str, Any], changed: list[tuple[str, Any]], removed: set[str]
) -> None:
    body = {**copy.deepcopy(base), **dict(changed)}
    _check(route, {key: value for key, value in body.items() if key not in removed})


@pytest.mark.parametrize("base", VALID)
@pytest.mark.parametrize("route", Route)
def test_every_single_change_of_a_valid_body_is_judged_alike(route: Route, base: dict[str, Any]) -> None:
    for key in KEYS:
        for junk in JUNK:
            _check(route, {**base, key: junk})


@pytest.mark.parametrize("key", ["search", "texts", "input", "queries", "property", "top_k", "truncation"])
def test_a_null_does_not_make_the_schema_take_one_dialect_for_another(key: str) -> None:
    for option in ("query", "documents", "top_n", "rank_fields", "return_pairs", "model"):
        for junk in JUNK:
            _check(Route.RERANK, {"query": "q", "documents": ["a"], key: None, option: junk})


@pytest.mark.parametrize("key", ["top_n", "return_documents", "instruct", "instruction", "other"])
def test_every_single_parameter_of_dashscope_is_judged_alike(key: str) -> None:
    for junk in JUNK:
        _check(Route.DASHSCOPE, {"input": {"query": "q", "documents": ["a"]}, "parameters": {key: junk}})
        _check(Route.DASHSCOPE, {"input": {"query": "q", "documents": ["a"], key: junk}})
        _check(Route.DASHSCOPE, {"input": {"query": junk, "documents": ["a"]}})
        _check(Route.DASHSCOPE, {"input": {"query": "q", "documents": junk}})


@unhurried
@given(st.text())
def test_a_blank_query_is_blank_for_the_schema_as_well(query: str) -> None:
    _check(Route.RERANK, {"query": query, "documents": ["a"]})


def test_each_character_that_may_be_space_is_judged_alike() -> None:
    spaces = [chr(code) for code in range(0x3001) if chr(code).isspace()]
    assert len(spaces) > 20
    for character in [*map(chr, range(0x250)), *spaces, "\u180e", "\u200b", "\u2060", "\ufeff"]:
        _check(Route.RERANK, {"query": character, "documents": ["a"]})
        assert (refusal({"query": character, "documents": ["a"]}) is None) is bool(character.strip())


@pytest.mark.parametrize("case", CLIENTS, ids=[case[0] for case in CLIENTS])
def test_what_real_clients_send_and_are_answered_is_declared(
    case: tuple[str, dict[str, Any], str, Any],
) -> None:
    _, body, _, response = case
    assert VALIDATORS[Route.RERANK].is_valid(body)
    assert jsonschema_rs.validator_for(answer_schema(Route.RERANK)).is_valid(response)


@pytest.mark.parametrize("route", Route)
def test_every_dialect_has_an_example_that_it_takes_and_its_schema_allows(route: Route) -> None:
    for name, example in examples(route).items():
        assert read_request(route, example["value"]).name == name
        assert VALIDATORS[route].is_valid(example["value"])
    wanted = {Route.RERANK: set(DIALECTS) - {"score"}, Route.SCORE: {"score"}, Route.DASHSCOPE: {"dashscope"}}
    assert set(examples(route)) == wanted[route]


@pytest.mark.parametrize(
    "body", [{"queries": [1] * 9, "documents": ["a"]}, {**VALID[0], "rank_fields": [1] * 9}]
)
def test_a_list_is_read_until_its_first_fault(body: dict[str, Any]) -> None:
    """A list with a million faults does not produce a million errors."""
    with pytest.raises(BodyError) as caught:
        read_request(Route.RERANK, body)
    assert isinstance(caught.value.__context__, ValidationError)
    assert caught.value.__context__.error_count() == 1


@pytest.mark.parametrize("route", Route)
def test_schemas_are_plain_json_valid_as_schemas_and_free_of_references(route: Route) -> None:
    for schema in (request_schema(route), answer_schema(route)):
        written = json.dumps(schema, allow_nan=False)
        assert "$ref" not in written
        assert jsonschema_rs.meta.is_valid(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        )
