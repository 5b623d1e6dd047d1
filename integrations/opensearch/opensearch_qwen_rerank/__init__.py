"""Qwen3 reranking for OpenSearch: configures a cluster to rerank, or reranks its responses on the client side.

`plan_apply`, `plan_destroy` and `verify` are the command line as functions over a `Cluster`. Names are imported on first
use; importing this module loads neither opensearch-py nor a model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from opensearch_qwen_rerank._version import __version__
from opensearch_qwen_rerank.errors import (
    ClusterError,
    ForeignObjectError,
    OpenSearchError,
    UnsupportedClusterError,
    VerificationError,
)

if TYPE_CHECKING:
    from opensearch_qwen_rerank.client import AsyncClientSideReranker, ClientSideReranker
    from opensearch_qwen_rerank.cluster import Cluster, connect
    from opensearch_qwen_rerank.destroy import plan_destroy
    from opensearch_qwen_rerank.lock import locked
    from opensearch_qwen_rerank.plan import Plan, plan_apply
    from opensearch_qwen_rerank.settings import OpenSearchSettings
    from opensearch_qwen_rerank.verification import VerificationReport, verify

__all__ = [
    "AsyncClientSideReranker",
    "ClientSideReranker",
    "Cluster",
    "ClusterError",
    "ForeignObjectError",
    "OpenSearchError",
    "OpenSearchSettings",
    "Plan",
    "UnsupportedClusterError",
    "VerificationError",
    "VerificationReport",
    "__version__",
    "connect",
    "locked",
    "plan_apply",
    "plan_destroy",
    "verify",
]

_LAZY = {
    "AsyncClientSideReranker": "opensearch_qwen_rerank.client",
    "ClientSideReranker": "opensearch_qwen_rerank.client",
    "Cluster": "opensearch_qwen_rerank.cluster",
    "OpenSearchSettings": "opensearch_qwen_rerank.settings",
    "Plan": "opensearch_qwen_rerank.plan",
    "VerificationReport": "opensearch_qwen_rerank.verification",
    "connect": "opensearch_qwen_rerank.cluster",
    "locked": "opensearch_qwen_rerank.lock",
    "plan_apply": "opensearch_qwen_rerank.plan",
    "plan_destroy": "opensearch_qwen_rerank.destroy",
    "verify": "opensearch_qwen_rerank.verification",
}
"""Public name → the module that defines it and that takes time to import."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
