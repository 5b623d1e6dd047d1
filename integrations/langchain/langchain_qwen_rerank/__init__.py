"""Qwen3 reranking for LangChain."""
