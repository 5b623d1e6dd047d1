"""The validated `opensearch` section of a configuration: the cluster, how it is reached, and how it reranks.

This module opens no socket. Settings name the variable or file of a secret; only `read_secret` reads it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from qwen_rerank_plugins import ConfigurationError, RerankConfig
from qwen_rerank_plugins.config.names import suggestion

__all__ = ["OpenSearchSettings", "format_requirement", "read_secret"]

_PIPELINE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_FIELD = re.compile(r"[^\s'\"\\$.,\[\]][^'\"\\$,\[\]]*(?<!\.)")
_QUERY_PATH = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+|\[\d+\])*\.(query|query_text)")
_PRIVATE_NAME = re.compile(r"[^.]+|.*\.(internal|local|localdomain|lan|svc|home\.arpa)")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("a string that is not blank")
    return text


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")  # noqa: TRY004 (pydantic reports a ValueError)
    return value


def _split_names(value: object) -> object:
    """Split the text of a variable or an option at commas; a list is returned as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _check_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in {"http", "https"}:
        raise ValueError("an address such as 'http://host:8501'")
    if "@" in parts.netloc or parts.query or parts.fragment or "$" in url:
        raise ValueError("an address without credentials, query or fragment")
    return url.rstrip("/")


def _check_pipeline(name: str) -> str:
    if not _PIPELINE.fullmatch(name):
        raise ValueError(
            "at most 64 lowercase letters, digits, '-' and '_', starting with a letter or a digit"
        )
    return name


def _check_field(name: str) -> str:
    if not _FIELD.fullmatch(name):
        raise ValueError("a list of field names, which may be dotted, without quotes, brackets, '$' and '\\'")
    return name


def _normalize_query_path(path: str) -> str:
    """Return a path as JSONPath relative to the request: `query.hybrid.queries[0].match.body.query`."""
    bare = re.sub(r"\.(\d+)(?=\.)", r"[\1]", path.removeprefix("$.").removeprefix("_request."))
    if not _QUERY_PATH.fullmatch(bare):
        raise ValueError(
            "the path of the query's text in the search's full form, ending in 'query' or 'query_text', "
            "such as 'query.match.body.query'"
        )
    return bare


def _check_no_placeholder(text: str) -> str:
    if "${" in text:
        raise ValueError("a string without '${', which the cluster would replace")
    return text


Count = Annotated[int, Field(ge=1), BeforeValidator(_not_bool)]
CountOrZero = Annotated[int, Field(ge=0), BeforeValidator(_not_bool)]
Text = Annotated[str, AfterValidator(_not_blank)]
Address = Annotated[str, AfterValidator(_check_address)]


