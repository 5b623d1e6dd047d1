from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.remote.answers import AnswerError, parse_answer
from qwen_rerank_plugins.remote.dialects import DIALECTS
from qwen_rerank_plugins.types import PairScore

DOCUMENTS = ("zero", "one", "two")
GOOD: dict[str, Any] = {
    "index": 0,
    "relevance_score": 0.75,
    "log_odds": 1.0986122887,
    "truncated": True,
    "query_truncated": False,
    "span": [1, 3],
    "num_tokens": 9,
}


def items_of(dialect: str, scores: list[tuple[Any, Any]]) -> Any:
    """An answer in the form of a dialect, from (index, score)."""
    known = DIALECTS[dialect]
    items = [{"index": index, known.score_key: score} for index, score in scores]
    value = {known.results_keys[0]: items} if known.results_keys else items
    return value if known.answer_key is None else {known.answer_key: value}


def read(dialect: str, value: Any) -> list[PairScore]:
    return list(parse_answer(DIALECTS[dialect], json.dumps(value).encode(), DOCUMENTS).scores)


def refusal(dialect: str, answer: bytes) -> str:
    with pytest.raises(AnswerError) as caught:
        parse_answer(DIALECTS[dialect], answer, DOCUMENTS)
    return str(caught.value)


# Good answers.


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@given(st.permutations([0, 1, 2]))
def test_scores_come_in_the_order_of_the_documents_whatever_the_answer_s(
    dialect: str, order: list[int]
) -> None:
    scores = read(dialect, items_of(dialect, [(index, index / 4) for index in order]))
    log_odds = DIALECTS[dialect].returns_log_odds
    assert [one.log_odds if log_odds else one.relevance_score for one in scores] == [0.0, 0.25, 0.5]
    assert all(one.log_odds is None for one in scores) or log_odds


def test_details_of_our_own_service_are_read() -> None:
    others = [{**GOOD, "index": 1, "span": None}, {**GOOD, "index": 2, "log_odds": None}]
    first, second, third = read("qwen", {"pairs": [GOOD, *others], "results": [], "scores": []})
    assert first == PairScore(0.75, 1.0986122887, truncated=True, span=(1, 3), num_tokens=9)
    assert (second.span, third.log_odds) == (None, None)


@pytest.mark.parametrize("mark", [True, False])
def test_the_mark_of_a_calibrated_answer_is_read_from_our_own_service_alone(*, mark: bool) -> None:
    answer = {"results": [{"index": index, "relevance_score": 0.5} for index in range(3)], "calibrated": mark}
    assert [one.calibrated for one in read("qwen", answer)] == [mark] * 3
    assert [one.calibrated for one in read("cohere", answer)] == [None] * 3
    assert "a value of calibrated that is a string" in refusal(
        "qwen", json.dumps({**answer, "calibrated": "yes"}).encode()
    )


def test_dashscope_s_results_may_be_in_the_output_or_in_the_answer_itself() -> None:
    results = [{"index": index, "relevance_score": 0.5, "document": {"text": "t"}} for index in (2, 0, 1)]
    assert read("dashscope", {"output": {"results": results}, "usage": {}}) == [PairScore(0.5)] * 3
    assert read("dashscope", {"results": results, "object": "list"}) == [PairScore(0.5)] * 3


def test_without_pairs_the_results_count() -> None:
    scores = read("qwen", {"results": [{"index": index, "relevance_score": 0.5} for index in (2, 0, 1)]})
    assert scores == [PairScore(0.5)] * 3


def test_raw_scores_become_probabilities_and_stay_log_odds() -> None:
    scores = read("tei", items_of("tei", [(0, 0), (1, 800.0), (2, -800.0)]))
    assert [one.relevance_score for one in scores] == [0.5, 1.0, 0.0]
    assert [one.log_odds for one in scores] == [0.0, 800.0, -800.0]


@given(st.floats(-40, 40))
def test_the_sigmoid_is_exact(log_odds: float) -> None:
    scores = read("tei", items_of("tei", [(0, log_odds), (1, -log_odds), (2, 0.0)]))
    assert scores[0].relevance_score == pytest.approx(1 / (1 + math.exp(-log_odds)), rel=1e-12)
    assert scores[0].relevance_score + scores[1].relevance_score == pytest.approx(1.0, abs=1e-15)


def test_a_probability_that_misses_its_bounds_by_rounding_is_put_on_them() -> None:
    scores = read("vllm", items_of("vllm", [(0, 1.0000001), (1, -1e-9), (2, 1)]))
    assert [one.relevance_score for one in scores] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("model", "expected"), [("m", "m"), ("", None), (3, None), (None, None), ("x" * 201, None), (["m"], None)]
)
@pytest.mark.parametrize("dialect", ["jina", "dashscope"])
def test_the_model_is_returned_if_it_is_a_name(dialect: str, model: Any, expected: str | None) -> None:
    answer = {**items_of(dialect, [(0, 0.1), (1, 0.1), (2, 0.1)]), "model": model}
    assert parse_answer(DIALECTS[dialect], json.dumps(answer).encode(), DOCUMENTS).model == expected


