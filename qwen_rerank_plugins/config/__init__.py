"""Every setting in one frozen value, and the one function that reads settings from outside.

`RerankConfig(...)` reads nothing but its keywords. Only `load_config()` reads arguments, the environment and a file.
Nothing here knows models, devices or services: the room that uses a device finds out whether it exists.
"""

from __future__ import annotations

from qwen_rerank_plugins.config.settings import (
    API_KEY_SETTINGS,
    DEFAULT_MODEL,
    DEMO_MODEL,
    SECTIONS,
    LoadedConfig,
    RerankConfig,
    load_config,
    load_config_with_sources,
    resolve_api_key,
)

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
