from __future__ import annotations

import asyncio
import copy
import threading
import time
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_qwen_rerank import QwenRerank

from qwen_rerank_plugins import (
    ClosedError,
    ConfigurationError,
    EngineError,
    InputError,
    InputTypeError,
    NonFiniteScoreError,
    PairScore,
    Reranker,
)
from tests.doubles import FakeScorer


def _compressor(
    scorer: FakeScorer | None = None, *, fields: tuple[str, ...] = (), **settings: Any
) -> QwenRerank:
    reranker = Reranker(scorer=scorer or FakeScorer(), **settings)
    return QwenRerank(reranker=reranker, metadata_fields=fields)


def _documents(*texts: str) -> list[Document]:
    return [Document(text, id=str(index)) for index, text in enumerate(texts)]


def _ids(documents: list[Document]) -> list[str | None]:
    return [one.id for one in documents]


# Which documents come back, and in which order.


def test_the_threshold_goes_before_the_cut() -> None:
    given = _documents("0.1", "0.9", "0.5", "0.7")
    assert _ids(_compressor(min_score=0.5).compress_documents(given, "q")) == ["1", "3", "2"]
    assert _ids(_compressor(min_score=0.5, top_n=2).compress_documents(given, "q")) == ["1", "3"]
    assert _compressor(min_score=0.95).compress_documents(given, "q") == []


def test_a_document_at_the_threshold_stays() -> None:
    assert _ids(_compressor(min_score=0.5).compress_documents(_documents("0.4", "0.5"), "q")) == ["1"]


def test_without_a_limit_all_documents_come_back() -> None:
    given = _documents(*[f"0.{n}" for n in range(1, 10)])
    assert len(_compressor().compress_documents(given, "q")) == 9
    assert len(_compressor(top_n=None).compress_documents(given, "q")) == 9


@pytest.mark.parametrize("top_n", [0, -1, True, "3"])
def test_a_limit_below_one_is_refused(top_n: Any) -> None:
    with pytest.raises(ConfigurationError, match="`top_n` must be "):
        QwenRerank(backend="lexical", top_n=top_n)


def test_saturated_probabilities_are_ordered_by_their_log_odds() -> None:
    scorer = FakeScorer(lambda request: PairScore(1.0, float(request.document)))
    assert _ids(_compressor(scorer).compress_documents(_documents("40.0", "60.0", "50.0"), "q")) == [
        "1",
        "2",
        "0",
    ]


def test_a_score_that_is_no_number_is_an_error() -> None:
    scorer = FakeScorer(lambda request: PairScore(float("nan")))
    with pytest.raises(NonFiniteScoreError):
        _compressor(scorer).compress_documents(_documents("a"), "q")


def test_an_empty_list_does_not_ask_the_model() -> None:
    scorer = FakeScorer()
    assert _compressor(scorer).compress_documents([], "q") == []
    assert asyncio.run(_compressor(scorer).acompress_documents([], "q")) == []
    assert scorer.calls == []


def test_a_blank_query_is_refused() -> None:
    with pytest.raises(InputError, match="`query` must not be blank"):
        _compressor().compress_documents(_documents("0.1"), "  ")


@pytest.mark.parametrize(
    "documents", [["text"], [{"page_content": "text"}], [None], Document("alone"), "text"]
)
def test_what_is_no_list_of_documents_is_refused(documents: Any) -> None:
    with pytest.raises(InputTypeError, match="documents"):
        _compressor().compress_documents(documents, "q")


def test_a_single_document_is_not_taken_for_a_list_of_its_fields() -> None:
    alone: Any = Document("alone")
    with pytest.raises(InputTypeError, match=r"documents has the wrong type: Document\. Pass a list"):
        _compressor().compress_documents(alone, "q")


def test_many_documents_are_scored_in_one_call() -> None:
    scorer = FakeScorer()
    _compressor(scorer).compress_documents(_documents(*["0.5"] * 300), "q")
    assert [len(requests) for requests, _ in scorer.calls] == [300]


# What is scored.


def test_only_the_content_is_scored_unless_fields_are_named() -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5))
    given = [Document("the text", metadata={"title": "T", "year": 1984})]
    _compressor(scorer).compress_documents(given, "q")
    assert scorer.calls[0][0][0].document == "the text"


def test_metadata_fields_are_scored_before_the_content() -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5))
    given = [
        Document("the text", metadata={"year": 1984, "title": "T", "other": "x"}),
        Document("no year", metadata={"title": "U", "year": None}),
        Document("nothing", metadata={"title": ""}),
    ]
    _compressor(scorer, fields=("title", "year")).compress_documents(given, "q")
    assert [request.document for request in scorer.calls[0][0]] == [
        "title: T\nyear: 1984\n\nthe text",
        "title: U\n\nno year",
        "nothing",
    ]


# What is reported about a document.


