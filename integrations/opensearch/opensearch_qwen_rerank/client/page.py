"""A page of reranked hits, and its highlights: the spans of the hits' fields that are the most relevant by themselves.

Knows no client, no model and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from opensearch_qwen_rerank.client.hit_text import HitText
from opensearch_qwen_rerank.client.responses import RERANK_KEY
from opensearch_qwen_rerank.client.settings import ClientSettings
from qwen_rerank_plugins import InputError, RankedDocument, RerankResult, SpanOptions
from qwen_rerank_plugins.ranking import MAX_SCORED_SPANS
from qwen_rerank_plugins.segmentation import segment

__all__ = ["Fragment", "Page"]


@dataclass(frozen=True, slots=True)
class Fragment:
    """A span of a hit's field, to be scored by itself.

    Attributes:
        hit: Position of the hit on the page.
        field: Path of the field; None in the text of a user's function.
        start: Offset of the first character in the field's text.
        end: Offset after the last character.
        text: The text between them.
    """

    hit: int
    field: str | None
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """The hits of a page in their new order.

    Attributes:
        response: The response with these hits and its metadata.
        texts: The best text of each scored hit on the page; these hits come first.
        settings: How hits are highlighted.
    """

    response: Mapping[str, Any]
    texts: Sequence[HitText]
    settings: ClientSettings

    def fragments(self) -> list[Fragment]:
        """Return the sentences or passages of the hits' fields, hit by hit.

        Raises:
            InputError: There are more than `max_scored`.
        """
        if (options := self.settings.highlight) is None:
            return []
        found = [
            fragment
            for hit, text in enumerate(self.texts)
            for fragment in islice(_fragments(hit, text, options), MAX_SCORED_SPANS)
        ]
        if options.max_scored is not None and len(found) > options.max_scored:
            raise InputError(
                f"too many spans to highlight: {len(found)}, at most {options.max_scored} are allowed. "
                "Request fewer hits (`size`)."
            )
        return found

    def to_response(
        self, fragments: Sequence[Fragment], result: RerankResult | None, timings: Mapping[str, float]
    ) -> dict[str, Any]:
        """Return the response with highlights; without them, but with `highlight_error`, if scoring failed.

        Args:
            fragments: What `fragments` returned.
            result: A ranking of their texts, without those below the threshold; None if there were none.
            timings: Durations for the metadata.
        """
        response = {**self.response, RERANK_KEY: {**self.response[RERANK_KEY], **timings}}
        if self.settings.highlight is None:
            return response
        if result is not None and result.status != "ranked":
            response[RERANK_KEY]["highlight_error"] = result.error
            return response
        best: list[list[tuple[Fragment, RankedDocument]]] = [[] for _ in self.texts]
        for ranked in () if result is None else result.results:
            fragment = fragments[ranked.index]
            best[fragment.hit].append((fragment, ranked))
        hits = self.response["hits"]["hits"]
        highlighted = [
            _highlighted(hit, text, own[: self.settings.highlight.max_spans], self.settings.highlight_tags)
            for hit, text, own in zip(hits, self.texts, best, strict=False)
        ]
        outer = {**self.response["hits"], "hits": highlighted + hits[len(highlighted) :]}
        return {**response, "hits": outer}


def _fragments(hit: int, text: HitText, options: SpanOptions) -> Iterator[Fragment]:
    """Yield the spans of each field of a text; a template's own words are in none of them."""
    parts: dict[str | None, str] = {one.field: text.text[one.start : one.end] for one in text.fields}
    for field, own in (parts or {None: text.text}).items():
        for start, end in segment(own, options.unit):
            yield Fragment(hit, field, start, end, own[start:end])


def _highlighted(
    hit: Mapping[str, Any],
    text: HitText,
    best: Sequence[tuple[Fragment, RankedDocument]],
    tags: tuple[str, str],
) -> dict[str, Any]:
    """Return a copy of a hit with its best fragments, which replace the cluster's highlights of the scored fields."""
    scored = {one.field for one in text.fields}
    highlight = {name: own for name, own in (hit.get("highlight") or {}).items() if name not in scored}
    spans: list[dict[str, Any]] = []
    for fragment, ranked in best:
        span: dict[str, Any] = {}
        if fragment.field is not None:
            highlight.setdefault(fragment.field, []).append(f"{tags[0]}{fragment.text}{tags[1]}")
            span["field"] = fragment.field
        span |= {"start": fragment.start, "end": fragment.end, "relevance_score": ranked.relevance_score}
        spans.append(span if ranked.log_odds is None else {**span, "log_odds": ranked.log_odds})
    marked = {name: value for name, value in hit.items() if name != "highlight"}
    marked[RERANK_KEY] = {**hit[RERANK_KEY], "spans": spans}
    return {**marked, "highlight": highlight} if highlight else marked
