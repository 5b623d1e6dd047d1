"""Haystack's names and types of a ranker's parameters, and the settings of the base package that they stand for.

The only module that knows Haystack's secrets and devices. It knows no documents and no scorer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from haystack.utils import ComponentDevice, Secret
from haystack.utils.auth import SecretType
from pydantic import SecretStr

from qwen_rerank_plugins import ConfigurationError, RerankConfig
from qwen_rerank_plugins.adapters import explicit_settings

__all__ = ["HAYSTACK_NAMES", "environment_secret", "to_parameters", "to_settings"]

HAYSTACK_NAMES = {"top_n": "top_k", "min_score": "score_threshold"}
"""Setting → its name in Haystack's rankers; both names are accepted."""

KEY_SETTINGS = ("api_key", "api_key_env", "api_key_file")


def to_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ranker's parameters as settings of the base package.

    Raises:
        ConfigurationError: A setting was given under both of its names, or a secret cannot be resolved.
    """
    settings = dict(parameters)
    for name, alias in HAYSTACK_NAMES.items():
        if alias in settings:
            if name in settings:
                raise ConfigurationError(f"{alias!r} and {name!r} are one setting. Pass one of them.")
            settings[name] = settings.pop(alias)
    if isinstance(settings.get("device"), ComponentDevice):
        settings["device"] = settings["device"].to_torch_str()
    if isinstance(settings.get("api_key"), Secret):
        settings |= _key_settings(settings.pop("api_key"))
    return settings


def environment_secret(api_key: object) -> Secret | None:
    """Return a secret that names environment variables, which can be serialized; None for anything else."""
    return api_key if isinstance(api_key, Secret) and api_key.type is SecretType.ENV_VAR else None


def to_parameters(config: RerankConfig, secret: Secret | None) -> dict[str, Any]:
    """Return the parameters that create a ranker with this configuration, as plain JSON types, without a key.

    Raises:
        ValueError: The configuration holds the key itself; Haystack refuses to serialize a token.
    """
    settings = explicit_settings(config)
    if secret is not None:
        settings = {name: value for name, value in settings.items() if name not in KEY_SETTINGS}
        settings["api_key"] = secret.to_dict()
    elif config.api_key is not None:
        Secret.from_token(config.api_key.get_secret_value()).to_dict()
    return {HAYSTACK_NAMES.get(name, name): value for name, value in settings.items()}


def _key_settings(secret: Secret) -> dict[str, Any]:
    """Return the settings that a secret stands for; if it names several variables, the first that is set."""
    if environment_secret(secret) is None:
        return {"api_key": SecretStr(str(secret.resolve_value()))}
    named = secret.to_dict()
    variables: list[str] = list(named["env_vars"])
    held = [name for name in variables if os.environ.get(name)]
    if not held and not named["strict"]:
        return {"api_key": None}
    return {"api_key_env": (held or variables)[0]}
