"""A scorer without a model: word overlap, for tests of code that uses a reranker."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from qwen_rerank_plugins.errors import ClosedError, InputError
from qwen_rerank_plugins.recipe import REPAIRED_TEXT, replace_surrogates
from qwen_rerank_plugins.types import PairScore, Priority, ScoreRequest, TextLimits

__all__ = ["LexicalScorer"]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+")
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_CJK_START = re.compile(rf"[{_CJK}]")

_EMPTY_LOG_ODDS = -6.0


class LexicalScorer:
    """Score pairs by the words that query and document share: deterministic, fast, the same on every machine.

    With Q and D the sets of terms of query and document (words, regardless of case and width; for Chinese, Japanese
    and Korean text, pairs of adjacent characters),

        log_odds = 8 · |Q ∩ D| / |Q| − 4 + |Q ∩ D| / |D|        and −6 for a document without terms.

    Log-odds lie in [−6, 5]: the share of the query's words counts most, then the share of the document's words. The
    instruction is ignored. A token of a request's limits is a word, or a Chinese, Japanese or Korean character.
    """

    def __init__(self, *, max_chars: int | None = None) -> None:
        """Create a scorer.

        Args:
            max_chars: Maximum characters of a document; a longer one is truncated and flagged.

        Raises:
            InputError: `max_chars` is less than 1.
        """
        if max_chars is not None and (isinstance(max_chars, bool) or max_chars < 1):
            raise InputError(f"`max_chars` must be an integer of at least 1, or None, got {max_chars!r}")
        self._max_chars = max_chars
        self._closed = False

    @property
    def model(self) -> str:
        """The name under which scores are reported."""
        return "lexical"

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,  # noqa: ARG002 (the protocol's)
        priority: Priority = "interactive",  # noqa: ARG002
    ) -> list[PairScore]:
        """Score every pair, in input order; deadline and priority have no effect.

        Raises:
            ClosedError: The scorer was closed.
        """
        if self._closed:
            raise ClosedError("the scorer was closed")
        terms: dict[tuple[str, int | None], tuple[frozenset[str], bool]] = {}
        scores = []
        for request in requests:
            limits = request.limits or TextLimits()
            key = (request.query, limits.max_query_tokens)
            if key not in terms:
                query, is_cut = _first_words(*key)
                terms[key] = (_terms(query), is_cut)
            query_terms, query_truncated = terms[key]
            score = self._score_pair(query_terms, request.document, limits, query_truncated=query_truncated)
            texts = (request.query, request.document, request.instruction or "")
            if any(replace_surrogates(text) != text for text in texts):
                score = replace(score, warnings=(REPAIRED_TEXT,))
            scores.append(score)
        return scores

    async def ascore(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: Priority = "interactive",
    ) -> list[PairScore]:
        """Score every pair in a thread, without blocking the event loop."""
        return await asyncio.to_thread(self.score, requests, deadline_s=deadline_s, priority=priority)

    def info(self) -> dict[str, Any]:
        """The model's name and limits, as plain JSON types."""
        return {"model": self.model, "device": "cpu", "max_chars": self._max_chars}

    def close(self) -> None:
        """Refuse later calls; a second call does nothing."""
        self._closed = True

    def _score_pair(
        self, query_terms: frozenset[str], document: str, limits: TextLimits, *, query_truncated: bool
    ) -> PairScore:
        text, truncated = _first_words(document[: self._max_chars], limits.max_document_tokens)
        if limits.max_length is not None:
            text, is_cut = _first_words(text, max(0, limits.max_length - len(query_terms)))
            truncated |= is_cut
        truncated |= self._max_chars is not None and len(document) > self._max_chars
        document_terms = _terms(text)
        log_odds = _log_odds(query_terms, document_terms)
        return PairScore.from_log_odds(
            log_odds,
            truncated=truncated,
            query_truncated=query_truncated,
            num_tokens=len(query_terms) + len(document_terms),
        )


def _first_words(text: str, max_words: int | None) -> tuple[str, bool]:
    """Return a text, truncated to a number of words or CJK characters, and whether it was truncated."""
    if max_words is None or len(text) <= max_words:
        return text, False
    words = _WORD.finditer(text)
    ends = [match.end() for match in islice(words, max_words)]
    return (text[: ends[-1] if ends else 0], True) if next(words, None) else (text, False)


def _log_odds(query_terms: frozenset[str], document_terms: frozenset[str]) -> float:
    if not document_terms:
        return _EMPTY_LOG_ODDS
    shared = len(query_terms & document_terms)
    return 8.0 * shared / max(len(query_terms), 1) - 4.0 + shared / len(document_terms)


def _terms(text: str) -> frozenset[str]:
    """Return the words of a text and the character pairs of its CJK runs; for punctuation alone, its characters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    terms: set[str] = set()
    for run in _RUN.findall(folded):
        if _CJK_START.match(run) and len(run) > 1:
            terms.update(run[i : i + 2] for i in range(len(run) - 1))
        else:
            terms.add(run)
    return frozenset(terms or set("".join(folded.split())))