class OpenSearchSettings(BaseModel):
    """The cluster, how it is reached, and how it reranks; frozen. Reads neither files nor the environment.

    Raises:
        ConfigurationError: A setting is unknown, of the wrong type, out of range, or contradicts another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cluster: Address = Field(default="http://localhost:9200", description="Address of the cluster.")
    username: Text | None = Field(default=None, description="User name for basic authentication.")
    password_env: Text | None = Field(
        default=None, description="Name of the environment variable with the user's password."
    )
    password_file: Text | None = Field(default=None, description="File with the user's password.")
    ca_certs: Text | None = Field(
        default=None,
        description="File with the certificates of the authority that signed the cluster's certificate.",
    )
    client_cert: Text | None = Field(default=None, description="File with the client certificate.")
    client_key: Text | None = Field(default=None, description="File with the key of the client certificate.")
    verify_certs: bool = Field(
        default=True, description="Refuse a cluster whose certificate cannot be verified."
    )
    aws_region: Text | None = Field(
        default=None, description="AWS region of a managed cluster; requests are then signed (SigV4)."
    )
    aws_service: Literal["es", "aoss"] = Field(
        default="es", description="AWS service that requests are signed for: es, or aoss (serverless)."
    )
    timeout_s: Count = Field(default=30, description="Timeout of a request to the cluster, in seconds.")

    pipeline: Annotated[str, AfterValidator(_check_pipeline)] = Field(
        default="qwen-rerank",
        description="Name of the search pipeline; the connector, model group and model are named after it.",
    )
    service: Address = Field(
        default="http://localhost:8501",
        description="Address of the rerank service, as the cluster's nodes reach it.",
    )
    private_network: bool | None = Field(
        default=None,
        description="Whether that address is private. By default, its form decides.",
    )
    fields: Annotated[
        tuple[Annotated[str, AfterValidator(_check_field)], ...], BeforeValidator(_split_names)
    ] = Field(default=(), description="Fields that are ranked, comma separated, the most informative first.")
    recipe: Literal["simple", "rich", "native"] = Field(
        default="rich",
        description="How the cluster reranks: rich (OpenSearch 2.19 or newer), simple (2.15 or newer), or native (with our plugin).",
    )
    window: Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_not_bool)] = Field(
        default=100,
        description="Number of reranked hits, whichever page is requested. Only with the recipe native.",
    )
    oversample: Annotated[float, Field(ge=1, le=1000), BeforeValidator(_not_bool)] = Field(
        default=5.0, description="Number of reranked hits, as a multiple of the search's size."
    )
    query_path: Annotated[str, AfterValidator(_normalize_query_path)] | None = Field(
        default=None,
        description="Path of the query in the search. By default, the query is read from ext. Only with the recipe rich.",
    )
    instruction: Annotated[Text, AfterValidator(_check_no_placeholder)] | None = Field(
        default=None, description="What relevance means. By default, the service's instruction."
    )
    score: Literal["probability", "log_odds"] = Field(
        default="probability",
        description="Score of the hits: probability, or log_odds, which also differ where probabilities are near 1.",
    )
    first_score_field: Text = Field(
        default="previous_score",
        description="Field of a hit for the first stage's score (recipe rich; can be renamed from 3.8 on).",
    )
    on_error: Literal["keep_order", "raise"] = Field(
        default="keep_order",
        description="What a search returns if reranking fails: the first stage's order, or an error.",
    )
    default_for: Annotated[tuple[Text, ...], BeforeValidator(_split_names)] = Field(
        default=(), description="Indices that get this pipeline as their default, comma separated."
    )

    service_key_env: Text | None = Field(
        default=None, description="Name of the environment variable with the service's API key."
    )
    service_key_file: Text | None = Field(default=None, description="File with the service's API key.")
    secret_arn: Text | None = Field(
        default=None,
        description="ARN of the secret with the service's API key, on a managed cluster (AWS Secrets Manager).",
    )
    secret_role_arn: Text | None = Field(
        default=None, description="ARN of the role that may read that secret."
    )
    secret_name: Text = Field(default="api_key", description="Name of the API key in that secret.")

    model: Annotated[Text, AfterValidator(_check_no_placeholder)] | None = Field(
        default=None, description="Name of the model in requests, for a service that requires it."
    )
    connect_timeout_s: Count = Field(
        default=3, description="Timeout of a connection to the service, in seconds."
    )
    read_timeout_s: Count = Field(default=10, description="Timeout of a rerank request, in seconds.")
    max_connections: Count = Field(
        default=30, description="Maximum number of connections from each node to the service."
    )
    retries: CountOrZero = Field(default=2, description="Number of retries if the service is overloaded.")
    retry_backoff_ms: Count = Field(default=100, description="Pause before the first retry, in milliseconds.")

    if not TYPE_CHECKING:  # type checkers see the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise _to_configuration_error(error, type(self).model_fields) from None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.query_path is not None and self.recipe != "rich":
            origin = "ext" if self.recipe == "simple" else "the search itself"
            raise ValueError(
                f"query_path is set with the recipe {self.recipe!r}, which reads the query from {origin}. Use the recipe 'rich'."
            )
        if self.recipe == "native":
            _check_native(self)
        if self.default_for and self.on_error == "raise":
            raise ValueError(
                "default_for is set with on_error 'raise', which fails searches without a query. "
                "Use on_error 'keep_order'."
            )
        _check_credentials(self)
        return self

    @classmethod
    def from_config(cls, config: RerankConfig, **overrides: Any) -> Self:
        """Create settings from the section `opensearch` of a configuration; `overrides` take precedence.

        Raises:
            ConfigurationError: A setting is invalid.
        """
        return cls(**{**config.opensearch, **overrides})

    @property
    def service_url(self) -> str:
        """The address that the cluster calls."""
        return f"{self.service}/v1/rerank"

    @property
    def is_private(self) -> bool:
        """Whether OpenSearch considers the service's address private."""
        if self.private_network is not None:
            return self.private_network
        host = urlsplit(self.service).hostname or ""
        try:
            return not ipaddress.ip_address(host).is_global
        except ValueError:
            return _PRIVATE_NAME.fullmatch(host) is not None


