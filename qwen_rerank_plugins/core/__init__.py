"""The cross-encoder: prompt families, tokenizer, packing, decoder, engine, scheduler and score cache.

Nothing in this package knows HTTP, files of documents, LangChain, LlamaIndex or OpenSearch.
"""
