"""The settings of the Ray Serve application, and how they are read from its arguments. Imports no Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qwen_rerank_plugins.config import SECTIONS, RerankConfig, load_config, validators
from qwen_rerank_plugins.config.sources import ENV_PREFIX, unknown_setting
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["ApplicationSettings", "ScalingSettings", "read_arguments", "scorer_name", "with_reserved_threads"]

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
CONFIG_ARGUMENT = "config"


class ScalingSettings(BaseModel):
    """Replicas, resources and batches of the application. Frozen; constructing it reads no environment and no file.

    Raises:
        ConfigurationError: A setting is unknown, of the wrong type or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_replicas: Count = Field(
        default=1, description="Scorer replicas, each with its own copy of the model."
    )
    max_replicas: Count | None = Field(
        default=None,
        description="Maximum scorer replicas under load, from `num_replicas` on; none: a fixed number.",
    )
    target_ongoing_requests: Annotated[float, Field(gt=0)] = Field(
        default=16.0, description="Ongoing calls per replica that autoscaling aims at."
    )
    upscale_delay_s: Annotated[float, Field(ge=0)] = Field(
        default=10.0, description="Seconds of load before autoscaling adds replicas."
    )
    downscale_delay_s: Annotated[float, Field(ge=0)] = Field(
        default=300.0, description="Seconds of low load before autoscaling removes replicas."
    )
    num_cpus: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="CPUs that a scorer replica reserves; it computes with as many threads."
    )
    num_gpus: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="GPUs that a scorer replica reserves; with 0 it sees none."
    )
    accelerator_type: str | None = Field(
        default=None, description="Type of GPU by Ray's name, such as `L4`; none: any."
    )
    num_gateways: Count = Field(default=1, description="Gateway replicas, which serve HTTP.")
    gateway_num_cpus: Annotated[float, Field(ge=0)] = Field(
        default=0.5, description="CPUs that a gateway replica reserves."
    )
    max_ongoing_requests: Annotated[int, Field(ge=4)] = Field(
        default=256, description="Calls that a scorer replica computes or holds for its next batches."
    )
    max_queued_requests: Count = Field(
        default=256, description="Calls of a gateway that wait for a replica; further requests get 429."
    )
    batch_tokens: Annotated[int, Field(ge=256)] = Field(
        default=16_384,
        description="Estimated tokens of a batch; larger requests are split over replicas.",
    )
    batch_wait_s: Annotated[float, Field(ge=0)] = Field(
        default=0.002, description="Seconds that a call waits for others to join its batch."
    )
    call_attempts: Count = Field(default=4, description="Attempts at a call whose replica is lost.")

    if not TYPE_CHECKING:  # type checkers use the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise validators.configuration_error(error, type(self).model_fields) from None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.num_replicas:
            raise ValueError(
                f"max_replicas is too small: {self.max_replicas!r}; use at least num_replicas, {self.num_replicas!r}"
            )
        return self


class ApplicationSettings(NamedTuple):
    """All settings of an application.

    Attributes:
        config: The settings of the reranker.
        service: The settings of the service.
        scaling: Replicas, resources and batches.
    """

    config: RerankConfig
    service: ServiceSettings
    scaling: ScalingSettings


def read_arguments(
    arguments: Mapping[str, Any], *, env: Mapping[str, str] | None = os.environ
) -> ApplicationSettings:
    """Read the arguments of `serve run`, or of an application in a Serve config file.

    Arguments are the settings of `ScalingSettings` and of a configuration, `service.NAME` or a mapping `service`, and
    `config`, the path of a configuration file. Strings are parsed as in environment variables. Arguments take precedence
    over the environment, and the environment over the file.

    Args:
        arguments: Name → value.
        env: The environment variables.

    Raises:
        ConfigurationError: An argument is unknown or not valid.
    """
    scaling: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    variables = dict(env or {})
    for name, value in arguments.items():
        if name in ScalingSettings.model_fields:
            scaling[name] = value
        elif name != CONFIG_ARGUMENT:
            _check_name(name)
            if isinstance(value, str):
                variables[ENV_PREFIX + name.replace(".", "_").upper()] = value
            else:
                _set_override(overrides, name, value)
    config = load_config(arguments.get(CONFIG_ARGUMENT), overrides=overrides, env=variables)
    return ApplicationSettings(config, ServiceSettings.from_config(config), ScalingSettings(**scaling))


def _check_name(name: str) -> None:
    """Refuse an unknown argument, with an error about arguments rather than variables."""
    section, dot, key = name.partition(".")
    if dot and section == "service":
        if key not in ServiceSettings.model_fields:
            raise unknown_setting(
                name, [f"service.{known}" for known in ServiceSettings.model_fields], "argument"
            )
    elif name not in RerankConfig.model_fields:
        known = {*RerankConfig.model_fields, *ScalingSettings.model_fields, CONFIG_ARGUMENT}
        raise unknown_setting(name, sorted(known - set(SECTIONS)), "argument")
    elif name == "api_key":
        raise ConfigurationError("api_key must not be an argument; use api_key_env or api_key_file")


def _set_override(overrides: dict[str, Any], name: str, value: Any) -> None:
    section, dot, key = name.partition(".")
    if dot:
        overrides[section] = {**overrides.get(section, {}), key: value}
    elif name in SECTIONS and isinstance(value, Mapping):
        overrides[name] = {**overrides.get(name, {}), **value}
    else:
        overrides[name] = value


def with_reserved_threads(config: RerankConfig, num_cpus: float) -> RerankConfig:
    """Return settings with one thread per reserved CPU, unless `num_threads` is set.

    Otherwise every worker of a machine would use all of its cores.
    """
    if config.num_threads is not None:
        return config
    return config.replace(num_threads=max(1, int(num_cpus)))


def scorer_name(config: RerankConfig) -> str:
    """Return the model name to report before a worker has loaded the model."""
    return config.model if config.backend == "local" else config.backend
