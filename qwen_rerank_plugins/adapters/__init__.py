"""What the wrappers for LangChain, LlamaIndex and Haystack share; a wrapper for another framework can use it too.

A wrapper derives from `OwnsReranker`, or from `OwnsRerankerModel` if its framework's classes are pydantic models. It
checks its documents with `collect_documents`, renders them as `Candidates`, and writes the outcome into the metadata of
copies with `reranked_metadata`; `SpanParameters` returns a document's relevant spans and shortens its text.
`render_metadata` is the one format of metadata in a scored text, so that a document has the same score in every
framework. Nothing here knows a framework.
"""

from __future__ import annotations

from qwen_rerank_plugins.adapters.documents import (
    Candidates,
    check_metadata_fields,
    collect_documents,
    render_metadata,
)
from qwen_rerank_plugins.adapters.metadata import reranked_metadata
from qwen_rerank_plugins.adapters.models import OwnsRerankerModel
from qwen_rerank_plugins.adapters.ownership import (
    API_KEY_VARIABLE,
    OwnsReranker,
    explicit_settings,
    resolve_reranker,
)
from qwen_rerank_plugins.adapters.spans import (
    GAP,
    Excerpt,
    SpanParameters,
    check_span_parameters,
    clipped,
    given_parameters,
)

__all__ = [
    "API_KEY_VARIABLE",
    "GAP",
    "Candidates",
    "Excerpt",
    "OwnsReranker",
    "OwnsRerankerModel",
    "SpanParameters",
    "check_metadata_fields",
    "check_span_parameters",
    "clipped",
    "collect_documents",
    "explicit_settings",
    "given_parameters",
    "render_metadata",
    "reranked_metadata",
    "resolve_reranker",
]
