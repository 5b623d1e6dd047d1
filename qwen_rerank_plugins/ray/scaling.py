"""How many workers, what each reserves, and how much waits for them; and how such settings are read from arguments.

Knows neither Ray nor HTTP: the numbers are handed on by `serving` and `data`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qwen_rerank_plugins.config import SECTIONS, RerankConfig, load_config, validators
from qwen_rerank_plugins.config.sources import ENV_PREFIX, unknown_setting
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["Deployment", "ScalingSettings", "read_arguments", "scorer_name", "with_reserved_threads"]

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
CONFIG_ARGUMENT = "config"


class ScalingSettings(BaseModel):
    """How the application is spread; frozen, and read from nowhere.

    Raises:
        ConfigurationError: A setting is unknown, of the wrong type or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_replicas: Count = Field(
        default=1, description="Replicas that score, each with its own copy of the model."
    )
    max_replicas: Count | None = Field(
        default=None,
        description="Replicas that Ray may grow to under load, from `num_replicas` on; none: a fixed number.",
    )
    target_ongoing_requests: Annotated[float, Field(gt=0)] = Field(
        default=16.0, description="Calls a replica that growing and shrinking aim at."
    )
    upscale_delay_s: Annotated[float, Field(ge=0)] = Field(
        default=10.0, description="Seconds of load before replicas are added."
    )
    downscale_delay_s: Annotated[float, Field(ge=0)] = Field(
        default=300.0, description="Seconds of calm before replicas are taken away."
    )
    num_cpus: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="CPUs that a replica reserves; it computes with as many threads."
    )
    num_gpus: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="GPUs that a replica reserves; without any it sees none."
    )
    accelerator_type: str | None = Field(
        default=None, description="The kind of GPU, in Ray's words, such as `L4`; none: any."
    )
    num_gateways: Count = Field(default=1, description="Replicas that speak HTTP.")
    gateway_num_cpus: Annotated[float, Field(ge=0)] = Field(
        default=0.5, description="CPUs that each of these reserves."
    )
    max_ongoing_requests: Annotated[int, Field(ge=4)] = Field(
        default=256, description="Calls that a replica works on or holds for its next batches."
    )
    max_queued_requests: Count = Field(
        default=256, description="Calls of a gateway that wait for a replica before it answers 429."
    )
    batch_tokens: Annotated[int, Field(ge=256)] = Field(
        default=16_384,
        description="Tokens, estimated, that are scored in one call; larger requests are spread over replicas.",
    )
    batch_wait_s: Annotated[float, Field(ge=0)] = Field(
        default=0.002, description="Seconds that a call waits for others to be scored with."
    )
    call_attempts: Count = Field(
        default=4, description="Attempts at a call whose replica died or was taken away."
    )

    if not TYPE_CHECKING:  # type checkers shall see the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise validators.configuration_error(error, type(self).model_fields) from None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.num_replicas:
            message = f"max_replicas is too small: {self.max_replicas!r}; allowed: at least num_replicas"
            raise ValueError(f"{message}, {self.num_replicas!r}")
        return self


class Deployment(NamedTuple):
    """What an application is built from.

    Attributes:
        config: The reranker's settings.
        settings: The service's.
        scaling: How it is spread.
    """

    config: RerankConfig
    settings: ServiceSettings
    scaling: ScalingSettings


def read_arguments(arguments: Mapping[str, Any], *, env: Mapping[str, str] | None = os.environ) -> Deployment:
    """Read the arguments of `serve run`, or of an application in Serve's own file.

    They are settings of `ScalingSettings`, settings of a configuration, `service.NAME` or a mapping `service`, and
    `config`, the path of a configuration file. Texts are read as in environment variables. Arguments beat the
    environment, which beats the file.

    Raises:
        ConfigurationError: An argument is unknown or wrong.
    """
    scaling: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    variables = dict(env or {})
    for name, value in arguments.items():
        if name in ScalingSettings.model_fields:
            scaling[name] = value
        elif name != CONFIG_ARGUMENT:
            _check_known(name)
            if isinstance(value, str):
                variables[ENV_PREFIX + name.replace(".", "_").upper()] = value
            else:
                _put(settings, name, value)
    config = load_config(arguments.get(CONFIG_ARGUMENT), overrides=settings, env=variables)
    return Deployment(config, ServiceSettings.from_config(config), ScalingSettings(**scaling))


def _check_known(name: str) -> None:
    """Refuse an argument that is none, in the words of arguments and not of variables."""
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
        raise ConfigurationError("api_key stands in an argument; allowed there: api_key_env or api_key_file")


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    section, dot, key = name.partition(".")
    if dot:
        settings[section] = {**settings.get(section, {}), key: value}
    elif name in SECTIONS and isinstance(value, Mapping):
        settings[name] = {**settings.get(name, {}), **value}
    else:
        settings[name] = value


def with_reserved_threads(config: RerankConfig, num_cpus: float) -> RerankConfig:
    """Let a worker compute with the CPUs that it reserved, unless the configuration says otherwise.

    Several workers of one machine that each took all of its cores would wait for each other.
    """
    if config.num_threads is not None:
        return config
    return config.replace(num_threads=max(1, int(num_cpus)))


def scorer_name(config: RerankConfig) -> str:
    """The name under which workers' scores are reported, before any of them has loaded something."""
    return config.model if config.backend == "local" else config.backend
