"""The service's settings: the `service` section of a configuration, checked.

Nothing here opens a socket. Keys are named by the place where they stand; only `read_keys` goes there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qwen_rerank_plugins.config import RerankConfig, validators
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = ["ServiceSettings", "read_keys"]

MEBIBYTE = 1 << 20


def _not_bool(value: object) -> object:
    """Keep true and false from being taken for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number")  # noqa: TRY004 (pydantic tells a ValueError as a finding)
    return value


def _list_of_texts(value: object) -> object:
    """Split a variable's text at commas; a list passes."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Count = Annotated[int, Field(ge=1), BeforeValidator(_not_bool)]
Seconds = Annotated[float, Field(gt=0), BeforeValidator(_not_bool)]
SecondsOrZero = Annotated[float, Field(ge=0), BeforeValidator(_not_bool)]
Text = Annotated[str, AfterValidator(validators.not_blank)]
PathText = Annotated[str, BeforeValidator(validators.path_to_text), AfterValidator(validators.not_blank)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_list_of_texts)]


class ServiceSettings(BaseModel):
    """How the service listens, whom it lets in, and how much it takes on; frozen, and read from nowhere.

    Raises:
        ConfigurationError: A setting is unknown, of the wrong type or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: Text = Field(default="127.0.0.1", description="Address to listen on; `0.0.0.0` for every network.")
    port: Annotated[int, Field(ge=0, le=65535), BeforeValidator(_not_bool)] = Field(
        default=8501, description="Port to listen on; 0 takes a free one."
    )
    allowed_hosts: Texts | None = Field(
        default=None,
        description="Names by which clients may call the service, `*` for any; none: see Operations, Host names.",
    )
    cors_origins: Texts = Field(
        default=(), description="Origins of web pages that may call the service from a browser."
    )

    api_keys_file: PathText | None = Field(
        default=None, description="File with the keys that clients may use, one a line, `#` for remarks."
    )
    api_keys_env: Text | None = Field(
        default=None, description="Name of the environment variable that holds such keys, comma separated."
    )

    max_body_bytes: Count = Field(default=8 * MEBIBYTE, description="Bytes of a request's body.")
    max_documents: Count = Field(default=1000, description="Documents of one list.")
    max_pairs: Count = Field(default=10_000, description="Pairs of one request.")
    max_query_chars: Count = Field(
        default=100_000, description="Characters of a query, or of an instruction."
    )
    max_document_chars: Count = Field(default=1_000_000, description="Characters of a document.")
    max_pending_tokens: Count = Field(
        default=1_000_000,
        description="Tokens, estimated as a quarter of the bytes, of all requests that wait for their answer.",
    )
    max_pending_bytes: Count = Field(
        default=256 * MEBIBYTE, description="Bytes of all bodies that are being received or answered."
    )
    max_wait_s: Seconds = Field(
        default=10.0,
        description="Seconds that a new request is expected to wait, at the recent speed, before it is refused.",
    )
    max_connections: Count = Field(default=1000, description="Connections at the same time.")

    request_timeout_s: Seconds = Field(
        default=60.0, description="Seconds from a request's last byte to its answer."
    )
    receive_timeout_s: Seconds = Field(
        default=30.0,
        description="Seconds for a request's head, again for its body, and to read on in an answer.",
    )
    keep_alive_s: Seconds = Field(default=75.0, description="Seconds that an idle connection stays open.")
    shutdown_delay_s: SecondsOrZero = Field(
        default=0.0,
        description="Seconds between the signal to stop, when `/ready` says no, and the end of listening.",
    )
    shutdown_grace_s: SecondsOrZero = Field(
        default=30.0, description="Seconds in which accepted requests are finished after that."
    )

    jobs_folder: PathText | None = Field(
        default=None, description="Folder for uploaded files and their results; none: no upload is taken."
    )
    jobs_max_upload_bytes: Count = Field(default=256 * MEBIBYTE, description="Bytes of one uploaded file.")
    jobs_max_rows: Count = Field(default=1_000_000, description="Rows of one uploaded file.")
    jobs_max_total_bytes: Count = Field(
        default=4096 * MEBIBYTE, description="Bytes of all jobs' files, above which no upload is taken."
    )
    jobs_max_per_key: Count = Field(
        default=20, description="Jobs that one key may have at the same time, finished ones included."
    )
    jobs_concurrency: Count = Field(default=1, description="Jobs that are scored at the same time.")
    jobs_retention_s: Seconds = Field(
        default=86_400.0, description="Seconds that a finished job and its files are kept."
    )

    model_name: Text | None = Field(
        default=None, description="The model's name in answers; none: its hub id, or its folder's name."
    )
    strict_model: bool = Field(
        default=False,
        description="Answer 404 to a request for a model of another name, in place of ignoring it.",
    )
    on_engine_failure: Literal["recover", "exit"] = Field(
        default="recover", description="What a dead engine means: build it anew, or end the process."
    )
    metrics: bool = Field(default=True, description="Serve `/metrics`.")
    tracing: bool = Field(default=False, description="Send traces by OpenTelemetry; needs the extra `otel`.")
    log_format: Literal["json", "text"] = Field(default="json", description="How log lines are written.")

    if not TYPE_CHECKING:  # type checkers shall see the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise _as_service_error(error) from None

    @classmethod
    def from_config(cls, config: RerankConfig, **overrides: Any) -> Self:
        """Read the section `service` of a configuration, over which `overrides` go.

        Raises:
            ConfigurationError: As for new settings.
        """
        return cls(**{**config.service, **overrides})

    @property
    def is_public(self) -> bool:
        """Whether other machines can reach the address that is listened on."""
        return self.host not in {"localhost", "::1"} and not self.host.startswith("127.")


def _as_service_error(error: ValidationError) -> ConfigurationError:
    told = validators.configuration_error(error, ServiceSettings.model_fields, {})
    return ConfigurationError(f"section 'service': {told}")


def read_keys(settings: ServiceSettings, *, env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Give the keys that clients may use; none where no place is named.

    Raises:
        ConfigurationError: A place is named but holds no key, or cannot be read.
    """
    keys: list[str] = []
    if settings.api_keys_file is not None:
        lines = validators.read_secret(Path(settings.api_keys_file)).splitlines()
        found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        keys += _some_keys(found, f"file {settings.api_keys_file!r} (api_keys_file)")
    if settings.api_keys_env is not None:
        found = [key.strip() for key in env.get(settings.api_keys_env, "").split(",") if key.strip()]
        keys += _some_keys(found, f"variable {settings.api_keys_env!r} (api_keys_env)")
    return tuple(dict.fromkeys(keys))


def _some_keys(keys: list[str], origin: str) -> list[str]:
    """Refuse a place without a usable key: it would leave the service open, or closed to everybody."""
    if not keys:
        raise ConfigurationError(f"no API key in {origin}; allowed: one key or several")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise ConfigurationError(f"an API key in {origin} is not valid; allowed: ASCII without blanks")
    return keys
