"""Qwen3 reranking for LlamaIndex: a node postprocessor, local or remote by configuration.

>>> from llama_index.core.schema import NodeWithScore, TextNode
>>> from llama_index.postprocessor.qwen_rerank import QwenRerank
>>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("a red fox", "the blue whale sings")]
>>> reranker = QwenRerank(backend="lexical", top_n=1)  # word overlap; leave backend out for the real model
>>> reranker.postprocess_nodes(nodes, query_str="blue whale")[0].text
'the blue whale sings'
"""

from __future__ import annotations

from llama_index.postprocessor.qwen_rerank._version import __version__
from llama_index.postprocessor.qwen_rerank.base import QwenRerank
from llama_index.postprocessor.qwen_rerank.nodes import RerankedNode
from llama_index.postprocessor.qwen_rerank.query import InstructedQuery

__all__ = ["InstructedQuery", "QwenRerank", "RerankedNode", "__version__"]
