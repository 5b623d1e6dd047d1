"""From a wrapper's keywords to a reranker: the base package's settings, or a reranker that is ready.

The only place here that knows how settings are masked and read again. It knows no documents and no callbacks.
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import SecretStr

from qwen_rerank_plugins import ConfigurationError, RerankConfig, Reranker

KEY_VARIABLE = "QWEN_RERANK_API_KEY"
"""Where a masked key is read again: the base package's own variable of the setting."""


def shared_reranker(config: RerankConfig | None, settings: dict[str, Any]) -> Reranker:
    """Create a reranker over the engine that the process shares; nothing is loaded yet.

    Raises:
        ConfigurationError: A setting is unknown or wrong.
    """
    chosen = RerankConfig() if config is None else config
    if settings and isinstance(chosen, RerankConfig):  # anything else is refused below
        chosen = chosen.replace(**_with_key_read_again(settings))
    return Reranker.shared(chosen)


def checked_reranker(reranker: object, config: RerankConfig | None, settings: dict[str, Any]) -> Reranker:
    """Give a reranker that was passed in back, or refuse it.

    Raises:
        ConfigurationError: It is none, or other settings came with it, which it would not follow.
    """
    if not isinstance(reranker, Reranker):
        raise ConfigurationError(
            f"reranker has the wrong type: {reranker!r}; allowed: a Reranker; a model is named by model=..."
        )
    beside = [*(["config"] if config is not None else []), *settings]
    if beside:
        names = ", ".join(map(repr, beside))
        raise ConfigurationError(f"settings beside a ready reranker: {names}; allowed: none, it has its own")
    return reranker


def public_settings(config: RerankConfig) -> dict[str, Any]:
    """The settings that were set explicitly, as plain JSON types, a key masked; sections of other rooms left out."""
    settings = config.model_dump(mode="json", exclude_unset=True)
    return {name: value for name, value in settings.items() if not isinstance(value, dict)}


def _with_key_read_again(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace the mask that stands for a key in settings that were written out.

    Raises:
        ConfigurationError: The variable that it is read from is not set.
    """
    key = settings.get("api_key")
    text = key.get_secret_value() if isinstance(key, SecretStr) else key
    if not isinstance(text, str) or not text or set(text) != {"*"}:
        return settings
    held = os.environ.get(KEY_VARIABLE, "").strip()
    if not held:
        raise ConfigurationError(
            f"api_key is a mask: {text!r}; allowed: a key, or the variable {KEY_VARIABLE} that it is read from again"
        )
    return {**settings, "api_key": SecretStr(held)}
