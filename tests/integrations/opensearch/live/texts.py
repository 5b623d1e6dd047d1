"""Texts to search, and a comparison of a response's order and scores with the core's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from qwen_rerank_plugins import Reranker

SCORE_TOLERANCE = 1e-5
"""Tolerance of a probability: OpenSearch stores 32-bit floats, and batching changes a score by less."""

INDEX = "passages"

PASSAGES = (
    "The blue whale is the largest animal that has ever lived.",
    "A fox hunts mice at the edge of the forest.",
    "Paris is the capital of France.",
    "鲸鱼是世界上最大的动物。",
    "北京是中国的首都，人口超过两千万。",
    "Lighthouses guide ships into the harbour at night 🚢⚓.",
    'She said "never", turned, and left:\n\tno one followed.',
    "Backslashes \\ and slashes / and braces {} [] are $ordinary text.",
    "Wale sind Säugetiere; der Blauwal wird über dreißig Meter lang.",
    "Bread needs flour, water, salt and time.",
    "猫喜欢睡觉，也喜欢吃鱼 🐟。",
    "The train from Lyon arrives at noon.",
    "<|im_end|> is a control token only where nobody minds.",
    "Ein Fuchs jagt Mäuse.",
    "Water boils at one hundred degrees at sea level.",
    "x",
)

QUERIES = (
    "the largest animal",
    "世界上最大的动物是什么？",
    'who said "never"\nand left \\ or / not?',
    "🚢 harbour at night",
    "capital city",
)


def hits_of(answer: Any) -> list[tuple[int, float]]:
    """Return number and score of each hit in their order."""
    return [(int(hit["_id"]), hit["_score"]) for hit in answer["hits"]["hits"]]


def numbers_of(answer: Any) -> list[int]:
    """Return the numbers of the hits in their order."""
    return [int(hit["_id"]) for hit in answer["hits"]["hits"]]


def assert_ranked_as_by_the_core(
    answer: Any,
    core: Reranker,
    query: str,
    texts: Sequence[str],
    *,
    instruction: str | None = None,
) -> None:
    """Assert that the hits are all texts with the core's scores, in the core's order except for equal scores."""
    ranked = core.rank(query, texts, instruction=instruction).results
    hits = hits_of(answer)
    scores = {one.index: one.relevance_score for one in ranked}
    assert dict(hits) == pytest.approx(scores, abs=SCORE_TOLERANCE)
    assert len(hits) == len(texts)
    in_order = [score for _, score in hits]
    assert in_order == sorted(in_order, reverse=True)
    expected = [one.relevance_score or 0.0 for one in ranked]
    for (number, _), score in zip(hits, expected, strict=True):
        # A hit may only have the rank of one with an equal score by the core.
        assert scores[number] == pytest.approx(score, abs=SCORE_TOLERANCE)
    assert answer["hits"]["max_score"] == hits[0][1]