# Bad answers.


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "holds 0 scores for 3 documents"),
        ([(0, 0.1), (1, 0.1)], "holds 2 scores for 3 documents"),
        ([(0, 0.1), (1, 0.1), (2, 0.1), (2, 0.1)], "holds 4 scores for 3 documents"),
        ([(0, 0.1), (1, 0.1), (1, 0.1)], "holds index 1 twice"),
        ([(0, 0.1), (1, 0.1), (3, 0.1)], "holds index 3, which is not between 0 and 2"),
        ([(0, 0.1), (1, 0.1), (-1, 0.1)], "holds index -1, which"),
        ([(0, 0.1), (1, 0.1), (10**30, 0.1)], "holds index out of any range, which"),
        ([(0, 0.1), (True, 0.1), (2, 0.1)], "an index that is a boolean"),
        ([(0, 0.1), ("1", 0.1), (2, 0.1)], "an index that is a string"),
        ([(0, 0.1), (1.0, 0.1), (2, 0.1)], "an index that is a number, not an integer"),
        ([(0, 0.1), (None, 0.1), (2, 0.1)], "an index that is null"),
        ([(0, 0.1), (1, True), (2, 0.1)], "of document 1 that is a boolean"),
        ([(0, 0.1), (1, "0.1"), (2, 0.1)], "of document 1 that is a string"),
        ([(0, 0.1), (1, None), (2, 0.1)], "of document 1 that is null"),
        ([(0, 0.1), (1, [0.1]), (2, 0.1)], "of document 1 that is a list"),
        ([(0, 0.1), (1, math.nan), (2, 0.1)], "of document 1 that is not finite: nan"),
        ([(0, 0.1), (1, math.inf), (2, 0.1)], "of document 1 that is not finite: inf"),
        ([(0, 0.1), (1, 10**400), (2, 0.1)], "of document 1 that is not finite: inf"),
    ],
)
def test_scores_that_cannot_be_put_to_their_documents_are_refused(
    dialect: str, scores: list[tuple[Any, Any]], message: str
) -> None:
    assert message in refusal(dialect, json.dumps(items_of(dialect, scores)).encode())


@pytest.mark.parametrize("dialect", sorted(name for name in DIALECTS if not DIALECTS[name].returns_log_odds))
@pytest.mark.parametrize("score", [1.01, -0.5, 7.25])
def test_a_raw_score_where_a_probability_belongs_is_refused(dialect: str, score: float) -> None:
    answer = json.dumps(items_of(dialect, [(0, 0.1), (1, score), (2, 0.1)])).encode()
    assert "before the sigmoid" in refusal(dialect, answer)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"<!doctype html><title>502</title>", "is HTML or XML, not JSON"),
        (b'{"results": [', "is not JSON"),
        (b"busy", "is not JSON (Expecting value at character 0)"),
        (b'{"results": "\xff"}', "is not UTF-8"),
        (b"[" * 200_000, "is nested too deeply"),
        (b"9" * 10_000, "holds a number that is too long"),
        (b"null", "is null"),
        (b"3", "is a number"),
        (b'"text"', "is a string"),
    ],
)
def test_what_is_no_answer_is_refused(dialect: str, answer: bytes, message: str) -> None:
    assert message in refusal(dialect, answer)


@pytest.mark.parametrize(
    ("dialect", "value", "message"),
    [
        ("tei", {"results": []}, "is an object, not a list of scores"),
        ("qwen", [], "is a list, not an object with 'results'"),
        ("sglang", {"object": "error", "message": "m"}, "is an object, not a list of scores"),
        ("dashscope", {"code": "Throttling", "message": "m"}, "its keys: 'code', 'message'"),
        ("dashscope", {"output": {"choices": []}}, "has no list 'results'; its keys: 'choices'"),
        ("dashscope", {"output": None, "code": "c"}, "its keys: 'output', 'code'"),
        ("llamacpp", {"error": {"code": 500}}, "its keys: 'error'"),
        ("voyage", {"results": []}, "has no list 'data'; its keys: 'results'"),
        ("cohere", {}, "its keys: none"),
        ("cohere", {"results": None, "message": "x"}, "its keys: 'results', 'message'"),
        ("cohere", {"results": {"0": 0.1}}, "has no list 'results'"),
        ("cohere", {"results": [1, 2, 3]}, "holds a number instead of an object"),
        ("cohere", {"results": [None, 2, 3]}, "holds null instead of an object"),
        ("qwen", {"pairs": [], "status": "failed"}, "its status is 'failed'"),
    ],
)
def test_another_shape_is_refused(dialect: str, value: Any, message: str) -> None:
    assert message in refusal(dialect, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_odds": "1"}, "a log_odds of document 0 that is a string"),
        ({"log_odds": math.inf}, "a log_odds of document 0 that is not finite"),
        ({"truncated": 1}, "a truncated of document 0"),
        ({"query_truncated": None}, "a query_truncated of document 0"),
        ({"span": [1]}, "a span of document 0"),
        ({"span": [2, 1]}, "a span of document 0"),
        ({"span": [0, 5]}, "a span of document 0"),
        ({"span": [-1, 2]}, "a span of document 0"),
        ({"span": [0, True]}, "a span of document 0"),
        ({"span": "0-2"}, "a span of document 0"),
        ({"num_tokens": -1}, "a num_tokens of document 0"),
        ({"num_tokens": 1.5}, "a num_tokens of document 0"),
        ({"warnings": "one"}, "warnings of document 0 that are not a list of strings"),
        ({"warnings": ["one", 2]}, "warnings of document 0 that are not a list of strings"),
    ],
)
def test_details_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    pairs = [{**GOOD, **change}, {**GOOD, "index": 1}, {**GOOD, "index": 2}]
    assert message in refusal("qwen", json.dumps({"pairs": pairs}).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["results", "data", "pairs", "output", "index", "score", "relevance_score", "status"]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_answer_makes_anything_but_scores_or_a_refusal(dialect: str, answer: bytes) -> None:
    try:
        scores = parse_answer(DIALECTS[dialect], answer, DOCUMENTS).scores
    except AnswerError:
        return
    assert len(scores) == len(DOCUMENTS)
    assert all(0 <= one.relevance_score <= 1 for one in scores)
