"""Settings of the service: the validated section `service` of a configuration.

Nothing here opens a socket. Settings name where API keys are stored; only `read_keys` reads them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from qwen_rerank_plugins.config import RerankConfig, validators
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = ["ServiceSettings", "read_keys"]

MEBIBYTE = 1 << 20


def _not_bool(value: object) -> object:
    """Reject booleans, which pydantic would convert to 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number")  # noqa: TRY004 (pydantic reports a ValueError)
    return value


def _list_of_texts(value: object) -> object:
    """Split a comma-separated string; other values are returned unchanged."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _path_prefix(value: str) -> str:
    """Return a path without slashes at its end."""
    if value and not value.startswith("/"):
        raise ValueError("a path that starts with `/`")
    return value.rstrip("/")


Count = Annotated[int, Field(ge=1), BeforeValidator(_not_bool)]
Seconds = Annotated[float, Field(gt=0), BeforeValidator(_not_bool)]
SecondsOrZero = Annotated[float, Field(ge=0), BeforeValidator(_not_bool)]
Text = Annotated[str, AfterValidator(validators.not_blank)]
PathText = Annotated[str, BeforeValidator(validators.path_to_text), AfterValidator(validators.not_blank)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_list_of_texts)]


class ServiceSettings(BaseModel):
    """Settings of the service: address, access, limits, jobs, logging. Immutable; nothing is read from the environment.

    Raises:
        ConfigurationError: A setting is unknown, has the wrong type or is out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: Text = Field(default="127.0.0.1", description="Address to listen on; `0.0.0.0` for every network.")
    port: Annotated[int, Field(ge=0, le=65535), BeforeValidator(_not_bool)] = Field(
        default=8501, description="Port to listen on; 0 takes a free one."
    )
    allowed_hosts: Texts | None = Field(
        default=None,
        description="Host names that clients may use, `*` for any; none: see Operations, Host names.",
    )
    cors_origins: Texts = Field(
        default=(), description="Origins of web pages that may call the service from a browser (CORS)."
    )
    root_path: Annotated[str, AfterValidator(_path_prefix)] = Field(
        default="",
        description="Prefix of every address, as `/rerank-service`; a proxy may keep or remove it.",
    )
    trusted_proxies: Texts = Field(
        default=(),
        description="Addresses or networks of proxies whose `X-Forwarded-For` is logged as the client's address.",
    )
    tls_cert: PathText | None = Field(
        default=None, description="PEM file with the certificate chain; none: no TLS."
    )
    tls_key: PathText | None = Field(
        default=None, description="PEM file with the private key; none: it is in `tls_cert`."
    )

    api_keys_file: PathText | None = Field(
        default=None,
        description="File with the accepted API keys, one per line; lines that start with `#` are comments.",
    )
    api_keys_env: Text | None = Field(
        default=None, description="Name of an environment variable with accepted API keys, comma-separated."
    )

    max_body_bytes: Count = Field(
        default=8 * MEBIBYTE, description="Maximum size of a request body, in bytes."
    )
    max_documents: Count = Field(default=1000, description="Maximum number of documents in a list.")
    max_pairs: Count = Field(default=10_000, description="Maximum number of pairs in a request.")
    max_query_chars: Count = Field(
        default=100_000, description="Maximum length of a query or instruction, in characters."
    )
    max_document_chars: Count = Field(
        default=1_000_000, description="Maximum length of a document, in characters."
    )
    max_pending_tokens: Count = Field(
        default=1_000_000,
        description="Maximum tokens of all pending requests, estimated as a quarter of their bytes.",
    )
    max_pending_bytes: Count = Field(
        default=256 * MEBIBYTE, description="Maximum bytes of all request bodies in memory."
    )
    max_wait_s: Seconds = Field(
        default=10.0,
        description="Maximum expected wait of a new request, in seconds, at the recent throughput.",
    )
    max_connections: Count = Field(default=1000, description="Maximum number of open connections.")

    request_timeout_s: Seconds = Field(
        default=60.0, description="Timeout from the last byte of a request to its answer, in seconds."
    )
    receive_timeout_s: Seconds = Field(
        default=30.0,
        description="Timeout for a request's head, for its body, and for a client that does not read its answer, in seconds.",
    )
    keep_alive_s: Seconds = Field(
        default=75.0, description="Time that an idle connection stays open, in seconds."
    )
    shutdown_delay_s: SecondsOrZero = Field(
        default=0.0,
        description="Time between SIGTERM, after which `/ready` returns 503, and closing the port, in seconds.",
    )
    shutdown_grace_s: SecondsOrZero = Field(
        default=30.0, description="Time to finish accepted requests after that, in seconds."
    )

    jobs_folder: PathText | None = Field(
        default=None, description="Folder for uploaded files and their results; none: uploads are disabled."
    )
    jobs_max_upload_bytes: Count = Field(
        default=256 * MEBIBYTE, description="Maximum size of an uploaded file, in bytes."
    )
    jobs_max_rows: Count = Field(default=1_000_000, description="Maximum number of rows in an uploaded file.")
    jobs_max_total_bytes: Count = Field(
        default=4096 * MEBIBYTE, description="Maximum size of the files of all jobs, in bytes."
    )
    jobs_max_per_key: Count = Field(
        default=20, description="Maximum number of jobs per API key, including finished ones."
    )
    jobs_concurrency: Count = Field(default=1, description="Number of jobs that are scored concurrently.")
    jobs_retention_s: Seconds = Field(
        default=86_400.0, description="Time that a finished job and its files are kept, in seconds."
    )

    model_name: Text | None = Field(
        default=None, description="Name of the model in answers; none: its hub id, or the name of its folder."
    )
    return_documents: bool = Field(
        default=False,
        description="Echo documents in answers if a request does not say (a request with several queries always does).",
    )
    strict_model: bool = Field(
        default=False,
        description="Answer a request that names another model with 404 instead of ignoring the name.",
    )
    honor_priority: bool = Field(
        default=True,
        description="Compute requests with the header `Priority: u=7` (RFC 9218) after all others, in small batches.",
    )
    on_engine_failure: Literal["recover", "exit"] = Field(
        default="recover", description="Reaction to a dead engine: rebuild it, or exit."
    )
    metrics: bool = Field(default=True, description="Serve `/metrics`.")
    tracing: bool = Field(
        default=False, description="Export traces with OpenTelemetry; requires the extra `otel`."
    )
    log_format: Literal["json", "text"] = Field(default="json", description="Format of log lines.")

    if not TYPE_CHECKING:  # type checkers see the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise _as_service_error(error) from None

    @model_validator(mode="after")
    def _has_certificate(self) -> Self:
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("`tls_key` needs `tls_cert`")
        return self

    @classmethod
    def from_config(cls, config: RerankConfig, **overrides: Any) -> Self:
        """Read the section `service` of a configuration; `overrides` take precedence.

        Raises:
            ConfigurationError: As for new settings.
        """
        return cls(**{**config.service, **overrides})

    @property
    def is_public(self) -> bool:
        """Whether other machines can reach `host`."""
        return self.host not in {"localhost", "::1"} and not self.host.startswith("127.")


