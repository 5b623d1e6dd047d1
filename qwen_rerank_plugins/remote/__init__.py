"""Scores from a service: the same `Scorer` protocol as the local model, over HTTP.

Nothing here knows models, tokenizers or torch. `scorer` puts the rooms together; `dialects` knows what services of
each kind want and give, `answers` checks what they gave, `channel` does the HTTP, `loop` runs it beside the caller.
"""

from __future__ import annotations

from qwen_rerank_plugins.remote.scorer import RemoteScorer

__all__ = ["RemoteScorer"]
