"""The cross-encoder: prompt families, tokens, packing, the decoder, its engine, scheduler and cache.

Nothing in here knows HTTP, files of documents, LangChain, LlamaIndex or OpenSearch.
"""
