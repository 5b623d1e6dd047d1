from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import (
    ClosedError,
    ConfigurationError,
    EngineError,
    EngineOutOfMemoryError,
    InputError,
    InputTypeError,
    NonFiniteScoreError,
    OverloadedError,
    PairScore,
    Reranker,
    RerankError,
    TextLimits,
)
from tests.doubles import FakeScorer


def _indices(reranker: Reranker, documents: Sequence[Any], **options: Any) -> list[int]:
    return [one.index for one in reranker.rank("query", documents, **options).results]


# Ranking.


def test_documents_come_best_first_with_everything_that_the_scorer_returned() -> None:
    detailed = PairScore(
        0.9, 2.0, truncated=True, query_truncated=True, span=(1, 4), num_tokens=7, cached=True
    )
    scorer = FakeScorer(
        lambda request: detailed if request.document == "b" else PairScore(0.1, -2.0, num_tokens=3)
    )
    result = Reranker(scorer=scorer).rank("query", ["a", "b"])
    first = result.results[0]
    assert (first.index, first.document, first.relevance_score, first.log_odds) == (1, "b", 0.9, 2.0)
    assert (first.truncated, first.query_truncated, first.span) == (True, True, (1, 4))
    assert (result.query, result.model, result.status, result.error) == ("query", "fake", "ranked", None)
    assert (result.usage.num_pairs, result.usage.num_tokens, result.usage.num_cached_pairs) == (2, 10, 1)
    assert [score.relevance_score for score in result.scores] == [0.1, 0.9]


def test_the_threshold_goes_before_the_cut_and_both_leave_the_scores_whole() -> None:
    reranker = Reranker(scorer=FakeScorer())
    documents = ["0.1", "0.9", "0.5", "0.7"]
    assert _indices(reranker, documents, min_score=0.5) == [1, 3, 2]
    assert _indices(reranker, documents, min_score=0.5, top_n=2) == [1, 3]
    assert _indices(reranker, documents, min_score=0.95) == []
    assert len(reranker.rank("query", documents, min_score=0.95).scores) == 4


def test_saturated_probabilities_are_ordered_by_their_log_odds() -> None:
    scorer = FakeScorer(lambda request: PairScore(1.0, float(request.document)))
    assert _indices(Reranker(scorer=scorer), ["40.0", "60.0", "50.0"]) == [1, 2, 0]


def test_probabilities_are_sorted_when_a_score_has_no_log_odds() -> None:
    scores = {"a": PairScore(0.2, 9.0), "b": PairScore(0.8), "c": PairScore(0.5, -9.0)}
    reranker = Reranker(scorer=FakeScorer(lambda request: scores[request.document]))
    assert _indices(reranker, ["a", "b", "c"]) == [1, 2, 0]


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=12),
    st.none() | st.integers(1, 14),
    st.none() | st.sampled_from([0.0, 0.25, 0.3, 1.0]),
)
def test_a_ranking_is_the_stable_order_of_its_scores_then_threshold_then_cut(
    values: list[float], top_n: int | None, min_score: float | None
) -> None:
    documents = [{"text": str(value)} for value in values]
    result = Reranker(scorer=FakeScorer()).rank("query", documents, top_n=top_n, min_score=min_score)
    whole = sorted(range(len(values)), key=lambda index: (-values[index], index))
    kept = [index for index in whole if min_score is None or values[index] >= min_score]
    assert [one.index for one in result.results] == kept[:top_n]
    assert all(one.document is documents[one.index] for one in result.results)
    assert [one.relevance_score for one in result.results] == [values[index] for index in kept[:top_n]]


def test_options_come_from_the_configuration_unless_the_call_says_otherwise() -> None:
    scorer = FakeScorer()
    reranker = Reranker(scorer=scorer, top_n=1, min_score=0.5, instruction="mine", deadline_s=3.0)
    assert _indices(reranker, ["0.6", "0.7", "0.2"]) == [1]
    assert _indices(reranker, ["0.6", "0.7", "0.2"], top_n=None, min_score=None) == [1, 0, 2]
    reranker.rank("query", ["0.1"], instruction="theirs", deadline_s=9.0)
    assert [(calls[0].instruction, deadline) for calls, deadline in scorer.calls] == [
        ("mine", 3.0),
        ("mine", 3.0),
        ("theirs", 9.0),
    ]


def test_a_result_has_each_warning_of_its_scores_once_and_a_document_its_own() -> None:
    warnings = {"0.1": ("first", "second"), "0.9": (), "0.5": ("second", "third")}
    scorer = FakeScorer(
        lambda request: PairScore(float(request.document), warnings=warnings[request.document])
    )
    result = Reranker(scorer=scorer).rank("query", list(warnings), top_n=2)
    assert result.warnings == ("first", "second", "third")
    assert [document.warnings for document in result.results] == [(), ("second", "third")]
    assert Reranker(scorer=scorer, enabled=False).rank("query", ["0.1"]).results[0].warnings == ()


