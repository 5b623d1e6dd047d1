"""Qwen3 reranking for Haystack: a ranker, local or remote by configuration.

>>> from haystack import Document
>>> from haystack_integrations.components.rankers.qwen_rerank import QwenReranker
>>> ranker = QwenReranker(backend="lexical", top_k=1)  # word overlap; leave backend out for the real model
>>> documents = [Document(content="a red fox"), Document(content="the blue whale sings")]
>>> ranker.run(query="blue whale", documents=documents)["documents"][0].content
'the blue whale sings'

Nothing here loads torch; the local backend of `qwen-rerank-plugins` does on first use, and a remote one never.
"""

from __future__ import annotations

from haystack_integrations.components.rankers.qwen_rerank._version import __version__
from haystack_integrations.components.rankers.qwen_rerank.ranker import QwenReranker

__all__ = ["QwenReranker", "__version__"]