def test_everything_that_the_model_reports_is_in_the_metadata() -> None:
    outcome = PairScore(0.9, 2.0, truncated=True, query_truncated=True, span=(4, 8))
    compressor = _compressor(FakeScorer(lambda request: outcome))
    found = compressor.compress_documents([Document("the best part", metadata={"page": 3})], "q")
    assert found[0].metadata == {
        "page": 3,
        "relevance_score": 0.9,
        "rerank_log_odds": 2.0,
        "rerank_truncated": True,
        "rerank_query_truncated": True,
        "rerank_passage": "best",
        "rerank_passage_span": [4, 8],
    }


def test_what_is_not_reported_is_not_in_the_metadata() -> None:
    found = _compressor().compress_documents(_documents("0.5"), "q")
    assert found[0].metadata == {"relevance_score": 0.5}


@pytest.mark.parametrize(
    ("span", "passage", "place"),
    [((10, 14), "the ", [0, 4]), ((0, 14), "the ", [0, 4]), ((14, 18), "text", [4, 8])],
)
def test_a_passage_is_placed_in_the_content_even_when_fields_stand_before_it(
    span: tuple[int, int], passage: str, place: list[int]
) -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5, span=span))
    given = [Document("the text", metadata={"title": "T"})]
    found = _compressor(scorer, fields=("title",)).compress_documents(given, "q")
    assert scorer.calls[0][0][0].document.index("the text") == 10
    assert (found[0].metadata["rerank_passage"], found[0].metadata["rerank_passage_span"]) == (passage, place)


def test_a_passage_of_the_fields_alone_is_not_reported() -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5, span=(0, 9)))
    given = [Document("the text", metadata={"title": "T"})]
    found = _compressor(scorer, fields=("title",)).compress_documents(given, "q")
    assert set(found[0].metadata) == {"title", "relevance_score"}


def test_the_score_of_the_first_stage_is_kept_under_another_key() -> None:
    given = [Document("0.5", metadata={"relevance_score": 17.2, "score": 3})]
    found = _compressor().compress_documents(given, "q")
    assert found[0].metadata == {"relevance_score": 0.5, "first_stage_score": 17.2, "score": 3}


def test_a_second_reranking_keeps_the_score_of_the_first_stage() -> None:
    given = [Document("0.5", metadata={"relevance_score": 17.2})]
    once = _compressor().compress_documents(given, "q")
    twice = _compressor().compress_documents(once, "q")
    assert twice[0].metadata == once[0].metadata == {"relevance_score": 0.5, "first_stage_score": 17.2}


def test_the_outcome_of_an_earlier_call_is_dropped() -> None:
    old = {
        "rerank_log_odds": 9.0,
        "rerank_truncated": True,
        "rerank_query_truncated": True,
        "rerank_passage": "x",
        "rerank_passage_span": [0, 1],
        "rerank_status": "failed",
        "rerank_error": "x",
    }
    found = _compressor().compress_documents([Document("0.5", metadata=old)], "q")
    assert found[0].metadata == {"relevance_score": 0.5}


# Switched off, failed.


def test_a_disabled_compressor_keeps_the_first_order_cuts_and_says_so() -> None:
    scorer = FakeScorer()
    given = [Document(text, metadata={"relevance_score": 7.0, "rerank_log_odds": 1.0}) for text in "abc"]
    before = copy.deepcopy(given)
    found = _compressor(scorer, enabled=False, top_n=2, min_score=0.9).compress_documents(given, "q")
    assert [one.page_content for one in found] == ["a", "b"]
    assert found[0].metadata == {"relevance_score": 7.0, "rerank_status": "disabled"}
    assert given == before
    assert scorer.calls == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failure_keeps_the_first_order_if_configured(asynchronous: bool) -> None:
    scorer = FakeScorer(error=EngineError("out of order"))
    compressor = _compressor(scorer, on_error="keep_order", top_n=2)
    given = _documents("0.1", "0.9", "0.5")
    found = (
        asyncio.run(compressor.acompress_documents(given, "q"))
        if asynchronous
        else compressor.compress_documents(given, "q")
    )
    assert _ids(found) == ["0", "1"]
    mark = {"rerank_status": "failed", "rerank_error": "EngineError: out of order"}
    assert [one.metadata for one in found] == [mark, mark]


def test_a_failure_is_raised_otherwise() -> None:
    scorer = FakeScorer(error=EngineError("out of order"))
    with pytest.raises(EngineError, match="out of order"):
        _compressor(scorer).compress_documents(_documents("0.1"), "q")
    with pytest.raises(EngineError, match="out of order"):
        asyncio.run(_compressor(scorer).acompress_documents(_documents("0.1"), "q"))


# Asynchronous calls.


def test_an_asynchronous_call_leaves_the_event_loop_free() -> None:
    compressor = _compressor(FakeScorer(delay_s=0.2))

    async def turns_while_ranking() -> int:
        turns = 0
        ranking = asyncio.ensure_future(compressor.acompress_documents(_documents("0.5"), "q"))
        while not ranking.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns

    assert asyncio.run(turns_while_ranking()) >= 8


def test_asynchronous_calls_do_not_pass_through_the_blocking_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reranker, "rank_many", lambda *_, **__: pytest.fail("the blocking call was used"))
    found = asyncio.run(_compressor().acompress_documents(_documents("0.1", "0.9"), "q"))
    assert _ids(found) == ["1", "0"]


