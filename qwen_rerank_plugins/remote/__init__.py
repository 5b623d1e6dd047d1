"""The `Scorer` protocol over HTTP: a service computes the scores.

Nothing here knows models, tokenizers or torch. `scorer` is the entry point; `dialects` describes the requests and
answers of each kind of service, `answers` validates what a service returned, `channel` is the HTTP client, and `loop`
runs it on an event loop in its own thread.
"""

from __future__ import annotations

from qwen_rerank_plugins.remote.scorer import RemoteScorer

__all__ = ["RemoteScorer"]
