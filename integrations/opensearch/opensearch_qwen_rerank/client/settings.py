"""The settings of reranking on the client side: window, texts, fusion. The base package has those of the model."""

from __future__ import annotations

import dataclasses
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
from opensearch_qwen_rerank.client.hit_text import HitTextReader
from opensearch_qwen_rerank.settings import OpenSearchSettings, format_requirement
from qwen_rerank_plugins import ConfigurationError, InputError, RerankConfig, SpanOptions
from qwen_rerank_plugins.config.names import suggestion

__all__ = ["ClientSettings", "add_section"]

Missing = Literal["last", "score", "drop", "raise"]


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _to_span_options(value: object) -> object:
    """Create options from a mapping of their fields; pydantic checks other values."""
    if not isinstance(value, Mapping):
        return value
    known = [one.name for one in dataclasses.fields(SpanOptions)]
    if unknown := [name for name in value if name not in known]:
        raise ValueError(f"a mapping without {unknown[0]!r}; {suggestion(str(unknown[0]), known)}")
    try:
        return SpanOptions(**value)
    except InputError as error:
        raise ValueError(f"a mapping for SpanOptions: {error}") from None


def _check_path(text: str) -> str:
    if not text or not all(text.split(".")):
        raise ValueError("a path such as 'body' or 'query.match.body.query'")
    return text


Path = Annotated[str, AfterValidator(_check_path)]


class ClientSettings(BaseModel):
    """How search results are reranked on the client side; frozen.

    Exactly one of `fields`, `template` and `text_of` defines the scored text of a hit.

    Attributes:
        fields: Paths in the hit, whose texts are joined by a blank line; missing ones are left out. A path is read from the
            hit's `fields`, then from its `_source`. `inner_hits.<name>.<path>` reads inner hits: each is scored, and
            the best score is used.
        template: A text with such paths in braces, `{title}: {body}`; a literal brace is doubled.
        text_of: Function that returns the text of a hit, or None.
        window: Number of the first stage's hits that are scored, independent of `size`.
        missing: What happens to a hit without text: "last" keeps it behind the others without a score, "score" scores an
            empty text, "drop" removes it, "raise" raises an InputError.
        fusion: How the first stage's score is combined with the model's; None uses the model's alone.
        query_path: Path of the query's text in the search body, for calls without a query.
        highlight: Which sentences or passages of the page's hits are highlighted, as options or a mapping of their fields;
            they are scored by a second call. None for no highlights.
        highlight_tags: What is written before and after each of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    fields: Annotated[tuple[Path, ...], BeforeValidator(_as_tuple)] = ()
    template: str | None = None
    text_of: Callable[[Mapping[str, Any]], str | None] | None = None
    window: Annotated[int, Field(ge=1)] = 100
    missing: Missing = "last"
    fusion: Fusion | None = None
    query_path: Path | None = None
    highlight: Annotated[SpanOptions | None, BeforeValidator(_to_span_options)] = None
    highlight_tags: Annotated[tuple[str, str], BeforeValidator(_as_tuple)] = ("<em>", "</em>")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        given = [name for name in ("fields", "template", "text_of") if getattr(self, name)]
        if len(given) != 1:
            named = " and ".join(given) or "none of them"
            raise ValueError(f"exactly one of fields, template and text_of must be set, not {named}.")
        self.text_reader()
        return self

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> ClientSettings:
        """Create settings from keywords.

        Raises:
            ConfigurationError: A setting is unknown, wrong, or contradicts another.
        """
        try:
            return cls(**keywords)
        except ValidationError as error:
            raise _to_configuration_error(error) from None

    def text_reader(self) -> HitTextReader:
        """Return the reader of hit texts for these settings."""
        return HitTextReader(self.fields, self.template, self.text_of)


def add_section(keywords: Mapping[str, Any], config: RerankConfig) -> dict[str, Any]:
    """Add `fields` and `query_path` of a configuration's section `opensearch` to keywords that lack them.

    Raises:
        ConfigurationError: The section is invalid.
    """
    section = OpenSearchSettings.from_config(config)
    added: dict[str, Any] = {"query_path": section.query_path} if section.query_path else {}
    if section.fields and not any(keywords.get(name) for name in ("fields", "template", "text_of")):
        added["fields"] = section.fields
    return {**added, **keywords}


def _to_configuration_error(error: ValidationError) -> ConfigurationError:
    """Format pydantic's first error as the setting, its value, and the requirement."""
    detail = error.errors(include_url=False)[0]
    if not detail["loc"]:
        return ConfigurationError(str(detail.get("ctx", {}).get("error") or detail["msg"]))
    return ConfigurationError(
        f"{detail['loc'][0]} is not valid: {detail['input']!r}. {format_requirement(detail)}"
    )
