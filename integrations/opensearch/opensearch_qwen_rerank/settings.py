"""What a cluster shall be told, and how it is reached: the `opensearch` section of a configuration, checked.

Nothing here opens a socket. Secrets are named by the place where they stand; only `read_secret` goes there.
"""

from __future__ import annotations

import difflib
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

__all__ = ["OpenSearchSettings", "read_secret"]

_PIPELINE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_FIELD = re.compile(r"[^\s'\"\\$.,\[\]][^'\"\\$,\[\]]*(?<!\.)")
_QUERY_PATH = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+|\[\d+\])*\.(query|query_text)")
_PRIVATE_NAME = re.compile(r"[^.]+|.*\.(internal|local|localdomain|lan|svc|home\.arpa)")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("a text that is not blank")
    return text


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")  # noqa: TRY004 (pydantic tells a ValueError as a finding)
    return value


def _names(value: object) -> object:
    """Split a variable's or an option's text at commas; a list passes."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _address(url: str) -> str:
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


def _pipeline_name(name: str) -> str:
    if not _PIPELINE.fullmatch(name):
        raise ValueError("up to 64 small letters, digits, '-' and '_', the first a letter or a digit")
    return name


def _field_name(name: str) -> str:
    if not _FIELD.fullmatch(name):
        raise ValueError("names of fields, dotted ones too, without quotes, brackets, '$' and '\\'")
    return name


def _path_in_search(path: str) -> str:
    """Bring a path into JSONPath's form below the request: `query.hybrid.queries[0].match.body.query`."""
    bare = re.sub(r"\.(\d+)(?=\.)", r"[\1]", path.removeprefix("$.").removeprefix("_request."))
    if not _QUERY_PATH.fullmatch(bare):
        raise ValueError(
            "the place of the query's text in the search's full form, ending in 'query' or 'query_text', "
            "such as 'query.match.body.query'"
        )
    return bare


def _instruction_text(text: str) -> str:
    if "${" in text:
        raise ValueError("a text without '${', which the cluster would replace")
    return text


Count = Annotated[int, Field(ge=1), BeforeValidator(_not_bool)]
CountOrZero = Annotated[int, Field(ge=0), BeforeValidator(_not_bool)]
Text = Annotated[str, AfterValidator(_not_blank)]
Address = Annotated[str, AfterValidator(_address)]


class OpenSearchSettings(BaseModel):
    """What a cluster shall be told, and how it is reached; frozen, and read from nowhere.

    Raises:
        ConfigurationError: A setting is unknown, of the wrong type, out of range, or contradicts another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cluster: Address = Field(default="http://localhost:9200", description="Address of the cluster.")
    username: Text | None = Field(default=None, description="Name for basic authentication.")
    password_env: Text | None = Field(
        default=None, description="Name of the environment variable that holds its password."
    )
    password_file: Text | None = Field(default=None, description="File that holds its password.")
    ca_certs: Text | None = Field(
        default=None, description="File with the certificates of whoever signed the cluster's."
    )
    client_cert: Text | None = Field(default=None, description="File with this client's certificate.")
    client_key: Text | None = Field(default=None, description="File with its key.")
    verify_certs: bool = Field(
        default=True, description="Refuse a cluster whose certificate cannot be checked."
    )
    aws_region: Text | None = Field(
        default=None, description="Region of a managed cluster; requests are then signed (SigV4)."
    )
    aws_service: Literal["es", "aoss"] = Field(
        default="es", description="What requests are signed for: es, or aoss (serverless)."
    )
    timeout_s: Count = Field(default=30, description="Seconds that one request to the cluster may take.")

    pipeline: Annotated[str, AfterValidator(_pipeline_name)] = Field(
        default="qwen-rerank", description="Name of the search pipeline, and of what belongs to it."
    )
    service: Address = Field(
        default="http://localhost:8501", description="The rerank service, as the cluster's nodes reach it."
    )
    private_network: bool | None = Field(
        default=None,
        description="Whether that address is a private one; left out, its form decides.",
    )
    fields: Annotated[tuple[Annotated[str, AfterValidator(_field_name)], ...], BeforeValidator(_names)] = (
        Field(default=(), description="Fields that are ranked, comma separated, the most telling first.")
    )
    recipe: Literal["simple", "rich"] = Field(
        default="rich",
        description="How the cluster reranks: rich (2.19 and newer) or simple (2.15 and newer).",
    )
    oversample: Annotated[float, Field(ge=1, le=1000), BeforeValidator(_not_bool)] = Field(
        default=5.0, description="Hits that are reranked, as a multiple of the search's size; 1 for no more."
    )
    query_path: Annotated[str, AfterValidator(_path_in_search)] | None = Field(
        default=None,
        description="Where the query stands in the search; left out, in ext. Only with the recipe rich.",
    )
    instruction: Annotated[Text, AfterValidator(_instruction_text)] | None = Field(
        default=None, description="What relevance means; left out, the service's default."
    )
    score: Literal["probability", "log_odds"] = Field(
        default="probability",
        description="What hits get as score; log_odds tell apart what probabilities near 1 do not.",
    )
    first_score_field: Text = Field(
        default="previous_score",
        description="Field in the hits for the first score (recipe rich; another name from 3.8 on).",
    )
    on_error: Literal["keep_order", "raise"] = Field(
        default="keep_order",
        description="What a search gives when reranking fails: the first order, or an error.",
    )
    default_for: Annotated[tuple[Text, ...], BeforeValidator(_names)] = Field(
        default=(), description="Indices whose searches all take this pipeline, comma separated."
    )

    service_key_env: Text | None = Field(
        default=None, description="Name of the environment variable that holds the service's API key."
    )
    service_key_file: Text | None = Field(default=None, description="File that holds it.")
    secret_arn: Text | None = Field(
        default=None, description="Secret that holds it, on a managed cluster (AWS Secrets Manager)."
    )
    secret_role_arn: Text | None = Field(default=None, description="Role that may read that secret.")
    secret_name: Text = Field(default="api_key", description="Name of the key within that secret.")

    model: Annotated[Text, AfterValidator(_instruction_text)] | None = Field(
        default=None, description="The model's name in requests, for a service that is strict about it."
    )
    connect_timeout_s: Count = Field(default=3, description="Seconds for a connection to the service.")
    read_timeout_s: Count = Field(default=10, description="Seconds that one rerank request may take.")
    max_connections: Count = Field(default=30, description="Connections of a node to the service.")
    retries: CountOrZero = Field(default=2, description="New attempts where the service is overloaded.")
    retry_backoff_ms: Count = Field(default=100, description="Milliseconds before the first of them.")

    if not TYPE_CHECKING:  # type checkers shall see the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise _told(error, type(self).model_fields) from None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.query_path is not None and self.recipe == "simple":
            raise ValueError(
                "query_path is set with the recipe 'simple', whose searches must name their query in ext; "
                "allowed: recipe 'rich'"
            )
        if self.default_for and self.on_error == "raise":
            raise ValueError(
                "default_for is set with on_error 'raise'; allowed: 'keep_order', "
                "for a default pipeline must not break searches without a query"
            )
        _check_credentials(self)
        return self

    @classmethod
    def from_config(cls, config: RerankConfig, **overrides: Any) -> Self:
        """Read the section `opensearch` of a configuration, over which `overrides` go.

        Raises:
            ConfigurationError: As for new settings.
        """
        return cls(**{**config.opensearch, **overrides})

    @property
    def service_url(self) -> str:
        """The one address that the cluster calls."""
        return f"{self.service}/v1/rerank"

    @property
    def is_private(self) -> bool:
        """Whether the service's address is one that OpenSearch takes for private."""
        if self.private_network is not None:
            return self.private_network
        host = urlsplit(self.service).hostname or ""
        try:
            return not ipaddress.ip_address(host).is_global
        except ValueError:
            return _PRIVATE_NAME.fullmatch(host) is not None


