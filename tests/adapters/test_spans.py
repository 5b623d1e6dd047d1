"""Relevant spans of a document's own content, and the shorter text that consists of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import (
    ConfigurationError,
    PairScore,
    RankedDocument,
    RelevantSpan,
    Reranker,
    SpanOptions,
)
from qwen_rerank_plugins.adapters import (
    GAP,
    Excerpt,
    SpanParameters,
    check_span_parameters,
    clipped,
    reranked_metadata,
)
from qwen_rerank_plugins.segmentation import segment
from tests.core.texts import NASTY

FIVE = "One fox runs. Two cats sleep. A whale sings. Four dogs bark.\n\nFive birds fly."


def spans_of(text: str, *words: str) -> tuple[RelevantSpan, ...]:
    """The sentences with these words, in this order."""
    found = [next(span for span in segment(text, "sentence") if word in text[slice(*span)]) for word in words]
    return tuple(RelevantSpan(*span, 0.9, 2.0) for span in found)


def excerpt(parameters: SpanParameters, spans: tuple[RelevantSpan, ...], *, offset: int = 0) -> Excerpt:
    ranked = RankedDocument(0, "", PairScore(0.5, 0.0), spans)
    found = parameters.excerpt(ranked, FIVE, lambda span: clipped(span, offset))
    assert found is not None
    return found


def test_nothing_is_requested_by_default() -> None:
    parameters = SpanParameters()
    assert parameters.requested_spans is None
    assert parameters.excerpt(RankedDocument(0, "", PairScore(0.5)), FIVE, lambda span: span) is None


def test_all_spans_are_requested_since_those_of_metadata_are_dropped_before_the_best_are_chosen() -> None:
    options = SpanOptions(unit="passage", max_spans=2, threshold=0.25, max_scored=10)
    assert SpanParameters(spans=options).requested_spans == SpanOptions("passage", None, 0.25, 10)
    assert SpanParameters(compress="spans").requested_spans == SpanOptions(max_spans=None)


def test_spans_are_those_of_the_content_without_the_metadata_before_it() -> None:
    prefix = "title: Whales and cats\n\n"
    shifted = [
        RelevantSpan(0, len(prefix) - 2, 0.99, 5.0),  # the metadata
        RelevantSpan(len(prefix) - 4, len(prefix) + 13, 0.9, 2.0),  # begins in the metadata
        RelevantSpan(len(prefix) + 14, len(prefix) + 29, 0.8, 1.0),
        RelevantSpan(len(prefix) + 30, len(prefix) + 44, 0.7, 0.5),
    ]
    parameters = SpanParameters(spans=SpanOptions(max_spans=2))
    found = excerpt(parameters, tuple(shifted), offset=len(prefix))
    assert found == Excerpt((RelevantSpan(0, 13, 0.9, 2.0), RelevantSpan(14, 29, 0.8, 1.0)))


@pytest.mark.parametrize(
    ("words", "context", "text"),
    [
        (["whale"], 0, "[…] A whale sings. […]"),
        (["whale"], 1, "[…] Two cats sleep. A whale sings. Four dogs bark. […]"),
        (["birds", "fox"], 0, "One fox runs. […] Five birds fly."),
        (["fox"], 1, "One fox runs. Two cats sleep. […]"),
        (["birds"], 1, "[…] Four dogs bark.\n\nFive birds fly."),
        (["dogs", "cats"], 0, "[…] Two cats sleep. […] Four dogs bark. […]"),
    ],
)
def test_the_text_is_shortened_to_spans_and_neighbours_in_their_order(
    words: list[str], context: int, text: str
) -> None:
    parameters = SpanParameters(compress="spans", context=context)
    found = excerpt(parameters, spans_of(FIVE, *words))
    assert found.text == text
    assert [FIVE[slice(*part)] for part in found.kept] == [
        part.strip() for part in text.split(GAP) if part.strip()
    ]
    assert [FIVE[one.start : one.end] for one in found.spans] == [
        FIVE[one.start : one.end] for one in spans_of(FIVE, *words)
    ]


@pytest.mark.parametrize(
    ("words", "context"),
    [(["whale"], 2), (["whale"], 100), (["fox", "cats", "whale", "dogs", "birds"], 0), ([], 0)],
)
def test_a_text_of_which_nothing_can_be_left_out_stays_as_it_is(words: list[str], context: int) -> None:
    """Without a relevant span too: the document was ranked, so it is not emptied."""
    spans = spans_of(FIVE, *words)
    parameters = SpanParameters(spans=SpanOptions(max_spans=None), compress="spans", context=context)
    assert excerpt(parameters, spans) == Excerpt(spans)


@given(
    text=st.one_of(
        st.sampled_from(NASTY),
        st.text(),
        st.lists(st.sampled_from(["Ab cd. ", "\r\n", "é\u0301 ", "水。", "- x\n"])).map("".join),
    ),
    chosen=st.sets(st.integers(0, 8)),
    context=st.integers(0, 2),
    unit=st.sampled_from(["sentence", "passage"]),
)
def test_every_part_is_text_of_the_document_and_every_span_is_kept(
    text: str, chosen: set[int], context: int, unit: Any
) -> None:
    spans = [RelevantSpan(*span, 0.5) for n, span in enumerate(segment(text, unit)) if n in chosen]
    ranked = RankedDocument(0, text, PairScore(0.5), tuple(spans))
    parameters = SpanParameters(
        spans=SpanOptions(unit=unit, max_spans=None), compress="spans", context=context
    )
    found = parameters.excerpt(ranked, text, lambda span: span)
    assert found is not None
    assert list(found.spans) == spans
    if found.text is not None:
        assert len(found.text) < len(text)
        rest = found.text
        for start, end in found.kept:
            before, part, rest = rest.partition(text[start:end])
            assert (part, before.strip() in {"", GAP}) == (text[start:end], True)
        assert rest.strip() in {"", GAP}
        assert all(any(start <= one.start and one.end <= end for start, end in found.kept) for one in spans)


def test_the_metadata_have_the_spans_and_what_was_left_out() -> None:
    ranked = RankedDocument(0, FIVE, PairScore(0.5), spans_of(FIVE, "whale"))
    found = excerpt(SpanParameters(compress="spans", context=0), ranked.spans)
    result = Reranker(backend="lexical").rank("whale", [FIVE])
    metadata = reranked_metadata(
        {"page": 3}, ranked, result, content=FIVE, offset=0, first_stage_score=None, excerpt=found
    )
    assert metadata == {
        "page": 3,
        "rerank_spans": [{"start": 30, "end": 44, "relevance_score": 0.9, "log_odds": 2.0}],
        "rerank_original_content": FIVE,
        "rerank_kept_spans": [[30, 44]],
    }
    again = reranked_metadata(metadata, ranked, result, content="short", offset=0, first_stage_score=None)
    assert again == {name: value for name, value in metadata.items() if name != "rerank_spans"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"compress": "words"}, "compress is not valid: 'words'"),
        ({"context": -1}, "context is not valid: -1"),
        ({"context": True}, "context is not valid: True"),
        ({"context": 1.5}, "context is not valid: 1.5"),
        ({"spans": 3}, "spans is not valid: 3"),
        ({"spans": {"max_spans": 0}}, "`max_spans` must be at least 1, got 0"),
        ({"spans": {"units": "word"}}, "unknown: 'units'; pass unit, max_spans, threshold, max_scored"),
    ],
)
def test_wrong_parameters_are_refused_by_name(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_span_parameters(**parameters)
    assert message in str(caught.value)
