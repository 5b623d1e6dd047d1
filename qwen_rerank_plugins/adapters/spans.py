"""The wrappers' parameters for relevant spans and context compression, and the excerpt of a document.

Knows no framework. Offsets are those of a document's own content, without the metadata that are scored before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.segmentation import segment
from qwen_rerank_plugins.types import RankedDocument, RelevantSpan, Span, SpanOptions

__all__ = [
    "GAP",
    "Excerpt",
    "SpanParameters",
    "check_span_parameters",
    "clipped",
    "configuration_error",
    "given_parameters",
]

GAP = "[…]"
"""What stands for text that was left out."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The relevant spans of a document's content.

    Attributes:
        spans: Best first.
        kept: The parts of the content that `text` consists of; empty if nothing was left out.
        text: The shorter content; None if nothing was left out.
    """

    spans: tuple[RelevantSpan, ...]
    kept: tuple[Span, ...] = ()
    text: str | None = None


class SpanParameters(BaseModel):
    """The parameters of a wrapper that returns relevant spans.

    Attributes:
        spans: Return the relevant spans of each document; None for none, or with `compress` for the defaults of
            `SpanOptions`.
        compress: "spans" to shorten each document to its relevant spans and their neighbours.
        context: Sentences (or passages) to keep before and after each span.
    """

    spans: SpanOptions | None = Field(default=None, frozen=True)
    compress: Literal["spans"] | None = Field(default=None, frozen=True)
    context: int = Field(default=1, ge=0, strict=True, frozen=True)

    @field_validator("spans", mode="before")
    @classmethod
    def _check_names(cls, spans: object) -> object:
        known = [one.name for one in fields(SpanOptions)]
        if isinstance(spans, Mapping) and (unknown := [name for name in spans if name not in known]):
            raise ValueError(f"unknown: {', '.join(map(repr, unknown))}; pass {', '.join(known)}")
        return spans

    @property
    def requested_spans(self) -> SpanOptions | None:
        """The option `spans` of a ranking: all spans, since those of metadata are dropped before the best are chosen."""
        return None if (own := self._own_options()) is None else replace(own, max_spans=None)

    def excerpt(
        self, ranked: RankedDocument, content: str, in_content: Callable[[Span], Span | None]
    ) -> Excerpt | None:
        """Return a ranked document's spans, and its content if it is to be shortened; None if nothing was requested.

        Args:
            ranked: The document's place in the ranking.
            content: The document's own content.
            in_content: Returns the part of a span of the scored text that is content; None if there is none.
        """
        options = self._own_options()
        if options is None or ranked.score is None:
            return None
        placed = ((span, in_content((span.start, span.end))) for span in ranked.spans)
        spans = [replace(span, start=own[0], end=own[1]) for span, own in placed if own is not None]
        best = tuple(spans[: options.max_spans])
        kept = _kept(content, best, options, self.context) if self.compress and best else ()
        text = _joined(content, kept) if kept else content
        return Excerpt(best, kept, text) if len(text) < len(content) else Excerpt(best)

    def _own_options(self) -> SpanOptions | None:
        return SpanOptions() if self.spans is None and self.compress else self.spans


def check_span_parameters(**parameters: Any) -> SpanParameters:
    """Return a wrapper's span parameters.

    Raises:
        ConfigurationError: One is wrong.
    """
    try:
        return SpanParameters(**parameters)
    except ValidationError as error:
        raise configuration_error(error) from None


def configuration_error(error: ValidationError) -> ConfigurationError:
    """Return the first error of pydantic's as one of a configuration."""
    detail = error.errors(include_url=False)[0]
    return ConfigurationError(f"{detail['loc'][0]} is not valid: {detail['input']!r}. {detail['msg']}.")


def given_parameters(**parameters: Any) -> dict[str, Any]:
    """Return those of a wrapper's span parameters that differ from their defaults."""
    own = SpanParameters.model_fields
    return {name: value for name, value in parameters.items() if value != own[name].default}


def clipped(span: Span, offset: int) -> Span | None:
    """Return the part of a span that lies behind `offset`, counted from there; None if there is none."""
    start, end = (max(0, position - offset) for position in span)
    return (start, end) if start < end else None


def _kept(
    content: str, spans: Sequence[RelevantSpan], options: SpanOptions, context: int
) -> tuple[Span, ...]:
    """Return the parts of the content with spans and their neighbours, in the order of the text."""
    units = segment(content, options.unit)
    ends = [end for _, end in units]
    chosen: set[int] = set()
    for span in spans:
        first = last = bisect_right(ends, span.start)
        while last + 1 < len(units) and units[last + 1][0] < span.end:
            last += 1
        chosen.update(range(max(0, first - context), min(len(units), last + 1 + context)))
    kept: list[Span] = []
    for index in sorted(chosen):
        start, end = units[index]
        kept.append((kept.pop()[0], end) if index - 1 in chosen else (start, end))
    return tuple(kept)


def _joined(content: str, kept: Sequence[Span]) -> str:
    """Return the parts with a mark wherever visible text was left out."""
    before, after = content[: kept[0][0]], content[kept[-1][1] :]
    parts = [content[start:end] for start, end in kept]
    return " ".join(
        [*([GAP] if before.strip() else []), f" {GAP} ".join(parts), *([GAP] if after.strip() else [])]
    )
