"""Load a configuration from arguments, the environment and a file. Nothing else in the package reads the three."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, SecretStr, TypeAdapter, ValidationError

from qwen_rerank_plugins.config import validators
from qwen_rerank_plugins.config.settings import RerankConfig
from qwen_rerank_plugins.config.sources import (
    CONFIG_VARIABLE,
    SECTIONS,
    SettingLayers,
    read_environment,
    read_file,
    split_variable,
)
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = ["LoadedConfig", "load_config", "load_config_with_sources", "resolve_api_key"]


class LoadedConfig(NamedTuple):
    """A configuration and the source of each of its settings.

    Attributes:
        config: The configuration.
        sources: Setting, or `section.key`, → "argument", "environment VARIABLE", "file PATH" or "default".
    """

    config: RerankConfig
    sources: dict[str, str]


def load_config(
    path: str | os.PathLike[str] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = os.environ,
) -> RerankConfig:
    """Load a configuration from overrides, the environment (`QWEN_RERANK_*`) and a file, in this order of strength.

    Args:
        path: A YAML or TOML file; None for the one that `QWEN_RERANK_CONFIG` names, if any.
        overrides: Settings that replace those of every other source.
        env: The environment's variables; None for none. Empty values count as unset.

    Raises:
        ConfigurationError: A source holds an unknown or an invalid setting, or the file cannot be read.
    """
    return load_config_with_sources(path, overrides=overrides, env=env).config


def load_config_with_sources(
    path: str | os.PathLike[str] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = os.environ,
) -> LoadedConfig:
    """Load a configuration as `load_config` does, with the source of each setting."""
    variables = {} if env is None else env
    layers = SettingLayers(RerankConfig.model_fields)
    _add_file(layers, path or variables.get(CONFIG_VARIABLE) or None)
    _add_environment(layers, variables)
    layers.add(overrides or {}, "argument")
    config = RerankConfig.__new__(RerankConfig)
    try:
        BaseModel.__init__(config, **layers.values)
    except ValidationError as error:
        raise validators.configuration_error(error, RerankConfig.model_fields, layers.sources) from None
    return LoadedConfig(config, dict.fromkeys(RerankConfig.model_fields, "default") | layers.sources)


def resolve_api_key(config: RerankConfig, *, env: Mapping[str, str] = os.environ) -> SecretStr | None:
    """Return the service's key from `api_key`, `api_key_env` or `api_key_file`, or None if none of them is set.

    Raises:
        ConfigurationError: The variable is unset, or the file cannot be read or is empty.
    """
    if config.api_key is not None:
        return config.api_key
    if config.api_key_env is not None:
        key = env.get(config.api_key_env, "").strip()
        origin = f"variable {config.api_key_env!r} (`api_key_env`)"
    elif config.api_key_file is not None:
        key = validators.read_secret(Path(config.api_key_file))
        origin = f"file {config.api_key_file!r} (`api_key_file`)"
    else:
        return None
    if not key:
        raise ConfigurationError(f"no API key in {origin}; set it to one line with the key")
    return SecretStr(key)


def _add_file(layers: SettingLayers, path: str | os.PathLike[str] | None) -> None:
    if path is None:
        return
    values = read_file(Path(path))
    if values.get("api_key") is not None:
        place = f"in a file ({os.fspath(path)!r})"
        raise ConfigurationError(f"`api_key` is not allowed {place}; use `api_key_env` or `api_key_file`")
    layers.add(values, f"file {os.fspath(path)}")


def _add_environment(layers: SettingLayers, env: Mapping[str, str]) -> None:
    names = [name for name in RerankConfig.model_fields if name not in SECTIONS]
    for variable, text in read_environment(env, names).items():
        section, key = split_variable(variable)
        source = f"environment {variable}"
        if section is None:
            layers.add({key: _parse_variable(variable, key, text)}, source)
        else:
            layers.add({section: {key: text}}, source)


def _parse_variable(variable: str, name: str, text: str) -> Any:
    field = RerankConfig.model_fields[name]
    annotation: Any = Annotated[field.annotation, *field.metadata, Field()]  # type: ignore[unused-ignore]
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    try:
        return adapter.validate_strings(text)
    except ValidationError as error:
        raise validators.configuration_error(error, RerankConfig.model_fields, at=(name, variable)) from None
