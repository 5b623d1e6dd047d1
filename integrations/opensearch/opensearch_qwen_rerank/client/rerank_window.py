"""Splits a response's hits into scored and unscored ones, and builds the reranked response from the scores.

Knows no client, no model and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from opensearch_qwen_rerank.client import responses
from opensearch_qwen_rerank.client.hit_text import HitText, HitTextReader
from opensearch_qwen_rerank.client.page import Page
from opensearch_qwen_rerank.client.responses import Candidate
from opensearch_qwen_rerank.client.search_request import SearchRequest
from opensearch_qwen_rerank.client.settings import ClientSettings
from qwen_rerank_plugins import InputError, RerankResult

__all__ = ["RerankWindow"]


@dataclass(frozen=True, slots=True)
class RerankWindow:
    """The hits of a response, split by whether they are scored.

    Attributes:
        response: The response as it was returned.
        search: The search that was sent.
        settings: How the response is reranked.
        scored: Hits of the window with text.
        without_text: Hits of the window without text.
        past_window: Hits behind the window.
    """

    response: Mapping[str, Any]
    search: SearchRequest
    settings: ClientSettings
    scored: tuple[Candidate, ...]
    without_text: tuple[Candidate, ...]
    past_window: tuple[Candidate, ...]

    @classmethod
    def from_response(
        cls, response: Any, search: SearchRequest, settings: ClientSettings, reader: HitTextReader
    ) -> Self:
        """Read the texts of the window's hits.

        Raises:
            InputTypeError: The value is not a search response.
            InputError: A hit has no text and `missing` is "raise", or lacks a score that the fusion needs.
        """
        hits = enumerate(responses.get_hits(response), start=search.offset + 1)
        candidates = [Candidate.from_hit(hit, rank) for rank, hit in hits]
        window = [_read_texts(one, settings, reader) for one in candidates[: search.window]]
        scored = tuple(one for one in window if one.texts)
        responses.check_fusable(scored, settings.fusion)
        without_text = tuple(one for one in window if not one.texts)
        return cls(response, search, settings, scored, without_text, tuple(candidates[search.window :]))

    @property
    def texts(self) -> list[str]:
        """The texts to score, hit by hit."""
        return [text.text for one in self.scored for text in one.texts]

    def to_page(self, result: RerankResult, *, top_n: int | None, min_score: float | None) -> Page:
        """Return the page in its new order, with its metadata.

        Args:
            result: The ranking of `texts`, without those below the threshold.
            top_n: Maximum number of hits on all pages together, or None.
            min_score: The threshold that the ranking used, or None.
        """
        if result.status != "ranked":
            metadata = self._metadata(result, result.status, 0)
            return self._cut(responses.get_hits(self.response), (), top_n, metadata)
        best = responses.rerank_hits(self.scored, result, self.settings.fusion)
        metadata = self._metadata(
            result, "ranked" if self.scored else "skipped", len(self.scored) - len(best)
        )
        hits = [hit for hit, _ in best] + responses.unscored_hits(self._rest(min_score))
        return self._cut(hits, [text for _, text in best], top_n, metadata)

    def _rest(self, min_score: float | None) -> Sequence[Candidate]:
        """Return the hits behind the scored ones; none if there is a threshold, which an unscored hit cannot pass."""
        if min_score is not None:
            return ()
        return self.past_window if self.settings.missing == "drop" else self.without_text + self.past_window

    def _cut(
        self,
        hits: Sequence[Mapping[str, Any]],
        texts: Sequence[HitText],
        top_n: int | None,
        metadata: Mapping[str, Any],
    ) -> Page:
        """Return the page of all hits; `texts` are those of the first ones."""
        kept = hits if top_n is None else hits[: max(0, top_n - self.search.offset)]
        response = responses.build_response(self.response, kept, metadata, self.search)
        end = self.search.start + len(response["hits"]["hits"])
        return Page(response, texts[self.search.start : end], self.settings)

    def _metadata(self, result: RerankResult, status: str, num_below: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "status": status,
            "model": result.model,
            "window": self.settings.window,
            "num_scored": len(self.scored) if status == "ranked" else 0,
            "num_without_text": len(self.without_text),
            "num_below_min_score": num_below,
        }
        if result.error is not None:
            metadata["error"] = result.error
        cursor = _last_sort(responses.get_hits(self.response)) if self.search.is_cursor else None
        return metadata if cursor is None else {**metadata, "next_search_after": cursor}


def _read_texts(candidate: Candidate, settings: ClientSettings, reader: HitTextReader) -> Candidate:
    """Return the candidate with its texts; `missing` decides about one without text."""
    texts = reader.read(candidate.hit)
    if not texts and settings.missing == "score":
        texts = [HitText("")]
    if not texts and settings.missing == "raise":
        shown = candidate.hit.get("_id")
        raise InputError(
            f"a hit has no text: _id {shown!r}. Check `fields`, or set `missing` to another value than 'raise'."
        )
    return Candidate.from_hit(candidate.hit, candidate.rank, texts)


def _last_sort(hits: Sequence[Mapping[str, Any]]) -> Any:
    """Return where the next page of a cursor starts: after the last hit of the first stage's order, not of the new one."""
    return hits[-1].get("sort") if hits else None
