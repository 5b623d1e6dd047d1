"""The accepted forms of each value, and the errors for others."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_rerank_plugins.service.schemas import read_request
from qwen_rerank_plugins.service.schemas.dialect import Route
from tests.service.schemas.answering import QUERY, TEXAS, TEXTS, answer, refusal

BODY: dict[str, Any] = {"query": QUERY, "documents": TEXTS}
SECRET = "a secret of the caller's"


def _indices(body: dict[str, Any]) -> list[int]:
    return [one["index"] for one in answer(body)["results"]]


@pytest.mark.parametrize("value", [None, 0, 0.0, "0", 3, 99, "99", 10**30, 1e300])
def test_none_zero_and_too_many_mean_all_documents(value: Any) -> None:
    assert _indices({**BODY, "top_n": value}) == [2, 1, 0]


@pytest.mark.parametrize("value", [2, 2.0, "2", "02"])
def test_a_count_may_be_written_as_a_whole_float_or_in_digits(value: Any) -> None:
    assert _indices({**BODY, "top_n": value}) == [2, 1]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (-1, "top_n is negative"),
        (-0.5, "top_n is negative"),
        (2.5, "top_n is not an integer"),
        ("-1", "top_n has the wrong type: string"),
        ("two", "top_n has the wrong type: string"),
        ("", "top_n has the wrong type: string"),
        ("२", "top_n has the wrong type: string"),
        (True, "top_n has the wrong type: boolean"),
        ([1], "top_n has the wrong type: array"),
    ],
)
def test_anything_else_is_no_count(value: Any, what: str) -> None:
    error = refusal({**BODY, "top_n": value})
    assert error is not None
    assert error.status == 422
    assert str(error) == f"{what}; pass an integer; 0 or null returns all"


@pytest.mark.parametrize(
    ("value", "echoed"),
    [
        (True, True),
        ("true", True),
        ("True", True),
        (False, False),
        ("false", False),
        ("False", False),
        (None, False),
    ],
)
def test_a_boolean_may_be_written_as_a_word(value: Any, echoed: bool) -> None:
    response = answer({**BODY, "return_documents": value})
    assert ("document" in response["results"][0]) is echoed


@pytest.mark.parametrize("value", [1, 0, "yes", "", "TRUE", [], {}])
def test_anything_else_is_no_boolean(value: Any) -> None:
    error = refusal({**BODY, "return_documents": value})
    assert error is not None
    assert (error.status, str(error).startswith("return_documents has the wrong type")) == (422, True)


@pytest.mark.parametrize("query", [None, "", " ", "\t\n", "\u3000\u2003", "\x1c\x85\xa0"])
def test_a_query_that_is_missing_or_blank_is_refused(query: str | None) -> None:
    error = refusal({"query": query, "documents": TEXTS})
    assert error is not None
    assert (error.status, str(error).split()[0]) == (422, "query")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"query": 5, "documents": TEXTS}, "query"),
        ({"query": [QUERY], "documents": TEXTS}, "query"),
        ({"query": QUERY}, "documents"),
        ({"query": QUERY, "documents": SECRET}, "documents"),
        ({"query": QUERY, "documents": {"0": SECRET}}, "documents"),
        ({"query": QUERY, "documents": [SECRET, 1]}, "documents[1]"),
        ({"query": QUERY, "documents": [None]}, "documents[0]"),
        ({"query": QUERY, "texts": [SECRET, True]}, "texts[1]"),
        ({"query": QUERY, "texts": SECRET}, "texts"),
        ({"query": QUERY, "documents": [SECRET], "instruction": 5}, "instruction"),
        ({"query": QUERY, "documents": [SECRET], "instruct": [SECRET]}, "instruct"),
        ({"query": QUERY, "documents": [SECRET], "model": 7}, "model"),
        ({"query": QUERY, "documents": [SECRET], "rank_fields": SECRET}, "rank_fields"),
        ({"query": QUERY, "documents": [SECRET], "rank_fields": ["a", 1]}, "rank_fields[1]"),
        ({"query": QUERY, "documents": [SECRET], "top_k": SECRET}, "top_k"),
        ({"query": QUERY, "documents": [SECRET], "truncation": SECRET}, "truncation"),
        ({"query": QUERY, "documents": [SECRET], "property": 5}, "property"),
        ({"query": QUERY, "documents": [SECRET], "truncate": "END"}, "truncate"),
        ({"search": SECRET, "documents": [SECRET]}, "search"),
        ({"search": {}, "documents": [SECRET]}, "search.query_text"),
        ({"search": {"query_text": " ", "query": QUERY}, "documents": [SECRET]}, "search.query_text"),
        ({"search": {"query_text": None, "query": 5}, "documents": [SECRET]}, "search.query"),
        (
            {"search": {"query": QUERY, "instruction": [SECRET]}, "documents": [SECRET]},
            "search.instruction",
        ),
        ({"search": {"query": QUERY}, "documents": [5]}, "documents[0]"),
        ({"input": SECRET}, "input"),
        ({"input": {}}, "input.query"),
        ({"input": {"query": QUERY, "documents": [SECRET, 0]}}, "input.documents[1]"),
        ({"input": {"query": QUERY, "documents": [SECRET]}, "parameters": [SECRET]}, "parameters"),
        (
            {"input": {"query": QUERY, "documents": [SECRET]}, "parameters": {"top_n": SECRET}},
            "parameters.top_n",
        ),
        (
            {"input": {"query": QUERY, "documents": [SECRET]}, "parameters": {"return_documents": SECRET}},
            "parameters.return_documents",
        ),
        (
            {"input": {"query": QUERY, "documents": [SECRET]}, "parameters": {"instruct": 1}},
            "parameters.instruct",
        ),
        ({"queries": SECRET, "documents": [[SECRET]]}, "queries"),
        ({"queries": [QUERY, 1], "documents": [[SECRET], [SECRET]]}, "queries[1]"),
        ({"queries": [QUERY, " "], "documents": [[SECRET], [SECRET]]}, "queries[1]"),
        ({"queries": [QUERY, QUERY], "documents": [[SECRET], SECRET]}, "documents[1]"),
        ({"queries": [QUERY, QUERY], "documents": [[SECRET], [SECRET, 2]]}, "documents[1][1]"),
        ({"queries": [QUERY], "documents": [SECRET, 2]}, "documents[1]"),
        ({"queries": [QUERY], "documents": [SECRET, [SECRET]]}, "documents[0]"),
        ({"queries": [QUERY, QUERY], "documents": [[SECRET]]}, "documents"),
        ({"queries": [QUERY], "documents": [[SECRET], [SECRET]]}, "documents"),
    ],
)
def test_a_wrong_value_is_refused_by_its_place_and_never_echoed(body: dict[str, Any], place: str) -> None:
    error = refusal(body)
    assert error is not None
    assert error.status == 422
    assert str(error).split()[0] == place
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"left": 1}, "text_1"),
        ({"text_1": QUERY}, "text_2"),
        ({"text_1": QUERY, "data_2": SECRET}, "text_2"),
        ({"text_1": 5, "text_2": SECRET}, "text_1"),
        ({"text_1": " ", "text_2": SECRET}, "text_1"),
        ({"data_1": [QUERY, 5], "data_2": [SECRET, SECRET]}, "data_1[1]"),
        ({"data_1": QUERY, "data_2": 5}, "data_2"),
        ({"queries": QUERY, "documents": [SECRET, 5]}, "documents[1]"),
        ({"queries": QUERY, "items": [5]}, "items[0]"),
        ({"queries": [QUERY, QUERY], "items": [SECRET]}, "items"),
        ({"text_1": [QUERY, QUERY], "text_2": SECRET}, "text_2"),
        ({"text_1": QUERY, "text_2": SECRET, "use_activation": SECRET}, "use_activation"),
    ],
)
def test_the_score_route_refuses_in_the_same_way(body: dict[str, Any], place: str) -> None:
    error = refusal(body, route=Route.SCORE)
    assert error is not None
    assert error.status == 422
    assert str(error).split()[0] == place
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (Route.RERANK, []),
        (Route.RERANK, "text"),
        (Route.RERANK, None),
        (Route.SCORE, 5),
        (Route.DASHSCOPE, True),
        (Route.RERANK, {"query": QUERY, "documents": []}),
        (Route.RERANK, {"query": QUERY, "texts": []}),
        (Route.RERANK, {"query": QUERY, "documents": [], "top_k": 1}),
        (Route.RERANK, {"query": QUERY, "documents": [], "property": ""}),
        (Route.RERANK, {"search": {"query": QUERY}, "documents": []}),
        (Route.RERANK, {"queries": [], "documents": [["a"]]}),
        (Route.RERANK, {"queries": [QUERY], "documents": []}),
        (Route.RERANK, {"queries": [QUERY, QUERY], "documents": [["a"], []]}),
        (Route.DASHSCOPE, {"input": {"query": QUERY, "documents": []}}),
        (Route.SCORE, {"text_1": QUERY, "text_2": []}),
        (Route.SCORE, {"text_1": [], "text_2": ["a"]}),
    ],
)
def test_no_object_and_nothing_to_rank_are_bad_requests(route: Route, body: Any) -> None:
    error = refusal(body, route=route)
    assert error is not None
    assert error.status == 400


@pytest.mark.parametrize(
    ("options", "instruction"),
    [
        ({}, None),
        ({"instruction": "a"}, "a"),
        ({"instruct": "b"}, "b"),
        ({"instruction": "a", "instruct": "b"}, "a"),
        ({"instruction": None, "instruct": "b"}, "b"),
        ({"instruction": " ", "instruct": "b"}, "b"),
        ({"instruction": ""}, None),
    ],
)
def test_the_instruction_has_two_spellings_and_blank_is_none(
    options: dict[str, Any], instruction: str | None
) -> None:
    for body in (
        {**BODY, **options},
        {"query": QUERY, "texts": TEXTS, **options},
        {**BODY, "top_k": 1, **options},
        {**BODY, "property": "", **options},
        {"queries": [QUERY], "documents": [TEXTS], **options},
        {"input": BODY, "parameters": options},
    ):
        assert read_request(Route.RERANK, body).to_request().instruction == instruction
    body = {"text_1": QUERY, "text_2": TEXTS, **options}
    assert read_request(Route.SCORE, body).to_request().instruction == instruction


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (BODY, "truncate"),
        ({"query": QUERY, "texts": TEXTS}, "truncate"),
        ({"queries": [QUERY], "documents": [TEXTS]}, "truncate"),
        (BODY, "truncation"),
    ],
)
def test_only_a_client_that_says_so_gets_an_error_for_a_cut_document(body: dict[str, Any], key: str) -> None:
    assert read_request(Route.RERANK, body).to_request().allow_truncation
    assert read_request(Route.RERANK, {**body, key: None}).to_request().allow_truncation
    assert read_request(Route.RERANK, {**body, key: True}).to_request().allow_truncation
    assert not read_request(Route.RERANK, {**body, key: False}).to_request().allow_truncation
    assert not read_request(Route.RERANK, {**body, key: "false"}).to_request().allow_truncation


def test_the_requested_model_is_read_and_the_answer_names_the_one_that_scored() -> None:
    body = {**BODY, "model": "rerank-v3.5"}
    assert read_request(Route.RERANK, body).to_request().model == "rerank-v3.5"
    assert answer(body)["model"] == "Qwen3-Reranker"


def test_a_single_query_may_have_its_documents_unwrapped() -> None:
    wrapped = {"queries": [QUERY], "documents": [TEXTS]}
    assert answer({"queries": [QUERY], "documents": TEXTS}) == answer(wrapped)


def test_a_list_of_fields_within_a_query_s_list_is_one_document() -> None:
    dialect = read_request(Route.RERANK, {"queries": [QUERY], "documents": [[["a", "b"], "c"]]})
    assert dialect.to_request().documents == (("a\nb", "c"),)


def test_a_document_is_echoed_as_it_was_sent_when_there_are_several_queries() -> None:
    documents = [{"text": TEXAS, "id": 7}, [TEXAS, ""], TEXAS]
    response = answer({"queries": [QUERY], "documents": [documents], "top_n": "3"})
    assert [one["document"] for one in response["results"][0]["results"]] == documents
    silent = answer({"queries": [QUERY], "documents": [documents], "return_documents": False})
    assert not any("document" in one for one in silent["results"][0]["results"])
