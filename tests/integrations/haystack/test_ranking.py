from __future__ import annotations

import asyncio
import copy
import json
import logging
import math
from dataclasses import dataclass
from typing import Any

import pytest
from haystack import Document
from haystack.dataclasses import ByteStream

from qwen_rerank_plugins import (
    EngineError,
    InputError,
    InputTypeError,
    NonFiniteScoreError,
    OverloadedError,
    PairScore,
)
from tests.doubles import FakeScorer
from tests.integrations.haystack.documents import asked, faked, ids, some_documents

either_way = pytest.mark.parametrize("asynchronous", [False, True])


def rank(
    ranker: Any, documents: Any, *, query: Any = "q", asynchronous: bool = False, **options: Any
) -> list[Document]:
    """The documents of one call."""
    if asynchronous:
        outcome = asyncio.run(ranker.run_async(query=query, documents=documents, **options))
    else:
        outcome = ranker.run(query=query, documents=documents, **options)
    assert list(outcome) == ["documents"]
    found: list[Document] = outcome["documents"]
    return found


# Order, threshold, cut.


@either_way
def test_documents_come_best_first_with_python_floats(*, asynchronous: bool) -> None:
    found = rank(faked(), some_documents("0.1", "0.9", "0.5"), asynchronous=asynchronous)
    assert ids(found) == ["d1", "d2", "d0"]
    assert [one.score for one in found] == [0.9, 0.5, 0.1]
    assert {type(one.score) for one in found} == {float}
    json.dumps([one.to_dict() for one in found])


def test_the_threshold_goes_before_the_cut_and_includes_its_own_value() -> None:
    documents = some_documents("0.1", "0.9", "0.5", "0.7")
    assert ids(rank(faked(min_score=0.5), documents)) == ["d1", "d3", "d2"]
    assert ids(rank(faked(min_score=0.5, top_n=2), documents)) == ["d1", "d3"]
    assert rank(faked(min_score=0.95), documents) == []
    assert ids(rank(faked(), documents, score_threshold=0.5, top_k=4)) == ["d1", "d3", "d2"]


def test_without_a_limit_all_documents_come_back() -> None:
    documents = some_documents(*(f"0.{n}" for n in range(20)))
    assert len(rank(faked(), documents)) == 20
    assert len(rank(faked(top_n=None), documents, top_k=None)) == 20


@either_way
def test_a_call_may_choose_limit_and_threshold_and_none_is_the_instances(*, asynchronous: bool) -> None:
    ranker, documents = faked(top_n=1, min_score=0.15), some_documents("0.1", "0.2", "0.3")
    for options, expected in (
        ({}, ["d2"]),
        ({"top_k": None, "score_threshold": None}, ["d2"]),
        ({"top_k": 5}, ["d2", "d1"]),
        ({"top_k": 5, "score_threshold": 0.0}, ["d2", "d1", "d0"]),
    ):
        given: Any = options
        assert ids(rank(ranker, documents, asynchronous=asynchronous, **given)) == expected
    assert ids(rank(ranker, documents)) == ["d2"], "an option of a call outlived it"


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": -1}, {"score_threshold": 1.5}])
@either_way
def test_a_limit_below_one_is_refused(options: dict[str, Any], *, asynchronous: bool) -> None:
    """Haystack's own rankers raise ValueError, and their `top_k or self.top_k` treats 0 as not passed."""
    for documents in (some_documents("0.5"), []):
        with pytest.raises(ValueError, match=r"must be (at least 1|from 0 to 1), got"):
            rank(faked(), documents, asynchronous=asynchronous, **options)


def test_ties_keep_the_order_of_the_first_stage() -> None:
    documents = some_documents("0.5", "0.7", "0.5", "0.7", "0.5", scores=[1.0, 2.0, 3.0, None, 5.0])
    assert ids(rank(faked(), documents)) == ["d1", "d3", "d0", "d2", "d4"]


def test_saturated_probabilities_are_ordered_by_their_log_odds() -> None:
    scorer = FakeScorer(lambda request: PairScore(1.0, float(request.document)))
    assert ids(rank(faked(scorer), some_documents("40", "60", "50"))) == ["d1", "d2", "d0"]


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(NonFiniteScoreError):
        rank(faked(FakeScorer(lambda _: PairScore(math.nan))), some_documents("x"))


# What comes out, and what stays.


@either_way
def test_what_came_in_is_not_changed(*, asynchronous: bool) -> None:
    documents = some_documents("0.1", "0.9", scores=[0.3, 0.2], meta={"title": "a", "tags": ["x"]})
    before, order = copy.deepcopy(documents), list(map(id, documents))
    found = rank(faked(), documents, asynchronous=asynchronous)
    assert documents == before
    assert list(map(id, documents)) == order
    assert all(one is not other for one in found for other in documents)
    found[0].meta["mine"] = 1
    assert documents == before


