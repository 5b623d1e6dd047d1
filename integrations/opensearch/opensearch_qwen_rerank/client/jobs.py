"""One answer on its way: which of its hits are scored by which texts, and what becomes of the others.

Everything between a search and its reranked answer but the scores themselves. Knows no client, no model, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from opensearch_qwen_rerank.client import answers
from opensearch_qwen_rerank.client.answers import Candidate
from opensearch_qwen_rerank.client.searching import Search
from opensearch_qwen_rerank.client.settings import ClientSettings
from opensearch_qwen_rerank.client.texts import HitText, TextReader
from qwen_rerank_plugins import InputError, RerankResult

__all__ = ["Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """A search's answer and what is to be scored of it.

    Attributes:
        response: The answer as it came.
        search: The search that was sent.
        settings: How it is reranked.
        scored: Hits of the window that have texts.
        without_text: Hits of the window that have none.
        past_window: Hits behind the window.
    """

    response: Mapping[str, Any]
    search: Search
    settings: ClientSettings
    scored: tuple[Candidate, ...]
    without_text: tuple[Candidate, ...]
    past_window: tuple[Candidate, ...]

    @classmethod
    def read(cls, response: Any, search: Search, settings: ClientSettings, reader: TextReader) -> Self:
        """Read the texts of the window's hits.

        Raises:
            InputTypeError: It is no answer to a search.
            InputError: A hit has no text where that is refused, or scores for a fusion are missing.
        """
        hits = enumerate(answers.hits_of(response), start=search.offset + 1)
        everyone = [Candidate.of(hit, rank) for rank, hit in hits]
        window = [_read(one, settings, reader) for one in everyone[: search.window]]
        scored = tuple(one for one in window if one.texts)
        answers.check_fusable(scored, settings.fusion)
        without_text = tuple(one for one in window if not one.texts)
        return cls(response, search, settings, scored, without_text, tuple(everyone[search.window :]))

    @property
    def texts(self) -> list[str]:
        """What is scored, hit after hit."""
        return [text.text for one in self.scored for text in one.texts]

    def answer(
        self,
        result: RerankResult,
        *,
        top_n: int | None,
        min_score: float | None,
        timings: Mapping[str, float],
    ) -> dict[str, Any]:
        """Give the answer in its new order, with its mark.

        Args:
            result: The ranking of `texts`, those below the threshold missing.
            top_n: Hits of all pages together, or None.
            min_score: The threshold that the ranking followed, or None.
            timings: What the mark tells of the time it took.
        """
        if result.status != "ranked":
            mark = {**self._mark(result, result.status, 0), **timings}
            return self._cut(answers.hits_of(self.response), top_n, mark)
        best = answers.reordered(self.scored, result, self.settings.fusion)
        mark = self._mark(result, "ranked" if self.scored else "skipped", len(self.scored) - len(best))
        return self._cut(best + answers.unscored(self._rest(min_score)), top_n, {**mark, **timings})

    def _rest(self, min_score: float | None) -> Sequence[Candidate]:
        """What follows the scored hits; nothing behind a threshold, which only a score can pass."""
        if min_score is not None:
            return ()
        return self.past_window if self.settings.missing == "drop" else self.without_text + self.past_window

    def _cut(
        self, hits: Sequence[Mapping[str, Any]], top_n: int | None, mark: Mapping[str, Any]
    ) -> dict[str, Any]:
        kept = hits if top_n is None else hits[: max(0, top_n - self.search.offset)]
        return answers.answer(self.response, kept, mark, self.search)

    def _mark(self, result: RerankResult, status: str, num_below: int) -> dict[str, Any]:
        mark: dict[str, Any] = {
            "status": status,
            "model": result.model,
            "window": self.settings.window,
            "num_scored": len(self.scored) if status == "ranked" else 0,
            "num_without_text": len(self.without_text),
            "num_below_min_score": num_below,
        }
        if result.error is not None:
            mark["error"] = result.error
        cursor = _last_sort(answers.hits_of(self.response)) if self.search.is_cursor else None
        return mark if cursor is None else {**mark, "next_search_after": cursor}


def _read(candidate: Candidate, settings: ClientSettings, reader: TextReader) -> Candidate:
    """Read a candidate's texts, or do with one that has none as the settings say."""
    texts = reader.read(candidate.hit)
    if not texts and settings.missing == "score":
        texts = [HitText("")]
    if not texts and settings.missing == "raise":
        shown = candidate.hit.get("_id")
        raise InputError(f"a hit has no text: _id {shown!r}; allowed with missing='raise': hits with text")
    return Candidate.of(candidate.hit, candidate.rank, texts)


def _last_sort(hits: Sequence[Mapping[str, Any]]) -> Any:
    """Where the next page of a cursor begins: behind the last hit of the first stage's order, not of the new one."""
    return hits[-1].get("sort") if hits else None
