"""Which scorer a configuration means. The only place that names them all; nothing is imported before it is asked for."""

from __future__ import annotations

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import MissingDependencyError
from qwen_rerank_plugins.types import Scorer

LOCAL_MODULES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")


def build_scorer(config: RerankConfig, *, shared: bool = False) -> Scorer:
    """Build the scorer that a configuration means; for the local backend this loads the model.

    Args:
        config: The settings.
        shared: Use the engine that this process has for the same checkpoint and device, if it has one.

    Raises:
        MissingDependencyError: The local backend's packages are not installed.
        ConfigurationError: The settings contradict what the backend can do.
        CheckpointError: The model cannot be used.
    """
    if config.backend == "lexical":
        from qwen_rerank_plugins.lexical import LexicalScorer

        return LexicalScorer()
    if config.backend == "remote":
        from qwen_rerank_plugins.remote import RemoteScorer

        return RemoteScorer.from_config(config)
    try:
        from qwen_rerank_plugins.core.local_scorer import LocalScorer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in LOCAL_MODULES:
            raise
        message = f"the local backend needs {error.name!r}: pip install 'qwen-rerank-plugins[local]'"
        raise MissingDependencyError(message) from error
    return LocalScorer.from_config(config, shared=shared)