def test_the_scorer_gets_the_priority_of_the_call() -> None:
    scorer = FakeScorer()
    reranker = Reranker(scorer=scorer)
    reranker.rank("query", ["0.1"])
    reranker.rank("query", ["0.1"], priority="background")
    asyncio.run(reranker.arank("query", ["0.1"], priority="background"))
    reranker.rank_many(["query"], [["0.1"]], priority="background")
    assert scorer.priorities == ["interactive", "background", "background", "background"]


def test_the_scorer_gets_the_limits_of_the_call() -> None:
    scorer = FakeScorer()
    reranker, limits = Reranker(scorer=scorer), TextLimits(max_document_tokens=3)
    reranker.rank("query", ["0.1"], limits=limits)
    asyncio.run(reranker.arank("query", ["0.1"], limits=limits))
    reranker.rank_many(["query"], [["0.1"]])
    assert [requests[0].limits for requests, _ in scorer.calls] == [limits, limits, None]


def test_mappings_are_scored_by_their_text_and_returned_unchanged() -> None:
    documents: list[dict[str, Any]] = [{"text": "0.1", "id": 7}, {"text": "0.9", "meta": {"a": [1]}}]
    before = copy.deepcopy(documents)
    result = Reranker(scorer=FakeScorer()).rank("query", documents)
    assert result.results[0].document is documents[1]
    assert documents == before


def test_a_result_is_read_as_the_sequence_of_its_ranked_documents() -> None:
    """`for ranked in result` and `result[0]` are what one tries first."""
    result = Reranker(scorer=FakeScorer()).rank("query", ["0.1", {"text": "0.9"}, "0.5"])
    assert tuple(result) == result.results == result[:]
    assert (len(result), result[0], result[-1]) == (3, result.results[0], result.results[2])
    assert [ranked.text for ranked in result] == ["0.9", "0.5", "0.1"]
    with pytest.raises(IndexError):
        result[3]


def test_documents_may_come_from_a_generator() -> None:
    assert _indices(Reranker(scorer=FakeScorer()), (str(n / 10) for n in range(3))) == [2, 1, 0]  # type: ignore[arg-type]


def test_no_documents_are_an_empty_result_without_a_call_to_the_scorer() -> None:
    scorer = FakeScorer(error=EngineError("must not be asked"))
    reranker = Reranker(scorer=scorer)
    result = reranker.rank("query", [])
    assert (result.results, result.scores, result.status) == ((), (), "ranked")
    assert (reranker.score("query", []), reranker.score_pairs([]), reranker.rank_many([], [])) == ([], [], [])
    assert scorer.calls == []


def test_empty_documents_and_lone_surrogates_reach_the_scorer() -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5))
    Reranker(scorer=scorer).rank("lone \ud800", ["", {"text": "\udfff"}])
    assert [request.document for request in scorer.calls[0][0]] == ["", "\udfff"]


def test_several_lists_are_ranked_in_one_call_to_the_scorer() -> None:
    scorer = FakeScorer()
    results = Reranker(scorer=scorer).rank_many(["a", "b", "c"], [["0.1", "0.2"], [], ["0.3"]], top_n=1)
    assert [[(one.index, one.relevance_score) for one in result.results] for result in results] == [
        [(1, 0.2)],
        [],
        [(0, 0.3)],
    ]
    assert [[score.relevance_score for score in result.scores] for result in results] == [
        [0.1, 0.2],
        [],
        [0.3],
    ]
    assert [result.query for result in results] == ["a", "b", "c"]
    assert [result.usage.num_pairs for result in results] == [2, 0, 1]
    assert [(request.query, request.document) for request in scorer.calls[0][0]] == [
        ("a", "0.1"),
        ("a", "0.2"),
        ("c", "0.3"),
    ]
    assert len(scorer.calls) == 1


def test_scores_come_in_input_order() -> None:
    reranker = Reranker(scorer=FakeScorer())
    assert reranker.score("query", ["0.1", {"text": "0.9"}, "0.5"]) == [0.1, 0.9, 0.5]
    assert reranker.score_pairs([("a", "0.1"), ("b", {"text": "0.9"})]) == [0.1, 0.9]


async def _asynchronously(reranker: Reranker) -> list[Any]:
    return [
        [one.index for one in (await reranker.arank("query", ["0.1", "0.9"], top_n=1)).results],
        await reranker.ascore("query", ["0.1", "0.9"]),
        await reranker.ascore_pairs([("a", "0.3")]),
        [len(result.results) for result in await reranker.arank_many(["a", "b"], [["0.1"], []])],
    ]


