"""Qwen3 reranking for LlamaIndex."""
