from __future__ import annotations

from typing import Any

import pytest

from qwen_rerank_plugins import PairScore, RankedDocument, RerankResult
from qwen_rerank_plugins.adapters import reranked_metadata

EARLIER = {
    "rerank_log_odds": 9.0,
    "rerank_truncated": True,
    "rerank_query_truncated": True,
    "rerank_warnings": ["x"],
    "rerank_passage": "x",
    "rerank_passage_span": [0, 1],
    "rerank_status": "failed",
    "rerank_error": "x",
}


def written(
    metadata: dict[str, Any],
    ranked: RankedDocument,
    result: RerankResult | None = None,
    *,
    content: str = "the best part",
    offset: int = 0,
    first: float | None = None,
) -> dict[str, Any]:
    result = result or RerankResult("q", (ranked,))
    return reranked_metadata(
        metadata, ranked, result, content=content, offset=offset, first_stage_score=first
    )


def test_only_what_applies_is_written() -> None:
    assert written({"page": 3}, RankedDocument(0, "", PairScore(0.5))) == {"page": 3}
    score = PairScore(
        0.5, 0.0, truncated=True, query_truncated=True, span=(4, 8), warnings=("a", "b"), calibrated=False
    )
    everything = RankedDocument(0, "", score)
    assert written({}, everything, first=0.0) == {
        "first_stage_score": 0.0,
        "rerank_log_odds": 0.0,
        "rerank_calibrated": False,
        "rerank_truncated": True,
        "rerank_query_truncated": True,
        "rerank_warnings": ["a", "b"],
        "rerank_passage": "best",
        "rerank_passage_span": [4, 8],
    }


def test_the_keys_of_an_earlier_call_are_replaced_in_a_new_dictionary() -> None:
    metadata = {**EARLIER, "title": "kept"}
    before = dict(metadata)
    assert written(metadata, RankedDocument(0, "", PairScore(0.5))) == {"title": "kept"}
    assert metadata == before


def test_the_score_of_the_first_stage_is_kept_through_later_rerankings() -> None:
    once = written({}, RankedDocument(0, "", PairScore(0.5)), first=7.0)
    assert written(once, RankedDocument(0, "", PairScore(0.6)), first=0.5) == {"first_stage_score": 7.0}


@pytest.mark.parametrize(("status", "error"), [("disabled", None), ("failed", "EngineError: full")])
def test_without_a_ranking_only_its_status_is_written(status: Any, error: str | None) -> None:
    ranked = RankedDocument(0, "", None)
    result = RerankResult("q", (ranked,), status=status, error=error)
    mark = {"rerank_status": status} | ({} if error is None else {"rerank_error": error})
    assert written({**EARLIER, "title": "kept"}, ranked, result, first=7.0) == {"title": "kept", **mark}


@pytest.mark.parametrize(
    ("span", "passage"),
    [((12, 16), ("best", [4, 8])), ((0, 11), ("the", [0, 3])), ((0, 8), None), ((2, 6), None)],
)
def test_a_passage_is_the_part_of_the_span_that_is_content(span: Any, passage: Any) -> None:
    metadata = written({}, RankedDocument(0, "", PairScore(0.5, span=span)), offset=8)
    found = (metadata["rerank_passage"], metadata["rerank_passage_span"]) if metadata else None
    assert found == passage
