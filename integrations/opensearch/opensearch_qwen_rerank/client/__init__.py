"""Reranks OpenSearch responses on the client side, for clusters without ML Commons and for features that pipelines lack.

This package imports no client library: a search runs through any object with the `search` method of opensearch-py.
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
