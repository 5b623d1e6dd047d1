"""Rerank search results with Qwen3 cross-encoders, in this process or on a service.

    >>> from qwen_rerank_plugins import Reranker
    >>> reranker = Reranker(backend="lexical")  # word overlap; without it, a Qwen3 model
    >>> result = reranker.rank("washing a cat", ["a dog in the sun", "how to wash a cat"])
    >>> result.results[0].document
    'how to wash a cat'

Importing this module loads neither torch nor transformers nor pydantic: names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qwen_rerank_plugins.errors import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    ClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DeviceLostError,
    EngineError,
    EngineOutOfMemoryError,
    FamilyMismatchError,
    InputError,
    InputTypeError,
    InstructionTooLongError,
    MissingDependencyError,
    NonFiniteScoreError,
    OverloadedError,
    RemoteConnectionError,
    RemoteError,
    RemoteProtocolError,
    RemoteStatusError,
    RequestError,
    RerankError,
    TensorMismatchError,
    WorkerDiedError,
)
from qwen_rerank_plugins.types import (
    Document,
    PairScore,
    Priority,
    RankedDocument,
    RelevantSpan,
    RerankResult,
    Scorer,
    ScoreRequest,
    Span,
    SpanOptions,
    TextLimits,
    Usage,
)

if TYPE_CHECKING:
    from qwen_rerank_plugins.config import (
        RerankConfig,
        load_config,
    )
    from qwen_rerank_plugins.lexical import (
        LexicalScorer,
    )
    from qwen_rerank_plugins.reranker import (
        Reranker,
    )

__all__ = [
    "CheckpointError",
    "CheckpointFormatError",
    "CheckpointNotFoundError",
    "ClosedError",
    "ConfigurationError",
    "DeadlineExceededError",
    "DeviceLostError",
    "Document",
    "EngineError",
    "EngineOutOfMemoryError",
    "FamilyMismatchError",
    "InputError",
    "InputTypeError",
    "InstructionTooLongError",
    "LexicalScorer",
    "MissingDependencyError",
    "NonFiniteScoreError",
    "OverloadedError",
    "PairScore",
    "Priority",
    "RankedDocument",
    "RelevantSpan",
    "RemoteConnectionError",
    "RemoteError",
    "RemoteProtocolError",
    "RemoteStatusError",
    "RequestError",
    "RerankConfig",
    "RerankError",
    "RerankResult",
    "Reranker",
    "ScoreRequest",
    "Scorer",
    "Span",
    "SpanOptions",
    "TensorMismatchError",
    "TextLimits",
    "Usage",
    "WorkerDiedError",
    "__version__",
    "load_config",
]

__version__ = "0.2.0"

_LAZY = {
    "LexicalScorer": "qwen_rerank_plugins.lexical",
    "RerankConfig": "qwen_rerank_plugins.config",
    "Reranker": "qwen_rerank_plugins.reranker",
    "load_config": "qwen_rerank_plugins.config",
}
"""Public name → its module, for modules that are slow to import."""


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