def _check_native(settings: OpenSearchSettings) -> None:
    if settings.score == "log_odds":
        raise ValueError("score is 'log_odds' with the recipe 'native', whose scores are probabilities.")
    for name in ("service_key_env", "service_key_file", "secret_arn"):
        if getattr(settings, name) is not None:
            raise ValueError(
                f"{name} is set with the recipe 'native'. Put the key into each node's keystore, as qwen_rerank.api_key."
            )


def _check_credentials(settings: OpenSearchSettings) -> None:
    def given(*names: str) -> list[str]:
        return [name for name in names if getattr(settings, name) is not None]

    for names in (
        ("password_env", "password_file"),
        ("service_key_env", "service_key_file", "secret_arn"),
        ("username", "aws_region"),
    ):
        if len(given(*names)) > 1:
            raise ValueError(f"settings exclude each other: {', '.join(given(*names))}. Set one of them.")
    for name, needed in (
        ("username", ("password_env", "password_file")),
        ("password_env", ("username",)),
        ("password_file", ("username",)),
        ("secret_arn", ("secret_role_arn",)),
        ("secret_role_arn", ("secret_arn",)),
        ("client_key", ("client_cert",)),
    ):
        if given(name) and not given(*needed):
            raise ValueError(f"{name} is set alone. Also set {' or '.join(needed)}.")


def _to_configuration_error(error: ValidationError, known: Mapping[str, Any]) -> ConfigurationError:
    """Format pydantic's errors as one line: the setting, its value, and the requirement."""
    texts = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        own = detail.get("ctx", {}).get("error")
        if detail["type"] == "extra_forbidden":
            texts.append(f"unknown setting {name!r}; {suggestion(name, known)}")
        elif not name:
            texts.append(str(own or detail["msg"]))
        else:
            shown = "(hidden)" if name in {"cluster", "service"} else reprlib.repr(detail["input"])
            texts.append(f"{name} is not valid: {shown}. {format_requirement(detail)}")
    return ConfigurationError(f"section 'opensearch': {' '.join(dict.fromkeys(texts))}")


def format_requirement(detail: Mapping[str, Any]) -> str:
    """Return what one of pydantic's errors requires, as a sentence: "It must be ..."."""
    own = detail.get("ctx", {}).get("error")
    return f"It must be {own}." if own else f"{detail['msg'].replace('Input should', 'It must')}."


def read_secret(
    settings: OpenSearchSettings,
    kind: Literal["password", "service_key"],
    *,
    env: Mapping[str, str] = os.environ,
) -> str | None:
    """Read a secret from what `<kind>_env` or `<kind>_file` names; None if neither is set.

    Raises:
        ConfigurationError: The variable or the file is missing or empty, or cannot be read.
    """
    variable, file = getattr(settings, f"{kind}_env"), getattr(settings, f"{kind}_file")
    if variable is not None:
        text, origin = env.get(variable, "").strip(), f"variable {variable!r} ({kind}_env)"
    elif file is not None:
        text, origin = _read(Path(file), f"{kind}_file"), f"file {file!r} ({kind}_file)"
    else:
        return None
    if not text:
        raise ConfigurationError(f"no secret in {origin}. Put it there as one line.")
    return text


def _read(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"{setting} cannot be read: {str(path)!r}: {reason}") from None