def test_ids_meta_and_embeddings_are_kept() -> None:
    document = Document(
        content="0.4", meta={"a": 1}, embedding=[0.5], blob=ByteStream(b"x", mime_type="text/plain")
    )
    (found,) = rank(faked(), [document])
    assert (found.id, found.meta, found.embedding, found.blob) == (
        document.id,
        {"a": 1},
        [0.5],
        document.blob,
    )


@pytest.mark.filterwarnings(
    "ignore:Mutating attribute"
)  # Haystack takes creating a derived document for that
def test_a_document_of_a_class_of_its_own_comes_back_as_that_class() -> None:
    @dataclass
    class Page(Document):
        number: int = 0

    (found,) = rank(faked(), [Page(id="p", content="0.5", number=7)])
    assert isinstance(found, Page)
    assert (found.number, found.score) == (7, 0.5)


def test_a_stale_score_is_overwritten_and_the_first_one_kept() -> None:
    found = rank(faked(), some_documents("0.1", "0.9", scores=[17.5, None]))
    assert [(one.score, one.meta) for one in found] == [(0.9, {}), (0.1, {"first_stage_score": 17.5})]


def test_a_second_reranking_replaces_the_score_and_keeps_the_first_stages() -> None:
    once = rank(faked(), some_documents("0.4", scores=[7.0]))
    (twice,) = rank(faked(FakeScorer(lambda request: PairScore(2 * float(request.document)))), once)
    assert (twice.score, twice.meta) == (0.8, {"first_stage_score": 7.0})
    assert once[0].score == 0.4


def test_everything_that_the_model_reports_is_in_the_meta() -> None:
    outcome = PairScore(0.5, 0.25, truncated=True, query_truncated=True, span=(2, 7))
    (found,) = rank(faked(FakeScorer(lambda _: outcome)), some_documents("a field of wheat"))
    assert found.meta == {
        "rerank_log_odds": 0.25,
        "rerank_truncated": True,
        "rerank_query_truncated": True,
        "rerank_passage": "field",
        "rerank_passage_span": [2, 7],
    }


def test_what_is_not_reported_is_not_in_the_meta() -> None:
    (found,) = rank(faked(), some_documents("0.5", meta={"title": "a"}))
    assert found.meta == {"title": "a"}


@pytest.mark.parametrize(
    ("span", "expected"),
    [((7, 12), ("field", [2, 7])), ((0, 12), ("a field", [0, 7])), ((0, 4), None)],
)
def test_a_passage_is_placed_in_the_content_even_when_fields_stand_before_it(
    span: tuple[int, int], expected: tuple[str, list[int]] | None
) -> None:
    scorer = FakeScorer(lambda _: PairScore(0.5, span=span))
    ranker = faked(scorer, own={"meta_fields_to_embed": ["title"]})
    (found,) = rank(ranker, some_documents("a field of wheat", meta={"title": "Farm"}))
    assert asked(scorer) == ["Farm\na field of wheat"]
    passage = (found.meta["rerank_passage"], found.meta["rerank_passage_span"]) if expected else None
    assert passage == expected
    assert expected or "rerank_passage" not in found.meta


def test_the_outcome_of_an_earlier_call_is_dropped() -> None:
    old = {
        "rerank_log_odds": 9.0,
        "rerank_truncated": True,
        "rerank_query_truncated": True,
        "rerank_passage": "x",
        "rerank_passage_span": [0, 1],
        "rerank_status": "failed",
        "rerank_error": "x",
        "title": "kept",
    }
    (found,) = rank(faked(), some_documents("0.5", meta=old))
    assert found.meta == {"title": "kept"}


# Duplicates, as Haystack's own rankers treat them.


@pytest.mark.parametrize("settings", [{}, {"enabled": False}])
def test_of_several_documents_with_one_id_the_best_scored_is_ranked_in_the_first_ones_place(
    settings: dict[str, Any],
) -> None:
    first, other = some_documents("0.5", "0.5", scores=[0.1, 0.2])
    better = Document(content="0.5", id="d0", score=0.7)
    worse = Document(content="0.5", id="d1", score=None)
    scorer = FakeScorer()
    found = rank(faked(scorer, **settings), [first, other, better, worse])
    assert ids(found) == ["d0", "d1"]
    assert [one.meta.get("first_stage_score", one.score) for one in found] == [0.7, 0.2]
    assert asked(scorer) == ([] if settings else ["0.5", "0.5"])


def test_it_treats_duplicates_as_the_installed_haystack_does() -> None:
    misc = pytest.importorskip("haystack.utils.misc")
    if not hasattr(misc, "_deduplicate_documents"):
        pytest.skip("this version of Haystack has no such function")
    scores: list[float | None] = [None, 0.3, 0.3, -1.0, 0.0, None, 2.0]
    documents = [
        Document(content="0.5", id=f"d{index % 3}", score=score, meta={"place": index})
        for index, score in enumerate(scores)
    ]
    expected = [(one.id, one.meta["place"]) for one in misc._deduplicate_documents(documents)]
    assert [(one.id, one.meta["place"]) for one in rank(faked(), documents)] == expected