def _check_credentials(settings: OpenSearchSettings) -> None:
    def given(*names: str) -> list[str]:
        return [name for name in names if getattr(settings, name) is not None]

    for names in (
        ("password_env", "password_file"),
        ("service_key_env", "service_key_file", "secret_arn"),
        ("username", "aws_region"),
    ):
        if len(given(*names)) > 1:
            raise ValueError(f"settings exclude each other: {', '.join(given(*names))}; allowed: one of them")
    for name, needed in (
        ("username", ("password_env", "password_file")),
        ("password_env", ("username",)),
        ("password_file", ("username",)),
        ("secret_arn", ("secret_role_arn",)),
        ("secret_role_arn", ("secret_arn",)),
        ("client_key", ("client_cert",)),
    ):
        if given(name) and not given(*needed):
            raise ValueError(f"{name} is set alone; it needs {' or '.join(needed)}")


def _told(error: ValidationError, known: Mapping[str, Any]) -> ConfigurationError:
    """Tell pydantic's findings in one line: what was wrong, the value, what is allowed."""
    texts = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        own = detail.get("ctx", {}).get("error")
        if detail["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            texts.append(f"unknown setting {name!r}; the nearest known one is {near[0]!r}")
        elif not name:
            texts.append(str(own or detail["msg"]))
        else:
            allowed = str(own) if own else re.sub(r"^Input should (be )?", "", detail["msg"])
            shown = "(hidden)" if name in {"cluster", "service"} else reprlib.repr(detail["input"])
            texts.append(f"{name} is not valid: {shown}; allowed: {allowed}")
    return ConfigurationError(f"section 'opensearch': {'; '.join(dict.fromkeys(texts))}")


def read_secret(
    settings: OpenSearchSettings,
    kind: Literal["password", "service_key"],
    *,
    env: Mapping[str, str] = os.environ,
) -> str | None:
    """Give a secret from the place that `<kind>_env` or `<kind>_file` names, or None where neither is set.

    Raises:
        ConfigurationError: There is none in that place, or the file cannot be read.
    """
    variable, file = getattr(settings, f"{kind}_env"), getattr(settings, f"{kind}_file")
    if variable is not None:
        text, origin = env.get(variable, "").strip(), f"variable {variable!r} ({kind}_env)"
    elif file is not None:
        text, origin = _read(Path(file), f"{kind}_file"), f"file {file!r} ({kind}_file)"
    else:
        return None
    if not text:
        raise ConfigurationError(f"no secret in {origin}; allowed: one line with it")
    return text


def _read(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"{setting} cannot be read: {str(path)!r}: {reason}") from None
