"""Reranking OpenSearch's answers on the client's side: for clusters that cannot, and for what a cluster's configuration cannot say.

Nothing here imports a client library: a search runs through whatever has the `search` method of opensearch-py.
"""

from __future__ import annotations

from opensearch_qwen_rerank.client.fusion import LinearFusion, RankFusion
from opensearch_qwen_rerank.client.reranker import AsyncClientSideReranker, CallOptions, ClientSideReranker
from opensearch_qwen_rerank.client.settings import ClientSettings

__all__ = [
    "AsyncClientSideReranker",
    "CallOptions",
    "ClientSettings",
    "ClientSideReranker",
    "LinearFusion",
    "RankFusion",
]
