"""Relevant spans scored by the model: each score is that of the span's text alone, from cache or model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwen_rerank_plugins import DeadlineExceededError, Reranker, SpanOptions

CAT = "The cat sleeps. A cat is washed gently!  Dogs bark."
FISH = " \ud83d\r\nFish swim. 猫很喜欢水。\r\n"


@pytest.mark.parametrize("cache_entries", [0, 100])
def test_a_span_s_score_is_that_of_its_text_alone(cache_entries: int) -> None:
    documents = [CAT, FISH, "# Wash\n- a cat\n- a dog, z. B. mit Seife. Am 3. Mai."]
    with Reranker(
        model="demo", device="cpu", dtype="float32", num_threads=1, cache_entries=cache_entries
    ) as reranker:
        options: dict[str, Any] = {"instruction": "Find how animals are washed"}
        result = reranker.rank("wash a cat", documents, spans=SpanOptions(max_spans=None), **options)
        spans = [
            (documents[one.index][span.start : span.end], span)
            for one in result.results
            for span in one.spans
        ]
        assert len(spans) == 3 + 2 + 4
        with Reranker(model="demo", device="cpu", dtype="float32", num_threads=1, cache_entries=0) as fresh:
            for text, span in spans:
                alone = fresh.rank("wash a cat", [text], **options).results[0]
                assert span.log_odds == pytest.approx(alone.log_odds, abs=1e-4)
                assert span.relevance_score == pytest.approx(alone.relevance_score, abs=1e-4)
        for document in result.results:
            scores = [span.log_odds for span in document.spans]
            assert scores == sorted(scores, key=lambda one: -(one or 0.0))
        again = asyncio.run(reranker.arank("wash a cat", documents, spans=SpanOptions(), **options))
        assert again.usage.num_cached_pairs == (again.usage.num_pairs if cache_entries else 0)
        assert [one.spans for one in again.results] == [one.spans[:3] for one in result.results]


def test_the_local_scorer_refuses_spans_after_the_deadline() -> None:
    with Reranker(model="demo", device="cpu", dtype="float32", num_threads=1) as reranker:
        reranker.rank("q", [CAT])
        with pytest.raises(DeadlineExceededError):
            reranker.rank("q", [CAT], deadline_s=1e-9, spans=SpanOptions())