def test_the_asynchronous_calls_return_the_same() -> None:
    assert asyncio.run(_asynchronously(Reranker(scorer=FakeScorer()))) == [[1], [0.1, 0.9], [0.3], [1, 0]]


# Bad input.


@pytest.mark.parametrize(
    ("query", "documents", "options", "error", "message"),
    [
        ("", ["0.1"], {}, InputError, "`query` must not be blank, got ''"),
        (" \t\u3000\n", ["0.1"], {}, InputError, "`query` must not be blank"),
        ("", [], {}, InputError, "`query` must not be blank"),
        (3, ["0.1"], {}, InputTypeError, "`query` must be a string, got int"),
        (None, ["0.1"], {}, InputTypeError, "`query` must be a string, got NoneType"),
        ("q", "0.1", {}, InputTypeError, "`documents` must be a list of strings or mappings, got str"),
        ("q", b"0.1", {}, InputTypeError, "`documents` must be a list of .*, got bytes"),
        ("q", {"text": "0.1"}, {}, InputTypeError, "`documents` must be a list of .*, got dict"),
        ("q", None, {}, InputTypeError, "`documents` must be a list of .*, got NoneType"),
        (
            "q",
            ["0.1", 3],
            {},
            InputTypeError,
            r"`documents\[1\]` must be a string or a mapping with 'text', got int",
        ),
        ("q", ["0.1", {"body": "x"}], {}, InputTypeError, r"`documents\[1\]` has no 'text'; pass"),
        (
            "q",
            [{"text": None}],
            {},
            InputTypeError,
            r"`documents\[0\]\['text'\]` must be a string, got NoneType",
        ),
        ("q", ["0.1"], {"top_n": 0}, InputError, "`top_n` must be at least 1, got 0"),
        ("q", ["0.1"], {"top_n": -1}, InputError, "`top_n` must be at least 1, got -1"),
        ("q", ["0.1"], {"top_n": True}, InputTypeError, "`top_n` must be an integer or None, got True"),
        ("q", ["0.1"], {"top_n": 1.0}, InputTypeError, "`top_n` must be an integer or None, got 1.0"),
        (
            "q",
            ["0.1"],
            {"priority": "low"},
            InputError,
            '`priority` must be "interactive" or "background", got \'low\'',
        ),
        (
            "q",
            ["0.1"],
            {"limits": {"max_length": 5}},
            InputTypeError,
            "`limits` must be `TextLimits` or None, got dict",
        ),
        ("q", ["0.1"], {"min_score": math.nan}, InputError, "`min_score` must be from 0 to 1, got nan"),
        ("q", ["0.1"], {"min_score": 1.5}, InputError, "`min_score` must be from 0 to 1, got 1.5"),
        (
            "q",
            ["0.1"],
            {"min_score": "0.5"},
            InputTypeError,
            "`min_score` must be a number or None, got '0.5'",
        ),
        (
            "q",
            ["0.1"],
            {"min_score": False},
            InputTypeError,
            "`min_score` must be a number or None, got False",
        ),
        ("q", ["0.1"], {"deadline_s": 0}, InputError, "`deadline_s` must be greater than 0, got 0"),
        ("q", ["0.1"], {"deadline_s": math.nan}, InputError, "`deadline_s` must be greater than 0, got nan"),
        (
            "q",
            ["0.1"],
            {"deadline_s": "1"},
            InputTypeError,
            "`deadline_s` must be a number of seconds or None, got '1'",
        ),
        ("q", ["0.1"], {"min_score": 0.5j}, InputTypeError, "`min_score` must be a number or None"),
        ("q", ["0.1"], {"deadline_s": Decimal("sNaN")}, InputTypeError, "`deadline_s` must be a number of"),
        ("q", ["0.1"], {"deadline_s": Decimal(0)}, InputError, "`deadline_s` must be greater than 0"),
        ("q", ["0.1"], {"instruction": 3}, InputTypeError, "`instruction` must be a string or None, got int"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "keep_order"])
def test_bad_input_is_refused_before_the_scorer_is_asked(
    query: Any, documents: Any, options: dict[str, Any], error: type[Exception], message: str, on_error: Any
) -> None:
    scorer = FakeScorer()
    with pytest.raises(error, match=message):
        Reranker(scorer=scorer, on_error=on_error).rank(query, documents, **options)
    assert scorer.calls == []


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("ab", r"`pairs` must be a list of \(query, document\), got str"),
        ({"a": "b"}, "`pairs` must be a list of .*, got dict"),
        (3, "`pairs` must be a list of .*, got int"),
        (["ab"], r"`pairs\[0\]` must be a pair \(query, document\), got str"),
        ([("a", "0.1"), ("a",)], r"`pairs\[1\]` must be a pair .*, got tuple"),
        ([("a", 1)], r"`pairs\[0\]\[1\]` must be a string or a mapping .*, got int"),
        ([(None, "0.1")], r"`pairs\[0\]\[0\]` must be a string, got NoneType"),
        ([(" ", "0.1")], r"`pairs\[0\]\[0\]` must not be blank"),
    ],
)
def test_a_bad_pair_is_refused_by_its_index(pairs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reranker(scorer=FakeScorer()).score_pairs(pairs)


@pytest.mark.parametrize(
    ("queries", "lists", "message"),
    [
        (["a"], [[], []], "must have one list per query, got 1 queries and 2 lists"),
        ("ab", [[], []], "`queries` must be a list, got str"),
        (["a", "b"], "ab", "`documents_per_query` must be a list, got str"),
        (["a", " "], [[], []], r"`queries\[1\]` must not be blank"),
        (["a", "b"], [[], [3]], r"`documents_per_query\[1\]\[0\]` must be a string or .*, got int"),
    ],
)
def test_bad_lists_are_refused_by_their_index(queries: Any, lists: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reranker(scorer=FakeScorer()).rank_many(queries, lists)


# Failure.


@pytest.mark.parametrize("score", [PairScore(math.nan), PairScore(math.inf), PairScore(0.5, math.nan)])
def test_a_score_that_is_not_finite_is_never_sorted(score: PairScore) -> None:
    reranker = Reranker(scorer=FakeScorer(lambda _: score))
    with pytest.raises(NonFiniteScoreError, match="score of pair 0"):
        reranker.rank("query", ["a", "b"])


@pytest.mark.parametrize("given", [0, 1, 3])
def test_a_scorer_that_returns_another_number_of_scores_is_an_error(given: int) -> None:
    scorer = FakeScorer()
    scorer.score = lambda *_, **__: [PairScore(0.5)] * given  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=f"returned {given} scores for 2 pairs"):
        Reranker(scorer=scorer).rank("query", ["a", "b"])


@pytest.mark.parametrize(
    "error", [OverloadedError("full"), EngineOutOfMemoryError("no memory"), ClosedError("x")]
)
def test_failed_scoring_raises_or_keeps_the_original_order_as_configured(
    error: RerankError, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(type(error)):
        Reranker(scorer=FakeScorer(error=error)).rank("query", ["0.1"])
    reranker = Reranker(scorer=FakeScorer(error=error), on_error="keep_order", top_n=2, min_score=0.9)
    with caplog.at_level(logging.WARNING):
        result = reranker.rank("a secret query", ["x", "y", "z"])
    assert [(one.index, one.document, one.relevance_score) for one in result.results] == [
        (0, "x", None),
        (1, "y", None),
    ]
    assert (result.status, result.scores) == ("failed", ())
    assert result.error == f"{type(error).__name__}: {error}"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "secret" not in caplog.text
    assert type(error).__name__ in caplog.text


def test_failed_scoring_keeps_the_original_order_asynchronously_and_of_every_list() -> None:
    reranker = Reranker(scorer=FakeScorer(error=EngineError("x")), on_error="keep_order")
    results = asyncio.run(reranker.arank_many(["a", "b"], [["1"], ["2", "3"]]))
    assert [(result.status, len(result.results)) for result in results] == [("failed", 1), ("failed", 2)]


@pytest.mark.parametrize("error", [ConfigurationError("x"), InputError("x"), ZeroDivisionError("x")])
def test_mistakes_and_defects_are_raised_even_where_failures_are_survived(error: Exception) -> None:
    with pytest.raises(type(error)):
        Reranker(scorer=FakeScorer(error=error), on_error="keep_order").rank("query", ["0.1"])


def test_scores_are_never_made_up() -> None:
    failing = Reranker(scorer=FakeScorer(error=EngineError("x")), on_error="keep_order")
    disabled = Reranker(scorer=FakeScorer(), enabled=False)
    for reranker, error in ((failing, EngineError), (disabled, ConfigurationError)):
        with pytest.raises(error):
            reranker.score("query", ["0.1"])
        with pytest.raises(error):
            reranker.score_pairs([("query", "0.1")])
        with pytest.raises(error):
            asyncio.run(reranker.ascore("query", ["0.1"]))


def test_disabled_it_keeps_the_original_order_and_logs_that_once(caplog: pytest.LogCaptureFixture) -> None:
    scorer = FakeScorer()
    reranker = Reranker(scorer=scorer, enabled=False, top_n=1, min_score=0.9)
    with caplog.at_level(logging.WARNING):
        results = [
            reranker.rank("query", ["0.1", "0.2"]),
            asyncio.run(reranker.arank("query", ["0.1", "0.2"])),
        ]
    for result in results:
        assert [(one.index, one.relevance_score) for one in result.results] == [(0, None)]
        assert (result.status, result.error, result.scores) == ("disabled", None, ())
    assert len(caplog.records) == 1
    assert scorer.calls == []
