"""`RerankConfig`: every setting of a reranker in one frozen value.

Reads nothing but its keywords, and knows neither models nor devices: the module that uses a device checks that it
exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from qwen_rerank_plugins.config import validators
from qwen_rerank_plugins.config.sources import API_KEY_SETTINGS, SettingLayers

__all__ = ["DEFAULT_MODEL", "DEMO_MODEL", "RerankConfig"]

DEFAULT_MODEL = "Qwen/Qwen3-Reranker-0.6B"
DEMO_MODEL = "demo"

Text = Annotated[str, AfterValidator(validators.not_blank)]
PathText = Annotated[str, BeforeValidator(validators.path_to_text), AfterValidator(validators.not_blank)]
PlainNumber = BeforeValidator(validators.plain_number)
Count = Annotated[int, Field(ge=1), PlainNumber]
CountOrZero = Annotated[int, Field(ge=0), PlainNumber]
Seconds = Annotated[float, Field(gt=0), PlainNumber]


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
        default=True, description="False keeps every list in its original order, without scores."
    )
    on_error: Literal["raise", "keep_order"] = Field(
        default="raise",
        description="What ranking does when scoring fails: raise, or keep the original order, marked as failed.",
    )

    model: PathText = Field(
        default=DEFAULT_MODEL,
        description="A hub id, a folder with a checkpoint or a LoRA adapter, a GGUF file, or `demo` for the bundled demo model.",
    )
    revision: Text | None = Field(
        default=None, description="Branch, tag or commit on the hub; None for its main branch."
    )
    hub: Literal["huggingface", "modelscope"] = Field(
        default="huggingface",
        description="Where models and adapters that are no folders come from: Hugging Face or a mirror of it (`HF_ENDPOINT`), or "
        "ModelScope.",
    )
    adapters: Annotated[tuple[str, ...], BeforeValidator(validators.adapter_list)] = Field(
        default=(),
        description="LoRA adapters that are merged into the model when it is loaded: folders or hub ids, as a list or comma "
        "separated, `folder=0.5` with a weight.",
    )
    family: PathText = Field(
        default="auto",
        description="Prompt family: `auto` (detected from the checkpoint), a name, or a YAML or TOML file.",
    )
    device: Annotated[str, BeforeValidator(validators.device_list)] = Field(
        default="auto",
        description="`auto`, `cpu`, `cuda`, `cuda:N`, or several: a list, or `cuda:0,cuda:1`; `mps` is experimental.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Data type of the computation; `auto` takes the fastest one that is accurate enough on the device.",
    )
    quantization: Literal["none", "int8", "auto"] = Field(
        default="none",
        description="Number format of the linear layers: that of `dtype`, 8-bit integers, or `auto`: 8-bit integers on a "
        "CPU whose products of them are exact and faster.",
    )
    instruction: str | None = Field(
        default=None, description="What relevance means; None for the family's default."
    )

    max_length: Count = Field(
        default=8192,
        description="Maximum tokens of a pair, template included; the document is truncated to fit.",
    )
    max_query_tokens: Count | None = Field(
        default=None, description="Maximum tokens of a query; None for a quarter of `max_length`."
    )
    long_documents: Literal["truncate", "chunk"] = Field(
        default="truncate",
        description="A document that does not fit is truncated, or scored in chunks, of which the best one counts.",
    )
    chunk_tokens: Count = Field(default=512, description="Tokens per chunk.")
    chunk_overlap: CountOrZero = Field(
        default=64, description="Tokens that a chunk shares with the previous one."
    )
    unwrap: Literal["warn", "strip", "off"] = Field(
        default="warn",
        description="What the local model does with a text that already has a prompt template around it: score it as it is, "
        "with or without a warning, or score the text inside.",
    )

    top_n: Count | None = Field(
        default=None, description="Maximum number of documents in a ranking; None for all."
    )
    min_score: Annotated[float, Field(ge=0, le=1), PlainNumber] | None = Field(
        default=None,
        description="Documents with a lower `relevance_score` are dropped; None for no threshold.",
    )

    calibration: PathText | None = Field(
        default=None,
        description="File that `qwen-rerank evaluate --calibrate` wrote for this model: `relevance_score` is then the "
        "calibrated probability. With the remote backend it is set at the service.",
    )

    max_batch_tokens: Count | None = Field(
        default=None,
        description="Maximum tokens in one forward pass; None for a default that depends on the device.",
    )
    background_batch_tokens: Count | None = Field(
        default=None,
        description="Maximum tokens in one forward pass of background calls, which interactive ones may wait for; None for a "
        "default that depends on the device.",
    )
    max_queue_tokens: Count | None = Field(
        default=None,
        description="Maximum tokens that wait for the device; None for a default that depends on it.",
    )
    admission: Literal["wait", "reject"] = Field(
        default="wait",
        description="What a request does when the queue is full: wait, or fail with `OverloadedError`.",
    )
    deadline_s: Seconds | None = Field(
        default=None,
        description="Seconds after which a request fails with `DeadlineExceededError`; None for no deadline.",
    )
    num_threads: Count | None = Field(
        default=None,
        description="CPU threads of the model, one number for the whole process; None for torch's default.",
    )
    prefix_cache_mb: CountOrZero = Field(
        default=256,
        description="Megabytes for the keys and values of instructions and queries that recur; 0 turns this cache off.",
    )
    self_check: bool = Field(
        default=True,
        description="Compare the optimized forward pass with the reference one when a model is loaded.",
    )
    cache_entries: CountOrZero = Field(
        default=100_000, description="Maximum number of scores cached in memory; 0 turns this cache off."
    )
    cache_path: PathText | None = Field(
        default=None, description="File of a score cache that outlives the process; None for no file."
    )
    cache_disk_entries: CountOrZero = Field(
        default=1_000_000,
        description="Maximum number of scores in that file; 0 is refused while `cache_path` is set.",
    )

    base_url: Annotated[str, AfterValidator(validators.service_url)] | None = Field(
        default=None,
        description="Address of the service of the `remote` backend: http or https, without credentials.",
    )
    dialect: Literal["qwen", "cohere", "jina", "vllm", "tei", "voyage", "dashscope", "llamacpp", "sglang"] = (
        Field(default="qwen", description="Protocol of that service; `qwen` is the service of this package.")
    )
    template: Literal["server", "client"] = Field(
        default="server", description="Who formats query and document with the model's prompt template."
    )
    max_batch_documents: Count | None = Field(
        default=None,
        description="Maximum documents per call to the service; None for the usual limit of its dialect.",
    )
    api_key: Annotated[SecretStr, AfterValidator(validators.secret_key)] | None = Field(
        default=None,
        description="Key of the service. Not allowed in a file: use `api_key_env` or `api_key_file` there.",
    )
    api_key_env: Text | None = Field(
        default=None, description="Name of the environment variable that holds the key."
    )
    api_key_file: PathText | None = Field(
        default=None, description="File that holds the key and nothing else."
    )
    ca_file: PathText | None = Field(
        default=None,
        description="PEM file of the certificate authorities that are trusted for an https service, in place of the usual "
        "ones; None for those of `SSL_CERT_FILE`, or certifi's.",
    )
    timeout_s: Seconds = Field(
        default=60.0,
        description="Seconds that one call to the service may take, retries and waits included.",
    )
    retries: CountOrZero = Field(
        default=2, description="Maximum retries of a failed call that may be repeated."
    )
    max_concurrency: Count = Field(default=8, description="Maximum concurrent calls to the service.")

    service: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Settings of the HTTP service, validated by it."
    )
    opensearch: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Settings of the OpenSearch integration, validated by it.",
    )
    batch: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Settings of the batch pipeline, validated by it."
    )

    if not TYPE_CHECKING:  # type checkers see the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise validators.configuration_error(error, type(self).model_fields) from None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.chunk_overlap >= self.chunk_tokens:
            limit = f"`chunk_tokens` ({self.chunk_tokens!r})"
            raise ValueError(f"`chunk_overlap` must be less than {limit}, got {self.chunk_overlap!r}")
        if self.max_query_tokens is not None and self.max_query_tokens >= self.max_length:
            limit = f"`max_length` ({self.max_length!r})"
            raise ValueError(f"`max_query_tokens` must be less than {limit}, got {self.max_query_tokens!r}")
        if self.cache_path is not None and self.cache_disk_entries == 0:
            path = f"`cache_path` is {self.cache_path!r}"
            raise ValueError(
                f"`cache_disk_entries` is 0 while {path}; unset `cache_path` to turn the file off"
            )
        if self.backend == "remote" and self.base_url is None:
            raise ValueError("`base_url` must be set for the remote backend, got None")
        if self.backend == "remote" and self.calibration is not None:
            path = f"`calibration` is {self.calibration!r} while `backend` is 'remote'"
            raise ValueError(f"{path}; set it at the service, whose answers are then calibrated")
        if self.ca_file is not None and (self.base_url or "https:").lower().startswith("http:"):
            raise ValueError(
                f"`ca_file` is {self.ca_file!r} while `base_url` is not https; use an https address"
            )
        given = [f"`{name}`" for name in API_KEY_SETTINGS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"only one API key may be set, got {' and '.join(given)}")
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices by name, for example `("cuda:0", "cuda:1")`."""
        return tuple(self.device.split(","))

    @property
    def adapter_weights(self) -> dict[str, float]:
        """The adapters' places → their weights, in the order in which they are merged."""
        return dict(map(validators.adapter_weight, self.adapters))

    @property
    def is_demo(self) -> bool:
        """Whether scores come from the bundled demo model."""
        return self.backend == "local" and self.model == DEMO_MODEL

    @classmethod
    def model_validate(cls, obj: Any, **kwargs: Any) -> Self:
        """Build a configuration from a mapping.

        Raises:
            ConfigurationError: In place of pydantic's ValidationError.
        """
        try:
            return super().model_validate(obj, **kwargs)
        except ValidationError as error:
            raise validators.configuration_error(error, cls.model_fields) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **kwargs: Any) -> Self:
        """Build a configuration from JSON.

        Raises:
            ConfigurationError: In place of pydantic's ValidationError.
        """
        try:
            return super().model_validate_json(json_data, **kwargs)
        except ValidationError as error:
            raise validators.configuration_error(error, cls.model_fields) from None

    def replace(self, **changes: Any) -> RerankConfig:
        """Return a validated copy with some settings changed; sections are merged key by key.

        Raises:
            ConfigurationError: As for a new configuration.
        """
        layers = SettingLayers(type(self).model_fields)
        layers.add({name: getattr(self, name) for name in self.model_fields_set}, "argument")
        layers.add(changes, "argument")
        return RerankConfig(**layers.values)

    def public_settings(self) -> dict[str, Any]:
        """Every setting as plain JSON types, with secrets masked."""
        settings: dict[str, Any] = validators.mask_secrets(self.model_dump(mode="json"))
        return settings

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show what differs from the defaults, without secrets and without sections, which may hold some."""
        fields = type(self).model_fields
        shown = [(name, getattr(self, name)) for name, field in fields.items() if field.repr]
        return [(name, value) for name, value in shown if value != fields[name].default]
