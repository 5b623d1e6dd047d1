"""Properties of every answer, whatever was scored."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any, get_type_hints

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from qwen_rerank_plugins import EngineError, PairScore, Reranker
from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import answer_schema, read_request
from qwen_rerank_plugins.service.schemas.answers import wire_number
from qwen_rerank_plugins.service.schemas.dialect import Dialect, Outcome, Route
from tests.doubles import FakeScorer
from tests.service.schemas.answering import QUERY, TEXTS, answer, outcome_of, unhurried

spans = st.none() | st.tuples(st.integers(0, 50), st.integers(0, 50))
scored = st.builds(
    PairScore,
    relevance_score=st.floats(0.0, 1.0),
    log_odds=st.floats(-1e4, 1e4),
    truncated=st.booleans(),
    query_truncated=st.booleans(),
    span=spans,
    num_tokens=st.integers(0, 9000),
)
lists = st.lists(scored, min_size=1, max_size=8)


def _bodies(num_documents: int) -> list[tuple[Route, dict[str, Any]]]:
    """One body per dialect, with documents that differ by their number."""
    texts = [str(index) for index in range(num_documents)]
    plain = {"query": QUERY, "documents": texts}
    several = {"queries": [QUERY, "b"], "documents": [texts, texts]}
    return [
        (Route.RERANK, {**plain, "return_documents": True, "return_pairs": True, "relevant_spans": {}}),
        (Route.RERANK, {"query": QUERY, "texts": texts, "return_text": True}),
        (Route.RERANK, {**plain, "truncation": True, "return_documents": True}),
        (Route.RERANK, {**plain, "property": ""}),
        (Route.RERANK, {**several, "return_pairs": True, "relevant_spans": {}}),
        (Route.DASHSCOPE, {"input": plain, "parameters": {"return_documents": True}}),
        (Route.SCORE, {"text_1": QUERY, "text_2": texts}),
        (Route.SCORE, {"text_1": [str(n) for n in range(num_documents)], "text_2": texts}),
        (Route.RERANK, {"search": {"query_text": QUERY}, "documents": texts}),
    ]


def _rendered(values: list[PairScore], **options: Any) -> list[tuple[Route, Any]]:
    scores = {str(index): value for index, value in enumerate(values)}
    return [
        (route, answer({**body, **options}, route=route, scores=scores))
        for route, body in _bodies(len(values))
    ]


def _entries(response: Any) -> list[list[dict[str, Any]]]:
    """Every list of scored entries in an answer, of any dialect."""
    if isinstance(response, list):
        return [response]
    if "output" in response:
        return [response["output"]["results"]]
    if "data" in response:
        return [response["data"]]
    if "results" not in response:
        return [[one if isinstance(one, dict) else {"score": one} for one in response["scores"]]]
    nested = [one["results"] for one in response["results"] if "results" in one]
    return nested or [response["results"]]


def _numbers(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for name, inner in value.items() for pair in _numbers(inner, name)]
    if isinstance(value, list):
        return [pair for inner in value for pair in _numbers(inner, key)]
    return [(key, value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


@unhurried
@given(lists)
def test_no_document_is_lost_and_each_has_its_own_score(values: list[PairScore]) -> None:
    for _, response in _rendered(values):
        for entries in _entries(response):
            for place, entry in enumerate(entries):
                index = entry.get("index", place)
                score = entry.get("relevance_score", entry.get("score"))
                assert score == wire_number(values[index].relevance_score)
            indices = [entry.get("index", place) for place, entry in enumerate(entries)]
            assert sorted(indices) == list(range(len(values)))


@unhurried
@given(lists, st.integers(0, 9))
def test_scores_stand_in_the_order_sent_whatever_was_cut(values: list[PairScore], top_n: int) -> None:
    expected = [wire_number(value.relevance_score) for value in values]
    response = [response for _, response in _rendered(values, top_n=top_n)]
    cohere, multi_query = response[0], response[4]
    assert cohere["scores"] == expected
    assert [one["scores"] for one in multi_query["results"]] == [expected, expected]
    assert [one["index"] for one in cohere["pairs"]] == list(range(len(values)))
    assert [one["relevance_score"] for one in cohere["pairs"]] == expected
    cut = min(top_n or len(values), len(values))
    assert len(cohere["results"]) == len(response[1]) == len(multi_query["results"][0]["results"]) == cut


@unhurried
@given(lists)
def test_the_order_is_that_of_the_log_odds_before_rounding(values: list[PairScore]) -> None:
    best = sorted(range(len(values)), key=lambda index: -float(values[index].log_odds or 0.0))
    response = [response for _, response in _rendered(values)]
    for ranked in (
        response[0]["results"],
        response[1],
        response[2]["data"],
        response[5]["output"]["results"],
    ):
        assert [one["index"] for one in ranked] == best
    assert [one["index"] for one in response[4]["results"][0]["results"]] == best
    assert [one["rank"] for one in response[4]["results"][0]["results"]] == list(range(1, len(values) + 1))


@unhurried
@given(lists, st.booleans())
def test_scores_are_float_literals_and_positions_are_integers(values: list[PairScore], raw: bool) -> None:
    for _, response in _rendered(values, raw_scores=raw):
        for key, value in _numbers(response):
            if key in {"relevance_score", "score", "scores", "log_odds"}:
                assert type(value) is float
                assert len(json.dumps(value)) <= 18
            else:
                assert type(value) is int or key == "search_units"


@unhurried
@given(lists, st.booleans())
def test_every_answer_is_as_its_schema_and_its_type_say(values: list[PairScore], raw: bool) -> None:
    bodies = _bodies(len(values))
    for (route, body), (_, response) in zip(bodies, _rendered(values, raw_scores=raw), strict=True):
        _schema_of(route).validate(json.loads(json.dumps(response)))
        _type_of(type(read_request(route, body))).validate_python(response, strict=True, extra="forbid")


@cache
def _schema_of(route: Route) -> Any:
    return jsonschema_rs.validator_for(answer_schema(route))


@cache
def _type_of(dialect: type[Dialect]) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(dialect.from_result)["return"])


def test_raw_scores_are_log_odds_in_every_dialect_that_knows_them() -> None:
    values = [PairScore(1.0, 40.0), PairScore(1.0, 60.0), PairScore(0.5, 0.0)]
    for options in ({"raw_scores": True}, {"use_activation": False}, {"raw_scores": "true"}):
        response = [response for _, response in _rendered(values, **options)]
        assert [one["relevance_score"] for one in response[0]["results"]] == [60.0, 40.0, 0.0]
        assert response[0]["scores"] == [40.0, 60.0, 0.0]
        assert [one["relevance_score"] for one in response[0]["pairs"]] == [1.0, 1.0, 0.5]
        assert [one["score"] for one in response[1]] == [60.0, 40.0, 0.0]
        assert response[4]["results"][0]["scores"] == [40.0, 60.0, 0.0]
        assert [one["score"] for one in response[6]["data"]] == [40.0, 60.0, 0.0]


def test_without_log_odds_raw_scores_are_rejected_and_log_odds_are_null() -> None:
    values = [PairScore(0.5)]
    (_, response), *_ = _rendered(values)
    assert (response["results"][0]["log_odds"], response["pairs"][0]["log_odds"]) == (None, None)
    with pytest.raises(BodyError, match="raw scores are not available") as caught:
        _rendered(values, raw_scores=True)
    assert caught.value.status == 422


@pytest.mark.parametrize("status", ["disabled", "failed"])
def test_an_answer_without_scores_keeps_the_order_and_says_so(status: str) -> None:
    settings: dict[str, Any] = {"enabled": False} if status == "disabled" else {"on_error": "keep_order"}
    scorer = FakeScorer(error=EngineError("broken"))
    for route, body in _bodies(3):
        dialect = read_request(route, body)
        request = dialect.to_request()
        results = Reranker(scorer=scorer, **settings).rank_many(request.queries, request.documents)
        response = dialect.from_result(Outcome(results, "m", "req-1", 0))
        jsonschema_rs.validator_for(answer_schema(route)).validate(response)
        if dialect.name == "opensearch":  # its scores go by position, and none there means none for the hits
            assert (response["scores"], response["status"]) == ([], status)
            continue
        for entries in _entries(response):
            assert [entry.get("index", place) for place, entry in enumerate(entries)] == [0, 1, 2]
            assert [entry.get("relevance_score", entry.get("score")) for entry in entries] == [None] * 3
        if (
            isinstance(response, dict)
            and ("pairs" in response or "usage" in response)
            and dialect.name
            in {
                "multi_query",
                "cohere",
                "score",
            }
        ):
            assert response["status"] == status


def test_an_answer_is_made_of_what_was_asked_and_changes_none_of_it() -> None:
    body = {"query": QUERY, "documents": [{"text": one} for one in TEXTS], "return_documents": True}
    before = json.dumps(body)
    response = answer(body)
    assert json.dumps(body) == before
    assert [one["document"]["text"] for one in response["results"]] == [TEXTS[2], TEXTS[1], TEXTS[0]]


def test_a_request_answers_any_number_of_outcomes() -> None:
    dialect = read_request(Route.RERANK, {"query": QUERY, "documents": TEXTS})
    outcome = outcome_of(dialect.to_request())
    first, second = (
        dialect.from_result(outcome),
        dialect.from_result(replace(outcome, request_id="req-2")),
    )
    assert (first["id"], second["id"]) == ("req-1", "req-2")
    assert {**first, "id": ""} == {**second, "id": ""}
