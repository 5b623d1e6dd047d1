"""Which settings of a configuration are written down, and how they are read again. Knows no nodes and no scorer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from qwen_rerank_plugins import ConfigurationError, RerankConfig, Reranker

API_KEY_VARIABLE = "QWEN_RERANK_API_KEY"
"""Where a masked key is read again: the base package's own variable of the setting."""

# They belong to the service, OpenSearch and the batch pipeline, and may hold secrets of theirs.
FOREIGN_SECTIONS = frozenset({"service", "opensearch", "batch"})


def shared_reranker(config: object, settings: Mapping[str, Any]) -> Reranker:
    """Create a reranker over the engine that the process shares; nothing is loaded yet.

    Raises:
        ConfigurationError: A setting is unknown or wrong.
    """
    chosen = RerankConfig() if config is None else config
    if not isinstance(chosen, RerankConfig):
        raise _wrong_kind("config", chosen, RerankConfig)
    return Reranker.shared(chosen.replace(**unmasked(settings)) if settings else chosen)


def checked_reranker(reranker: object, config: object, settings: Mapping[str, Any]) -> Reranker:
    """Give a reranker that was passed in back, or refuse it.

    Raises:
        ConfigurationError: It is none, or other settings came with it, which it would not follow.
    """
    if not isinstance(reranker, Reranker):
        raise _wrong_kind("reranker", reranker, Reranker)
    beside = [*(["config"] if config is not None else []), *settings]
    if beside:
        names = ", ".join(map(repr, beside))
        raise ConfigurationError(f"settings beside a ready reranker: {names}; allowed: none, it has its own")
    return reranker


def explicit_settings(config: RerankConfig) -> dict[str, Any]:
    """Give the settings that were set, not those left at their defaults, as plain JSON types with a key masked."""
    names = set(config.model_fields_set - FOREIGN_SECTIONS)
    settings: dict[str, Any] = config.model_dump(mode="json", include=names)
    return settings


def unmasked(settings: Mapping[str, Any], *, env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Put the key of this process's environment where written settings have the mask of one.

    Raises:
        ConfigurationError: The environment has no key.
    """
    given = settings.get("api_key")
    if not isinstance(given, str) or not given or set(given) != {"*"}:
        return dict(settings)
    key = env.get(API_KEY_VARIABLE, "").strip()
    if not key:
        raise ConfigurationError(
            f"api_key is a mask: {given!r}; allowed: a key, or the variable {API_KEY_VARIABLE} that it is read from again"
        )
    return {**settings, "api_key": key}


def _wrong_kind(name: str, value: object, kind: type) -> ConfigurationError:
    hint = "; a model is named by model=..." if isinstance(value, str) else ""
    return ConfigurationError(f"{name} has the wrong type: {value!r}; allowed: a {kind.__name__}{hint}")
