"""Qwen3 reranking for LangChain: a document compressor, a cross-encoder and a runnable over one configuration.

Nothing here loads torch; the local backend of `qwen-rerank-plugins` does on first use, and a remote one never.
"""

from __future__ import annotations

from langchain_qwen_rerank._version import __version__
from langchain_qwen_rerank.compressor import QwenRerank
from langchain_qwen_rerank.cross_encoder import QwenCrossEncoder
from langchain_qwen_rerank.factory import init_reranker
from langchain_qwen_rerank.runnable import QwenRerankRunnable, RerankInput

__all__ = [
    "QwenCrossEncoder",
    "QwenRerank",
    "QwenRerankRunnable",
    "RerankInput",
    "__version__",
    "init_reranker",
]
