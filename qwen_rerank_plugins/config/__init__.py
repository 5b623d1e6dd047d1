"""The settings of a reranker, and the functions that load them.

`RerankConfig(...)` reads nothing but its keywords; only `load_config()` reads arguments, the environment and a file.
"""

from __future__ import annotations

from qwen_rerank_plugins.config.loading import (
    LoadedConfig,
    load_config,
    load_config_with_sources,
    resolve_api_key,
)
from qwen_rerank_plugins.config.settings import DEFAULT_MODEL, DEMO_MODEL, RerankConfig
from qwen_rerank_plugins.config.sources import API_KEY_SETTINGS, SECTIONS

__all__ = [
    "API_KEY_SETTINGS",
    "DEFAULT_MODEL",
    "DEMO_MODEL",
    "SECTIONS",
    "LoadedConfig",
    "RerankConfig",
    "load_config",
    "load_config_with_sources",
    "resolve_api_key",
]