def _as_service_error(error: ValidationError) -> ConfigurationError:
    message = validators.configuration_error(error, ServiceSettings.model_fields, {})
    return ConfigurationError(f"section 'service': {message}")


def read_keys(settings: ServiceSettings, *, env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the accepted API keys; none if neither `api_keys_file` nor `api_keys_env` is set.

    Raises:
        ConfigurationError: The file or variable contains no key, or cannot be read.
    """
    keys: list[str] = []
    if settings.api_keys_file is not None:
        lines = validators.read_secret(Path(settings.api_keys_file)).splitlines()
        found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        keys += _validate_keys(found, f"file {settings.api_keys_file!r} (api_keys_file)")
    if settings.api_keys_env is not None:
        found = [key.strip() for key in env.get(settings.api_keys_env, "").split(",") if key.strip()]
        keys += _validate_keys(found, f"variable {settings.api_keys_env!r} (api_keys_env)")
    return tuple(dict.fromkeys(keys))


def _validate_keys(keys: list[str], origin: str) -> list[str]:
    """Reject a source without a usable key, which would leave the service open or inaccessible."""
    if not keys:
        raise ConfigurationError(f"no API key in {origin}; add at least one")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise ConfigurationError(
            f"an API key in {origin} is not valid; use printable ASCII characters without spaces"
        )
    return keys
