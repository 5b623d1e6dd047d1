"""What the client's side decides for itself: window, texts, fusion. Models and services are the base package's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from opensearch_qwen_rerank.client.fusion import Fusion
from opensearch_qwen_rerank.client.texts import TextReader
from opensearch_qwen_rerank.settings import OpenSearchSettings
from qwen_rerank_plugins import ConfigurationError, RerankConfig

__all__ = ["ClientSettings", "with_section"]

Missing = Literal["last", "score", "drop", "raise"]


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _path(text: str) -> str:
    if not text or not all(text.split(".")):
        raise ValueError("a path such as 'body' or 'query.match.body.query'")
    return text


Path = Annotated[str, AfterValidator(_path)]


class ClientSettings(BaseModel):
    """How search results are reranked on the client's side; frozen.

    Exactly one of `fields`, `template` and `text_of` says what is scored of a hit.

    Attributes:
        fields: Paths into the hit, joined by a blank line, those that a hit lacks left out. A path looks into the
            hit's `fields`, then into its `_source`; `inner_hits.<name>.<path>` looks into inner hits, each of which
            is scored, and the best counts.
        template: A text with such paths in braces, `{title}: {body}`; a brace itself is written twice.
        text_of: Gives the text of a hit, or None for one without.
        window: How many of the first stage's hits are scored, whatever `size` is.
        missing: What happens to a hit without any text: it goes last without a score, is scored as an empty text,
            is dropped, or raises.
        fusion: How the first stage's score counts beside the model's; None for the model's alone.
        query_path: Where in the search's body the query's text stands, for calls that do not pass it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    fields: Annotated[tuple[Path, ...], BeforeValidator(_as_tuple)] = ()
    template: str | None = None
    text_of: Callable[[Mapping[str, Any]], str | None] | None = None
    window: Annotated[int, Field(ge=1)] = 100
    missing: Missing = "last"
    fusion: Fusion | None = None
    query_path: Path | None = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        given = [name for name in ("fields", "template", "text_of") if getattr(self, name)]
        if len(given) != 1:
            named = " and ".join(given) or "none"
            raise ValueError(
                f"what is scored is not told once: {named}; allowed: one of fields, template, text_of"
            )
        self.text_reader()
        return self

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> ClientSettings:
        """Check keywords.

        Raises:
            ConfigurationError: A setting is unknown, wrong, or contradicts another.
        """
        try:
            return cls(**keywords)
        except ValidationError as error:
            raise _own_error(error) from None

    def text_reader(self) -> TextReader:
        """What reads the texts of a hit as these settings say."""
        return TextReader(self.fields, self.template, self.text_of)


def with_section(keywords: Mapping[str, Any], config: RerankConfig) -> dict[str, Any]:
    """Complete keywords by what a configuration tells of the cluster's pipeline: which fields, and where the query stands.

    Raises:
        ConfigurationError: The section is not valid.
    """
    held = OpenSearchSettings.from_config(config)
    told: dict[str, Any] = {"query_path": held.query_path} if held.query_path else {}
    if held.fields and not any(keywords.get(name) for name in ("fields", "template", "text_of")):
        told["fields"] = held.fields
    return {**told, **keywords}


def _own_error(error: ValidationError) -> ConfigurationError:
    """Tell pydantic's first finding as the base package tells its own."""
    detail = error.errors(include_url=False)[0]
    own = detail.get("ctx", {}).get("error")
    if not detail["loc"]:
        return ConfigurationError(str(own or detail["msg"]))
    allowed = str(own) if own else detail["msg"].removeprefix("Input should be ")
    return ConfigurationError(f"{detail['loc'][0]} is not valid: {detail['input']!r}; allowed: {allowed}")
