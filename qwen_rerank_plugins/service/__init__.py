"""The HTTP service: an app that speaks the dialects of rerank clients, the workbench, and the server process.

It uses the public `Reranker` and nothing behind it.
"""
