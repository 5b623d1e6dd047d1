"""Every setting, in one frozen value, and the one function that reads settings from the outside.

`RerankConfig(...)` reads nothing but its keywords. `load_config()` alone reads arguments, environment and file.
Nothing here knows models, devices or services; whether a device exists is found out by the room that uses it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from qwen_rerank_plugins.config import validators
from qwen_rerank_plugins.config.sources import (
    CONFIG_VARIABLE,
    read_environment,
    read_file,
    split_variable,
    unknown_setting,
)
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = [
    "DEFAULT_MODEL",
    "DEMO_MODEL",
    "LoadedConfig",
    "RerankConfig",
    "load_config",
    "load_config_with_sources",
    "resolve_api_key",
]

DEFAULT_MODEL = "Qwen/Qwen3-Reranker-0.6B"
DEMO_MODEL = "demo"

SECTIONS = ("service", "opensearch", "batch")
API_KEY_SETTINGS = ("api_key", "api_key_env", "api_key_file")

Text = Annotated[str, AfterValidator(validators.not_blank)]
PathText = Annotated[str, BeforeValidator(validators.path_to_text), AfterValidator(validators.not_blank)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]


class RerankConfig(BaseModel):
    """Every setting of a reranker; frozen, keyword only, and independent of the environment.

    Raises:
        ConfigurationError: A setting is unknown, of the wrong type, out of range, or contradicts another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    backend: Literal["local", "remote", "lexical"] = Field(
        default="local",
        description="Where scores come from: the model in this process, a service, or word overlap (for tests).",
    )
    enabled: bool = Field(
        default=True, description="False leaves every list in its first order, without scores."
    )
    on_error: Literal["raise", "keep_order"] = Field(
        default="raise",
        description="What ranking does when scoring fails: raise, or give the first order with a mark.",
    )

    model: PathText = Field(
        default=DEFAULT_MODEL,
        description="A hub id, a folder with a checkpoint, or `demo` for the bundled demo model.",
    )
    revision: Text | None = Field(
        default=None, description="Branch, tag or commit on the hub; None for its main branch."
    )
    family: PathText = Field(
        default="auto",
        description="The prompt family: `auto` (from the checkpoint), a name, or a YAML or TOML file of one.",
    )
    device: Annotated[str, BeforeValidator(validators.device_list)] = Field(
        default="auto", description="`auto`, `cpu`, `cuda`, `cuda:N`, or several: a list, or `cuda:0,cuda:1`."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="The type that the model computes in; `auto` takes the fastest exact enough on the device.",
    )
    quantization: Literal["none", "int8"] = Field(
        default="none", description="The linear layers' number format: as computed, or 8-bit integers."
    )
    instruction: str | None = Field(
        default=None, description="What relevance means; None for the family's default."
    )

    max_length: Count = Field(
        default=8192, description="Tokens of a pair, template included; the document is cut to fit."
    )
    max_query_tokens: Count | None = Field(
        default=None, description="Tokens of a query before it is cut; None for a quarter of `max_length`."
    )
    long_documents: Literal["truncate", "chunk"] = Field(
        default="truncate",
        description="A document that does not fit is cut, or read in chunks of which the best counts.",
    )
    chunk_tokens: Count = Field(default=512, description="Tokens of a chunk.")
    chunk_overlap: CountOrZero = Field(
        default=64, description="Tokens that a chunk shares with the one before."
    )

    top_n: Count | None = Field(
        default=None, description="Documents that ranking gives at most; None for all."
    )
    min_score: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Documents with a lower relevance_score are left out; None for no threshold.",
    )

    max_batch_tokens: Count | None = Field(
        default=None, description="Tokens in one forward pass; None for what suits the device."
    )
    max_queue_tokens: Count | None = Field(
        default=None, description="Tokens that may wait for the device; None for what suits it."
    )
    admission: Literal["wait", "reject"] = Field(
        default="wait",
        description="What a request does when the queue is full: wait, or fail with OverloadedError.",
    )
    deadline_s: Seconds | None = Field(
        default=None, description="Seconds after which a result is worthless; None for never."
    )
    num_threads: Count | None = Field(
        default=None, description="CPU threads of the model; None for the processor's cores."
    )
    prefix_cache_mb: CountOrZero = Field(
        default=256,
        description="Megabytes for computed instructions and queries that come again; 0 turns it off.",
    )
    self_check: bool = Field(
        default=True, description="Compare the fast path with the plain one when a model is loaded."
    )
    cache_entries: CountOrZero = Field(
        default=100_000, description="Scores kept in memory; 0 turns the cache off."
    )
    cache_path: PathText | None = Field(
        default=None, description="File for scores that outlive the process; None for none."
    )
    cache_disk_entries: CountOrZero = Field(default=1_000_000, description="Scores kept in that file.")

    base_url: Annotated[str, AfterValidator(validators.service_url)] | None = Field(
        default=None,
        description="Address of the service of the `remote` backend, http or https, without credentials.",
    )
    dialect: Literal["qwen", "cohere", "jina", "vllm", "tei", "voyage"] = Field(
        default="qwen", description="What that service speaks; `qwen` is the service of this package."
    )
    template: Literal["server", "client"] = Field(
        default="server", description="Who wraps query and document in the model's template."
    )
    max_batch_documents: Count | None = Field(
        default=None,
        description="Documents in one call to the service; None for what its dialect usually allows.",
    )
    api_key: Annotated[SecretStr, AfterValidator(validators.secret_key)] | None = Field(
        default=None,
        description="The service's key; never in a file: there use `api_key_env` or `api_key_file`.",
    )
    api_key_env: Text | None = Field(
        default=None, description="Name of the environment variable that holds the key."
    )
    api_key_file: PathText | None = Field(
        default=None, description="File that holds the key and nothing else."
    )
    timeout_s: Seconds = Field(
        default=60.0,
        description="Seconds that one call to the service may take, new attempts and waits included.",
    )
    retries: CountOrZero = Field(default=2, description="New attempts after a call that may be repeated.")
    max_concurrency: Count = Field(default=8, description="Calls to the service at the same time.")

    service: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Settings of the HTTP service, checked by it."
    )
    opensearch: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Settings of the OpenSearch integration, checked by it."
    )
    batch: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Settings of the batch pipeline, checked by it."
    )

    if not TYPE_CHECKING:  # type checkers shall see the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise validators.configuration_error(error, type(self).model_fields) from None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.chunk_overlap >= self.chunk_tokens:
            message = f"chunk_overlap is too large: {self.chunk_overlap!r}; allowed: less than chunk_tokens"
            raise ValueError(f"{message}, {self.chunk_tokens!r}")
        if self.max_query_tokens is not None and self.max_query_tokens >= self.max_length:
            message = f"max_query_tokens is too large: {self.max_query_tokens!r}; allowed: less than"
            raise ValueError(f"{message} max_length, {self.max_length!r}")
        if self.backend == "remote" and self.base_url is None:
            raise ValueError("base_url is missing: None; the remote backend needs the address of a service")
        given = [name for name in API_KEY_SETTINGS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"more than one API key: {', '.join(given)}; allowed: one of them")
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices by name, for example `("cuda:0", "cuda:1")`."""
        return tuple(self.device.split(","))

    @property
    def is_demo(self) -> bool:
        """Whether scores come from the bundled demo model."""
        return self.backend == "local" and self.model == DEMO_MODEL

    @classmethod
    def model_validate(cls, obj: Any, **kwargs: Any) -> Self:
        """Build a configuration from a mapping, as pydantic does, but raise `ConfigurationError`."""
        try:
            return super().model_validate(obj, **kwargs)
        except ValidationError as error:
            raise validators.configuration_error(error, cls.model_fields) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **kwargs: Any) -> Self:
        """Build a configuration from JSON, as pydantic does, but raise `ConfigurationError`."""
        try:
            return super().model_validate_json(json_data, **kwargs)
        except ValidationError as error:
            raise validators.configuration_error(error, cls.model_fields) from None

    def replace(self, **changes: Any) -> RerankConfig:
        """Give a checked copy with some settings changed; sections are merged key by key.

        Raises:
            ConfigurationError: As for a new configuration.
        """
        merged = _Merged()
        merged.add({name: getattr(self, name) for name in self.model_fields_set}, "argument")
        merged.add(changes, "argument")
        return RerankConfig(**merged.values)

    def public_settings(self) -> dict[str, Any]:
        """Every setting as plain JSON types, secrets masked: fit to be shown."""
        settings: dict[str, Any] = validators.mask_secrets(self.model_dump(mode="json"))
        return settings

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show only what differs from the defaults; never a secret, nor a section that may hold one."""
        fields = type(self).model_fields
        shown = [(name, getattr(self, name)) for name, field in fields.items() if field.repr]
        return [(name, value) for name, value in shown if value != fields[name].default]


