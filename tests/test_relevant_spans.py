"""Relevant spans of the returned documents, from every kind of scorer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwen_rerank_plugins import (
    InputError,
    InputTypeError,
    OverloadedError,
    PairScore,
    RelevantSpan,
    Reranker,
    RerankResult,
    SpanOptions,
    TextLimits,
)
from qwen_rerank_plugins.ranking import MAX_SCORED_SPANS
from tests.doubles import FakeScorer

CAT = "The cat sleeps. A cat is washed gently!  Dogs bark."
FISH = " \ud83d\r\nFish swim. 猫很喜欢水。\r\n"


def by_length() -> FakeScorer:
    """A scorer for which shorter texts are more relevant."""
    return FakeScorer(lambda request: PairScore.from_log_odds(5.0 - len(request.document) / 4, num_tokens=1))


def texts(result: RerankResult, rank: int = 0) -> list[str]:
    document = result.results[rank].document
    assert isinstance(document, str)
    return [document[span.start : span.end] for span in result.results[rank].spans]


def test_a_returned_document_has_its_best_spans_first() -> None:
    scorer = by_length()
    result = Reranker(scorer=scorer).rank("query", [CAT, FISH], spans=SpanOptions(max_spans=2))
    assert texts(result, 1) == ["Dogs bark.", "The cat sleeps."]
    score = PairScore.from_log_odds(2.5)
    assert result.results[1].spans[0] == RelevantSpan(41, 51, score.relevance_score, 2.5)
    assert texts(result) == ["猫很喜欢水。", "\ud83d\r\nFish swim."]
    assert result.usage.num_pairs == result.usage.num_tokens == 2 + 3 + 2
    assert len(result.scores) == 2


def test_only_returned_documents_are_cut_and_all_their_spans_are_scored_in_one_more_call() -> None:
    scorer = by_length()
    options: dict[str, Any] = {"top_n": 1, "instruction": "mine", "limits": TextLimits(max_length=99)}
    reranker = Reranker(scorer=scorer)
    results = reranker.rank_many(
        ["one", "two"],
        [[CAT, {"text": "A. B c.", "id": 7}], ["Much longer text.", "Yes."]],
        **options,
        priority="background",
        spans=SpanOptions(),
    )
    assert [len(requests) for requests, _ in scorer.calls] == [4, 2]
    assert scorer.priorities == ["background"] * 2
    documents, spans = (requests for requests, _ in scorer.calls)
    assert [(one.query, one.document) for one in spans] == [("one", "A. B c."), ("two", "Yes.")]
    assert {(one.instruction, one.limits) for one in documents + spans} == {
        (options["instruction"], options["limits"])
    }
    assert [[(one.index, len(one.spans)) for one in result.results] for result in results] == [
        [(1, 1)],
        [(1, 1)],
    ]


def test_without_the_option_nothing_more_is_scored() -> None:
    scorer = by_length()
    assert Reranker(scorer=scorer).rank("query", [CAT]).results[0].spans == ()
    assert len(scorer.calls) == 1


def test_the_threshold_is_the_lowest_score_of_a_span_and_goes_before_the_number() -> None:
    reranker = Reranker(scorer=by_length())
    half = PairScore.from_log_odds(2.5).relevance_score
    assert texts(reranker.rank("q", [CAT], spans=SpanOptions(threshold=half))) == ["Dogs bark."]
    assert texts(reranker.rank("q", [CAT], spans=SpanOptions(threshold=1.0))) == []
    assert len(texts(reranker.rank("q", [f"{CAT} " * 9], spans=SpanOptions(max_spans=None)))) == 27


def test_equal_spans_keep_the_order_of_the_text() -> None:
    result = Reranker(scorer=by_length()).rank("q", ["Bb. Cc. Aa."], spans=SpanOptions())
    assert texts(result) == ["Bb.", "Cc.", "Aa."]


@pytest.mark.parametrize("documents", [[], [""], ["  \n"], ["", " \t"]])
def test_blank_documents_have_no_spans(documents: list[str]) -> None:
    result = Reranker(scorer=by_length()).rank("q", documents, spans=SpanOptions())
    assert [one.spans for one in result.results] == [()] * len(documents)


def test_the_number_of_scored_spans_of_one_document_is_bounded() -> None:
    scorer = by_length()
    Reranker(scorer=scorer).rank("q", ["a\n" * 5000], spans=SpanOptions())
    assert len(scorer.calls[1][0]) == MAX_SCORED_SPANS


def test_both_calls_share_the_deadline() -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5), delay_s=0.05)
    Reranker(scorer=scorer).rank("q", [CAT], deadline_s=9.0, spans=SpanOptions())
    first, second = (deadline for _, deadline in scorer.calls)
    assert first == 9.0
    assert second is not None
    assert 8.0 < second <= 8.95
    Reranker(scorer=scorer).rank("q", [CAT], spans=SpanOptions())
    assert scorer.calls[-1][1] is None


def failing_spans(request: Any) -> PairScore:
    if request.document != CAT:
        raise OverloadedError("full")
    return PairScore(0.5)


def test_a_failure_to_score_spans_fails_the_call_as_any_other() -> None:
    with pytest.raises(OverloadedError):
        Reranker(scorer=FakeScorer(failing_spans)).rank("q", [CAT], spans=SpanOptions())
    kept = Reranker(scorer=FakeScorer(failing_spans), on_error="keep_order")
    result = asyncio.run(kept.arank("q", [CAT], spans=SpanOptions()))
    assert (result.status, result.results[0].spans) == ("failed", ())
    disabled = Reranker(scorer=FakeScorer(failing_spans), enabled=False).rank("q", [CAT], spans=SpanOptions())
    assert (disabled.status, disabled.results[0].spans) == ("disabled", ())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unit": "word"}, InputError, '`unit` must be "sentence" or "passage", got \'word\''),
        ({"unit": []}, InputError, "`unit`"),
        ({"max_spans": 0}, InputError, "`max_spans` must be at least 1, got 0"),
        ({"max_spans": 1.0}, InputTypeError, "`max_spans` must be an integer or None, got 1.0"),
        ({"max_spans": True}, InputTypeError, "`max_spans`"),
        ({"threshold": 1.01}, InputError, "`threshold` must be from 0 to 1, got 1.01"),
        ({"threshold": -0.01}, InputError, "`threshold`"),
        ({"threshold": float("nan")}, InputError, "`threshold`"),
        ({"threshold": "0.5"}, InputTypeError, "`threshold` must be a number or None, got '0.5'"),
    ],
)
def test_invalid_options_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        SpanOptions(**options)
    assert type(caught.value) is error
    assert message in str(caught.value)


def test_anything_but_options_is_refused() -> None:
    wrong: Any = {"unit": "sentence"}
    with pytest.raises(InputTypeError, match="`spans` must be `SpanOptions` or None, got dict"):
        Reranker(backend="lexical").rank("q", ["d"], spans=wrong)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (SpanOptions(unit="sentence", max_spans=1), "A cat is washed gently!"),
        (SpanOptions(unit="passage", max_spans=1), CAT),
    ],
)
def test_the_weightless_scorer_finds_the_part_with_the_query_s_words(
    options: SpanOptions, found: str
) -> None:
    reranker = Reranker(backend="lexical")
    result = reranker.rank("cat washed", [CAT], spans=options)
    assert texts(result) == [found]
    assert asyncio.run(reranker.arank("cat washed", [CAT], spans=options)) == result