# What is scored.


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ({}, "wheat"),
        ({"meta_fields_to_embed": ["title"]}, "Farm\nwheat"),
        ({"meta_fields_to_embed": ("year", "title")}, "0\nFarm\nwheat"),
        ({"meta_fields_to_embed": ["title", "missing", "empty", "none"]}, "Farm\nwheat"),
        ({"meta_fields_to_embed": ["title", "year"], "embedding_separator": " | "}, "Farm | 0 | wheat"),
        ({"meta_fields_to_embed": ["missing"]}, "wheat"),
    ],
)
def test_the_content_is_scored_after_meta_fields_to_embed(own: dict[str, Any], text: str) -> None:
    scorer = FakeScorer(lambda _: PairScore(0.5))
    meta = {"title": "Farm", "year": 0, "empty": "", "none": None}
    rank(faked(scorer, own=own), some_documents("wheat", meta=meta))
    assert asked(scorer) == [text]


def test_a_document_without_text_is_scored_as_an_empty_one() -> None:
    scorer = FakeScorer(lambda _: PairScore(0.5))
    (found,) = rank(faked(scorer), [Document(blob=ByteStream(b"x"))])
    assert (asked(scorer), found.content, found.score) == ([""], None, 0.5)


def test_many_documents_are_scored_in_one_call() -> None:
    scorer = FakeScorer()
    rank(faked(scorer), some_documents(*(f"0.{n:03}" for n in range(500))))
    assert [len(requests) for requests, _ in scorer.calls] == [500]


@either_way
def test_the_instruction_comes_from_the_call_else_the_instance(*, asynchronous: bool) -> None:
    scorer = FakeScorer()
    ranker, documents = faked(scorer, instruction="instance"), some_documents("0.5")
    rank(ranker, documents, asynchronous=asynchronous)
    rank(ranker, documents, asynchronous=asynchronous, instruction="call")
    assert [requests[0].instruction for requests, _ in scorer.calls] == ["instance", "call"]


# What cannot be ranked.


@either_way
def test_an_empty_list_does_not_ask_the_model(*, asynchronous: bool) -> None:
    scorer = FakeScorer(error=EngineError("must not be asked"))
    assert rank(faked(scorer), [], asynchronous=asynchronous) == []
    assert scorer.calls == []


@pytest.mark.parametrize(
    ("documents", "query", "message"),
    [
        (some_documents("0.5"), " ", "`query` must not be blank"),
        (some_documents("0.5"), None, "`query` must be a string, got NoneType"),
        (["text"], "q", r"documents\[0\] has the wrong type: str. Pass a list of Document"),
        ([*some_documents("0.5"), None], "q", r"documents\[1\] has the wrong type: NoneType"),
        (some_documents("0.5")[0], "q", "documents has the wrong type: Document. Pass a list"),
        ("text", "q", "documents has the wrong type: str"),
        (3, "q", "documents has the wrong type: int"),
    ],
)
@either_way
def test_what_cannot_be_ranked_is_refused(
    documents: Any, query: Any, message: str, *, asynchronous: bool
) -> None:
    scorer = FakeScorer()
    with pytest.raises(InputError, match=message):
        rank(faked(scorer, on_error="keep_order"), documents, query=query, asynchronous=asynchronous)
    assert scorer.calls == []


def test_a_wrong_type_is_a_type_error_too() -> None:
    with pytest.raises(InputTypeError):
        rank(faked(), ["text"])
    with pytest.raises(TypeError):
        rank(faked(), ["text"])


# Switched off, failed.


@either_way
def test_a_disabled_ranker_keeps_the_first_order_cuts_and_says_so(*, asynchronous: bool) -> None:
    scorer = FakeScorer()
    ranker = faked(scorer, enabled=False, top_n=2, min_score=0.9)
    documents = some_documents("0.1", "0.9", "0.5", scores=[0.4, None, 0.2])
    found = rank(ranker, documents, asynchronous=asynchronous)
    assert [(one.id, one.score, one.meta) for one in found] == [
        ("d0", 0.4, {"rerank_status": "disabled"}),
        ("d1", None, {"rerank_status": "disabled"}),
    ]
    assert scorer.calls == []
    assert documents[0].meta == {}


@either_way
def test_a_failure_raises_or_keeps_the_first_order_as_configured(
    caplog: pytest.LogCaptureFixture, *, asynchronous: bool
) -> None:
    failing = FakeScorer(error=OverloadedError("full"))
    documents = some_documents("0.1", "0.9", "0.5", scores=[0.4, 0.3, 0.2])
    with pytest.raises(OverloadedError):
        rank(faked(failing), documents, asynchronous=asynchronous)
    with caplog.at_level(logging.WARNING):
        kept = faked(failing, on_error="keep_order", top_n=2, min_score=0.99)
        found = rank(kept, documents, query="a secret", asynchronous=asynchronous)
    mark = {"rerank_status": "failed", "rerank_error": "OverloadedError: full"}
    assert [(one.id, one.score, one.meta) for one in found] == [("d0", 0.4, mark), ("d1", 0.3, mark)]
    assert "OverloadedError" in caplog.text
    assert "secret" not in caplog.text