class LoadedConfig(NamedTuple):
    """A configuration and where each of its settings came from.

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
    """Read a configuration: overrides, else environment (`QWEN_RERANK_*`), else file, else the default.

    Args:
        path: A YAML or TOML file; None for the one that `QWEN_RERANK_CONFIG` names, or none.
        overrides: Settings that beat every other source.
        env: The environment's variables; None reads no environment. Empty values count as unset.

    Raises:
        ConfigurationError: A source holds an unknown or a wrong setting, or the file cannot be read.
    """
    return load_config_with_sources(path, overrides=overrides, env=env).config


def load_config_with_sources(
    path: str | os.PathLike[str] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = os.environ,
) -> LoadedConfig:
    """Read a configuration as `load_config` does, and tell where each setting came from."""
    variables = {} if env is None else env
    merged = _Merged()
    _add_file(merged, path or variables.get(CONFIG_VARIABLE) or None)
    _add_environment(merged, variables)
    merged.add(overrides or {}, "argument")
    config = RerankConfig.__new__(RerankConfig)
    try:
        BaseModel.__init__(config, **merged.values)
    except ValidationError as error:
        raise validators.configuration_error(error, RerankConfig.model_fields, merged.sources) from None
    return LoadedConfig(config, dict.fromkeys(RerankConfig.model_fields, "default") | merged.sources)


def resolve_api_key(config: RerankConfig, *, env: Mapping[str, str] = os.environ) -> SecretStr | None:
    """Give the service's key, from whichever of the three settings holds it, or None.

    Raises:
        ConfigurationError: The variable is unset, or the file cannot be read or is empty.
    """
    if config.api_key is not None:
        return config.api_key
    if config.api_key_env is not None:
        key = env.get(config.api_key_env, "").strip()
        origin = f"variable {config.api_key_env!r} (api_key_env)"
    elif config.api_key_file is not None:
        key = validators.read_secret(Path(config.api_key_file))
        origin = f"file {config.api_key_file!r} (api_key_file)"
    else:
        return None
    if not key:
        raise ConfigurationError(f"no API key in {origin}; allowed: one line with the key")
    return SecretStr(key)


class _Merged:
    """Settings and their sources, of layers added from the weakest to the strongest."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def add(self, values: Mapping[str, Any], source: str) -> None:
        """Lay one source's settings over those that are there."""
        if any(name in values for name in API_KEY_SETTINGS):
            for name in API_KEY_SETTINGS:  # one way to a key replaces another
                self.values.pop(name, None)
                self.sources.pop(name, None)
        for name, value in values.items():
            if name not in RerankConfig.model_fields:
                raise unknown_setting(name, RerankConfig.model_fields, source)
            self._add_one(name, value, source)

    def _add_one(self, name: str, value: Any, source: str) -> None:
        self.sources[name] = source
        if name in SECTIONS and isinstance(value, Mapping):
            self.sources.update({f"{name}.{key}": source for key in value})
            value = {**self.values.get(name, {}), **value}
        self.values[name] = value


def _add_file(merged: _Merged, path: str | os.PathLike[str] | None) -> None:
    if path is None:
        return
    values = read_file(Path(path))
    if values.get("api_key") is not None:
        message = f"api_key stands in a file: {os.fspath(path)!r}; allowed there: api_key_env or api_key_file"
        raise ConfigurationError(message)
    merged.add(values, f"file {os.fspath(path)}")


def _add_environment(merged: _Merged, env: Mapping[str, str]) -> None:
    names = [name for name in RerankConfig.model_fields if name not in SECTIONS]
    for variable, text in read_environment(env, names).items():
        section, key = split_variable(variable)
        source = f"environment {variable}"
        if section is None:
            merged.add({key: _parse_variable(variable, key, text)}, source)
        else:
            merged.add({section: {key: text}}, source)


def _parse_variable(variable: str, name: str, text: str) -> Any:
    field = RerankConfig.model_fields[name]
    annotation: Any = Annotated[field.annotation, *field.metadata, Field()]  # type: ignore[unused-ignore]
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    try:
        return adapter.validate_strings(text)
    except ValidationError as error:
        raise validators.configuration_error(error, RerankConfig.model_fields, at=(name, variable)) from None
