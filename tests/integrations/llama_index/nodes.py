"""Nodes whose text is their score, and rerankers over a scorer that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.qwen_rerank import QwenRerank

from qwen_rerank_plugins import Reranker
from tests.doubles import FakeScorer


def some_nodes(
    *texts: str, scores: Sequence[float | None] | None = None, **fields: Any
) -> list[NodeWithScore]:
    """Nodes with ids n0, n1, ..., and the given first scores, else none."""
    first = scores or [None] * len(texts)
    return [
        NodeWithScore(node=TextNode(text=text, id_=f"n{index}", **fields), score=score)
        for index, (text, score) in enumerate(zip(texts, first, strict=True))
    ]


def faked(
    scorer: FakeScorer | None = None, *, metadata_mode: str | None = None, **settings: Any
) -> QwenRerank:
    """A postprocessor whose scores are the numbers in the texts."""
    ready = Reranker(scorer=scorer or FakeScorer(), **settings)
    return QwenRerank(reranker=ready, metadata_mode=metadata_mode)


def ids(nodes: Sequence[NodeWithScore]) -> list[str]:
    """The nodes' ids, in order."""
    return [one.node_id for one in nodes]


def asked(scorer: FakeScorer) -> list[str]:
    """The documents of all that a scorer was asked."""
    return [request.document for requests, _ in scorer.calls for request in requests]
