"""The HTTP service: every dialect that rerank clients speak, the workbench, and what running it takes.

It knows the public `Reranker` and nothing behind it.
"""