def test_a_cancelled_call_is_withdrawn() -> None:
    async def cancelled() -> float:
        start = time.monotonic()
        ranking = asyncio.ensure_future(
            _compressor(FakeScorer(delay_s=0.5)).acompress_documents(_documents("0.5"), "q")
        )
        await asyncio.sleep(0.05)
        ranking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ranking
        return time.monotonic() - start

    async def measured() -> float:
        return await cancelled()

    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(measured()) < 0.4
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


# `rerank`, in the shape of the partner packages.


def test_rerank_returns_the_indices_of_the_best() -> None:
    mixed: list[Any] = ["0.1", {"text": "0.9"}, {"page_content": "0.5"}, Document("0.7")]
    assert _compressor(top_n=3).rerank(mixed, "q") == [
        {"index": 1, "relevance_score": 0.9},
        {"index": 3, "relevance_score": 0.7},
        {"index": 2, "relevance_score": 0.5},
    ]


def test_rerank_takes_a_limit_none_for_all_and_minus_one_for_its_own() -> None:
    compressor = _compressor(top_n=2)
    counts = [len(compressor.rerank(["0.1"] * 4, "q", top_n=top_n)) for top_n in (-1, None, 1, 9)]
    assert counts == [2, 4, 1, 4]
    with pytest.raises(InputError, match="`top_n` must be at least 1, got 0"):
        compressor.rerank(["0.1"], "q", top_n=0)
    with pytest.raises(InputError, match="`top_n` must be at least 1, got -2"):
        compressor.rerank(["0.1"], "q", top_n=-2)


def test_rerank_takes_an_instruction() -> None:
    scorer = FakeScorer()
    compressor = _compressor(scorer, instruction="mine")
    compressor.rerank(["0.1"], "q")
    compressor.rerank(["0.1"], "q", instruction="theirs")
    asyncio.run(compressor.arerank(["0.1"], "q", instruction="other"))
    assert [calls[0].instruction for calls, _ in scorer.calls] == ["mine", "theirs", "other"]


def test_rerank_scores_named_fields_of_mappings_and_documents() -> None:
    scorer = FakeScorer(lambda request: PairScore(0.5))
    candidates: list[Any] = [{"text": "a", "title": "T"}, Document("b", metadata={"title": "U"}), "c"]
    _compressor(scorer, fields=("title",)).rerank(candidates, "q")
    assert [one.document for one in scorer.calls[0][0]] == ["title: T\n\na", "title: U\n\nb", "c"]


def test_arerank_returns_what_rerank_returns() -> None:
    compressor = _compressor()
    found = asyncio.run(compressor.arerank(["0.1", "0.9"], "q", top_n=1))
    assert found == compressor.rerank(["0.1", "0.9"], "q", top_n=1) == [{"index": 1, "relevance_score": 0.9}]


@pytest.mark.parametrize(
    "documents", ["text", {"text": "a"}, Document("a"), [3], [{"title": "x"}], [{"text": 3}], 5]
)
def test_rerank_refuses_what_has_no_text(documents: Any) -> None:
    with pytest.raises(InputTypeError, match="documents"):
        _compressor().rerank(documents, "q")


def test_rerank_of_a_disabled_compressor_returns_the_first_order_without_scores() -> None:
    found = _compressor(enabled=False, top_n=2).rerank(["a", "b", "c"], "q")
    assert found == [{"index": 0, "relevance_score": None}, {"index": 1, "relevance_score": None}]


# What is held, and how long.


def test_a_reranker_that_was_passed_in_stays_open() -> None:
    scorer = FakeScorer()
    reranker = Reranker(scorer=scorer)
    with QwenRerank(reranker=reranker) as compressor:
        compressor.compress_documents(_documents("0.5"), "q")
    assert reranker.rank("q", ["0.5"]).status == "ranked"


def test_an_own_reranker_is_closed() -> None:
    compressor = QwenRerank(backend="lexical")
    compressor.close()
    compressor.close()
    with pytest.raises(ClosedError):
        compressor.compress_documents(_documents("0.5"), "q")


def test_leaving_an_asynchronous_block_closes() -> None:
    async def use() -> QwenRerank:
        async with QwenRerank(backend="lexical") as compressor:
            await compressor.acompress_documents(_documents("0.5"), "q")
        return compressor

    with pytest.raises(ClosedError):
        asyncio.run(use()).compress_documents(_documents("0.5"), "q")


def test_nothing_is_built_before_the_first_call_and_then_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen_rerank_plugins import LexicalScorer
    from qwen_rerank_plugins import reranker as rerankers

    built: list[bool] = []

    def build(config: object, *, shared: bool) -> LexicalScorer:
        built.append(shared)
        time.sleep(0.05)
        return LexicalScorer()

    monkeypatch.setattr(rerankers, "build_scorer", build)
    compressor = QwenRerank(model="demo")
    assert built == []
    threads = [
        threading.Thread(target=compressor.compress_documents, args=(_documents("a"), "q")) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [True]
