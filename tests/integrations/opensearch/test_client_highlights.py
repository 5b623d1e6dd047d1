"""Highlights of reranked hits: which texts are cut and scored, what a hit and a response have, and failures."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opensearch_qwen_rerank.client import (
    AsyncClientSideReranker,
    ClientSideReranker,
    LinearFusion,
    RankFusion,
)

from qwen_rerank_plugins import ConfigurationError, EngineError, InputError, PairScore, Reranker, SpanOptions
from tests.doubles import FakeScorer
from tests.integrations.opensearch.client_doubles import (
    FakeAsyncClient,
    FakeClient,
    client_side,
    hit,
    ids,
    response_of,
    words_scorer,
)

Rerank = Callable[..., dict[str, Any]]

CATS = "Dr. Li has two cats. A cat is washed in lukewarm water. Dogs bark."
WASHED = "A cat is washed in lukewarm water."
HITS = [
    hit("dogs", "Dogs bark. They bark at night.", 3.0),
    hit("cats", CATS, 2.0),
    hit("none", None, 1.5),
    hit("water", "Water boils. Wash hands in warm water.", 1.0),
]
QUERY = "how is a cat washed in water"


def blocking(response: dict[str, Any], query: str, *, scorer: Any = None, **settings: Any) -> dict[str, Any]:
    page = {name: settings.pop(name) for name in ("from_", "size", "deadline_s") if name in settings}
    return client_side(None, scorer, settings.pop("config", None), **settings).rerank(response, query, **page)


def awaited(response: dict[str, Any], query: str, *, scorer: Any = None, **settings: Any) -> dict[str, Any]:
    page = {name: settings.pop(name) for name in ("from_", "size", "deadline_s") if name in settings}
    if not {"fields", "template", "text_of"} & settings.keys():
        settings["fields"] = ["body"]

    async def run() -> dict[str, Any]:
        ready = Reranker(scorer=scorer or FakeScorer(), **settings.pop("config", {}))
        async with AsyncClientSideReranker(reranker=ready, **settings) as one:
            return await one.rerank(response, query, **page)

    return asyncio.run(run())


both = pytest.mark.parametrize("rerank", [blocking, awaited])


class FailsSecond(FakeScorer):
    """Scores the first call, and fails after it."""

    def score(self, requests: Any, **options: Any) -> list[PairScore]:
        scores = super().score(requests, **options)
        if len(self.calls) > 1:
            raise EngineError("broken")
        return scores


def marks(response: dict[str, Any]) -> list[Any]:
    """The spans of each hit; None for a hit without the key."""
    return [one["rerank"].get("spans") for one in response["hits"]["hits"]]


def highlights(response: dict[str, Any]) -> list[Any]:
    return [one.get("highlight") for one in response["hits"]["hits"]]


def test_hits_have_their_best_sentences_as_the_cluster_writes_highlights() -> None:
    with ClientSideReranker(
        fields=["body"], backend="lexical", highlight=SpanOptions(max_spans=1)
    ) as reranker:
        found = reranker.rerank(response_of(HITS), QUERY)
        alone = reranker.reranker.rank(QUERY, [WASHED]).results[0]
    assert ids(found) == ["cats", "water", "dogs", "none"]
    assert highlights(found)[:2] == [
        {"body": [f"<em>{WASHED}</em>"]},
        {"body": ["<em>Wash hands in warm water.</em>"]},
    ]
    start = CATS.index(WASHED)
    assert marks(found)[0] == [
        {
            "field": "body",
            "start": start,
            "end": start + len(WASHED),
            "relevance_score": alone.relevance_score,
            "log_odds": alone.log_odds,
        }
    ]
    assert (highlights(found)[3], marks(found)[3]) == (None, None)  # not scored
    assert found["rerank"]["status"] == "ranked"
    assert "highlight_error" not in found["rerank"]


@both
def test_spans_of_the_page_are_scored_in_one_call_with_what_is_left_of_the_deadline(rerank: Rerank) -> None:
    scorer = words_scorer(cat=0.9, bark=0.5, water=0.3)
    scorer._delay_s = 0.05
    found = rerank(
        response_of(HITS), QUERY, scorer=scorer, highlight=SpanOptions(), size=2, config={"deadline_s": 9.0}
    )
    assert ids(found) == ["cats", "dogs"]
    (documents, first_s), (spans, second_s) = scorer.calls
    assert len(documents) == 3
    assert [one.document for one in spans] == [
        *("Dr. Li has two cats.", WASHED, "Dogs bark."),
        *("Dogs bark.", "They bark at night."),
    ]
    assert first_s == 9.0
    assert second_s is not None
    assert 8.0 < second_s <= 8.95
    assert found["rerank"]["took_ms"] >= 100.0


def test_a_calls_deadline_and_instruction_hold_for_the_spans() -> None:
    scorer = words_scorer(cat=0.9)
    scorer._delay_s = 0.02
    client_side(scorer=scorer, highlight=SpanOptions()).rerank(
        response_of(HITS), QUERY, deadline_s=0.01, instruction="mine"
    )
    (_, first_s), (spans, second_s) = scorer.calls
    assert (first_s, {one.instruction for one in spans}) == (0.01, {"mine"})
    assert second_s == 0.001  # it is over: the scorer refuses, not the check of the call's options


@both
def test_without_highlight_nothing_more_is_scored(rerank: Rerank) -> None:
    scorer = words_scorer(cat=0.9)
    found = rerank(response_of(HITS), QUERY, scorer=scorer)
    assert len(scorer.calls) == 1
    assert marks(found) == highlights(found) == [None] * 4


@both
def test_best_first_within_a_hit_and_equal_ones_in_the_order_of_the_text(rerank: Rerank) -> None:
    text = "Fair one. Poor one. Good one. Fair two."
    scorer = words_scorer(Fair=0.5, Good=0.9, Poor=0.1)
    found = rerank(response_of([hit("a", text)]), "q", scorer=scorer, highlight=SpanOptions(max_spans=3))
    assert highlights(found) == [{"body": ["<em>Good one.</em>", "<em>Fair one.</em>", "<em>Fair two.</em>"]}]
    assert [one["relevance_score"] for one in marks(found)[0]] == [0.9, 0.5, 0.5]
    assert "log_odds" not in marks(found)[0][0]  # the double's scores have none


def test_the_second_page_has_highlights_of_its_own_hits() -> None:
    client = FakeClient(HITS)
    scorer = words_scorer(cat=0.9, bark=0.5, water=0.3)
    reranker = client_side(client, scorer, window=10, highlight=SpanOptions(max_spans=1))
    found = reranker.search({"from": 1, "size": 2}, query=QUERY)
    assert ids(found) == ["dogs", "water"]
    assert highlights(found) == [
        {"body": ["<em>Dogs bark.</em>"]},
        {"body": ["<em>Wash hands in warm water.</em>"]},
    ]
    last = reranker.search({"from": 3, "size": 2}, query=QUERY)
    assert (ids(last), marks(last)) == (["none"], [None])
    assert len(scorer.calls) == 3  # the last page has nothing to highlight


def test_an_asynchronous_search_highlights_too() -> None:
    async def run() -> dict[str, Any]:
        client = FakeAsyncClient(HITS)
        async with AsyncClientSideReranker(
            client, fields=["body"], backend="lexical", highlight={"max_spans": 1}
        ) as one:
            return await one.search({"size": 1}, query=QUERY)

    assert highlights(asyncio.run(run())) == [{"body": [f"<em>{WASHED}</em>"]}]


@pytest.mark.parametrize(
    ("config", "size", "shown"), [({"top_n": 1}, None, 1), ({"min_score": 0.4}, None, 2), ({}, 0, 0)]
)
def test_hits_that_are_cut_are_not_highlighted(config: dict[str, Any], size: int | None, shown: int) -> None:
    scorer = words_scorer(cat=0.9, bark=0.5, water=0.3)
    found = client_side(scorer=scorer, config=config, highlight=SpanOptions()).rerank(
        response_of(HITS), QUERY, size=size
    )
    assert len(ids(found)) == len(marks(found)) == shown
    assert len(scorer.calls) == (2 if shown else 1)
    assert sum(len(calls) for calls, _ in scorer.calls[1:]) == [0, 3, 5][shown]


@pytest.mark.parametrize("fusion", [LinearFusion(weight=0.0), RankFusion(k=1)])
def test_fused_hits_have_highlights_of_their_own_texts(fusion: Any) -> None:
    scorer = words_scorer(washed=0.9, bark=0.5, water=0.3)
    found = client_side(scorer=scorer, fusion=fusion, highlight=SpanOptions(max_spans=1)).rerank(
        response_of(HITS), QUERY
    )
    shown = dict(zip(ids(found), highlights(found), strict=True))
    assert shown == {
        "dogs": {"body": ["<em>Dogs bark.</em>"]},
        "cats": {"body": [f"<em>{WASHED}</em>"]},
        "water": {"body": ["<em>Wash hands in warm water.</em>"]},
        "none": None,
    }


# Fields, templates, inner hits, functions.


def test_fields_are_cut_separately_with_offsets_into_their_own_texts() -> None:
    source = {"title": "Good cats", "tags": ["poor", "fair"], "body": "Good body. Poor body."}
    found = client_side(
        scorer=words_scorer(Good=0.9, fair=0.8),
        fields=["title", "tags", "body"],
        highlight=SpanOptions(threshold=0.5),
    ).rerank(response_of([{"_id": "a", "_score": 1.0, "_source": source}]), "q")
    assert highlights(found) == [
        {"title": ["<em>Good cats</em>"], "body": ["<em>Good body.</em>"], "tags": ["<em>fair</em>"]}
    ]
    assert [(one["field"], one["start"], one["end"]) for one in marks(found)[0]] == [
        ("title", 0, 9),
        ("body", 0, 10),
        ("tags", 5, 9),
    ]


def test_words_of_a_template_are_in_no_span() -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5))
    source = {"title": "Cats", "body": "One. Two."}
    found = client_side(
        scorer=scorer, template="Title: {title}. {body} By the {title}. The end.", highlight=SpanOptions()
    ).rerank(response_of([{"_id": "a", "_score": 1.0, "_source": source}]), "q")
    assert [one.document for one in scorer.calls[1][0]] == ["Cats", "One.", "Two."]
    assert highlights(found) == [{"title": ["<em>Cats</em>"], "body": ["<em>One.</em>", "<em>Two.</em>"]}]


def test_the_best_inner_hit_is_highlighted() -> None:
    inner = [{"_source": {"text": text}} for text in ("Poor. Very poor.", "Good. Or fair.", "Fair.")]
    one = hit("a", None, inner_hits={"best": {"hits": {"hits": inner}}})
    one["_source"] = {"title": "Fair title"}
    scorer = words_scorer(air=0.5, Good=0.9)
    found = client_side(
        scorer=scorer, fields=["title", "inner_hits.best.text"], highlight=SpanOptions(max_spans=2)
    ).rerank(response_of([one]), "q")
    assert [one.document for one in scorer.calls[1][0]] == ["Fair title", "Good.", "Or fair."]
    assert found["hits"]["hits"][0]["rerank"]["inner_hit"] == 1
    assert highlights(found) == [
        {"title": ["<em>Fair title</em>"], "inner_hits.best.text": ["<em>Good.</em>"]}
    ]


def test_the_text_of_a_function_has_spans_without_a_field_and_no_highlight() -> None:
    calls: list[Any] = []

    def text_of(one: Any) -> str:
        calls.append(one)
        return "Poor. Good."

    own = hit("a", None, highlight={"body": ["<b>kept</b>"]})
    found = client_side(
        scorer=words_scorer(Good=0.9), text_of=text_of, highlight=SpanOptions(max_spans=1)
    ).rerank(response_of([own]), "q")
    assert marks(found) == [[{"start": 6, "end": 11, "relevance_score": 0.9}]]
    assert highlights(found) == [{"body": ["<b>kept</b>"]}]
    assert len(calls) == 1  # what is cut is the text that was scored


def test_passages_and_tags_can_be_chosen() -> None:
    found = client_side(
        scorer=words_scorer(Good=0.9),
        highlight={"unit": "passage", "max_spans": 1},
        highlight_tags=["<b>", "</b>"],
    ).rerank(response_of([hit("a", "Good & <one>. Poor.\n\nOther.")]), "q")
    assert highlights(found) == [{"body": ["<b>Good & <one>. Poor.</b>"]}]


# Nothing relevant, the cluster's own highlights, a second reranking, limits.


@both
def test_a_hit_with_nothing_relevant_has_no_highlight(rerank: Rerank) -> None:
    scorer = words_scorer(cat=0.9, bark=0.5, water=0.3)
    found = rerank(response_of(HITS), QUERY, scorer=scorer, highlight=SpanOptions(threshold=0.9))
    assert [spans and len(spans) for spans in marks(found)] == [2, [], [], None]
    assert [one and list(one) for one in highlights(found)] == [["body"], None, None, None]


def test_a_text_without_spans_is_not_scored_again() -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5))
    found = client_side(scorer=scorer, missing="score", highlight=SpanOptions()).rerank(
        response_of([hit("a", None)]), "q"
    )
    assert (marks(found), len(scorer.calls)) == ([[]], 1)


def test_highlights_of_the_cluster_are_replaced_in_scored_fields_and_kept_in_others() -> None:
    theirs = {"title": ["<em>a</em> title"], "body": ["a <em>cat</em>"]}
    hits = [
        hit("a", "Good.", highlight=theirs),
        hit("b", "Poor.", highlight=theirs),
        hit("c", None, highlight=theirs),
    ]
    response = response_of(hits)
    before = copy.deepcopy(response)
    found = client_side(scorer=words_scorer(Good=0.9), highlight=SpanOptions(threshold=0.5)).rerank(
        response, "q"
    )
    assert highlights(found) == [
        {"title": ["<em>a</em> title"], "body": ["<em>Good.</em>"]},
        {"title": ["<em>a</em> title"]},
        theirs,
    ]
    assert response == before


def test_a_second_reranking_leaves_no_highlight_of_the_first() -> None:
    def reranker(**words: float) -> ClientSideReranker:
        return client_side(scorer=words_scorer(**words), highlight=SpanOptions(threshold=0.5))

    once = reranker(cat=0.9).rerank(response_of(HITS), "cat")
    twice = reranker(bark=0.9).rerank(once, "bark")
    assert ids(twice)[:2] == ["cats", "dogs"]
    assert highlights(twice)[:2] == [
        {"body": ["<em>Dogs bark.</em>"]},
        {"body": ["<em>Dogs bark.</em>", "<em>They bark at night.</em>"]},
    ]
    assert reranker(nothing=0.9).rerank(once, "q")["hits"]["hits"][0].get("highlight") is None


def test_at_most_512_spans_of_a_text_are_scored_whatever_its_fields() -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5))
    source = {"title": "\n".join(["- one"] * 500), "body": "\n".join(["- two"] * 500)}
    one = {"_id": "a", "_score": 1.0, "_source": source}
    client_side(scorer=scorer, fields=["title", "body"], highlight=SpanOptions()).rerank(
        response_of([one, one]), "q"
    )
    texts = [one.document for one in scorer.calls[1][0]]
    assert texts == (["- one"] * 500 + ["- two"] * 12) * 2


def test_more_spans_than_max_scored_are_refused() -> None:
    options = SpanOptions(max_scored=4)
    reranker = client_side(scorer=words_scorer(cat=0.9), config={"on_error": "keep_order"}, highlight=options)
    with pytest.raises(InputError, match="too many spans to highlight: 7, at most 4 are allowed"):
        reranker.rerank(response_of(HITS), "q")
    assert marks(reranker.rerank(response_of(HITS), "q", size=1))[0]


# Failures and settings.


@both
def test_a_failure_of_the_spans_alone_keeps_the_new_order(rerank: Rerank) -> None:
    def score(request: Any) -> PairScore:
        return PairScore(0.9 if "cat" in request.document else 0.1)

    found = rerank(
        response_of(HITS),
        QUERY,
        scorer=FailsSecond(score),
        highlight=SpanOptions(),
        config={"on_error": "keep_order"},
    )
    assert ids(found) == ["cats", "dogs", "water", "none"]
    assert (found["rerank"]["status"], found["rerank"]["highlight_error"]) == (
        "ranked",
        "EngineError: broken",
    )
    assert "error" not in found["rerank"]
    assert marks(found) == highlights(found) == [None] * 4
    with pytest.raises(EngineError, match="broken"):
        rerank(response_of(HITS), QUERY, scorer=FailsSecond(score), highlight=SpanOptions())


@pytest.mark.parametrize(
    ("config", "error", "status"),
    [({"on_error": "keep_order"}, EngineError("broken"), "failed"), ({"enabled": False}, None, "disabled")],
)
def test_hits_that_were_not_reranked_are_unchanged(
    config: dict[str, Any], error: Exception | None, status: str
) -> None:
    scorer = FakeScorer(error=error)
    found = client_side(scorer=scorer, config=config, highlight=SpanOptions()).rerank(response_of(HITS), "q")
    assert (found["hits"]["hits"], found["rerank"]["status"]) == (HITS, status)
    assert "highlight_error" not in found["rerank"]
    assert len(scorer.calls) == (1 if error else 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"highlight": {"max_span": 1}},
            r"highlight is not valid: .*without 'max_span'; did you mean 'max_spans'",
        ),
        ({"highlight": {"unit": "word"}}, 'highlight is not valid: .*`unit` must be "sentence" or "passage"'),
        (
            {"highlight": {"max_spans": "3"}},
            "highlight is not valid: .*`max_spans` must be an integer or None",
        ),
        ({"highlight": {"threshold": 1.5}}, "highlight is not valid: .*`threshold` must be from 0 to 1"),
        ({"highlight": True}, "highlight is not valid: True"),
        ({"highlight_tags": ["<b>"]}, "highlight_tags is not valid"),
        ({"highlight_tags": "<b>"}, "highlight_tags is not valid: '<b>'"),
    ],
)
def test_an_invalid_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClientSideReranker(fields=["body"], **settings)


def test_a_mapping_and_options_are_the_same_setting_and_are_copied() -> None:
    options = SpanOptions(max_spans=1, threshold=0.5)
    given = ClientSideReranker(
        fields=["body"], highlight={"max_spans": 1, "threshold": 0.5}, backend="lexical"
    )
    assert given.settings.highlight == given.replace(window=5).settings.highlight == options
    assert "highlight=SpanOptions(unit='sentence', max_spans=1" in repr(given)


# Properties.


@given(
    texts=st.lists(st.text(alphabet="aÄ你😀e\u0301.。!\n\r \t-|", max_size=40), min_size=1, max_size=4),
    start=st.integers(0, 3),
    size=st.integers(1, 4),
    unit=st.sampled_from(["sentence", "passage"]),
)
def test_fragments_are_the_text_at_their_offsets(texts: list[str], start: int, size: int, unit: Any) -> None:
    hits = [hit(str(number), text) for number, text in enumerate(texts)]
    scorer = FakeScorer(lambda request: PairScore(len(request.document) % 7 / 7))
    found = client_side(
        scorer=scorer, highlight=SpanOptions(unit=unit, max_spans=2), highlight_tags=("", "")
    ).rerank(response_of(hits), "q", from_=start, size=size)
    for one in found["hits"]["hits"]:
        spans, text = one["rerank"].get("spans"), one["_source"]["body"]
        assert (spans is None) == (not text.strip())
        shown = [text[span["start"] : span["end"]] for span in spans or ()]
        assert shown == one.get("highlight", {}).get("body", [])
        assert bool(shown) == bool(text.strip())
        assert [span["relevance_score"] for span in spans or ()] == [len(own) % 7 / 7 for own in shown]
