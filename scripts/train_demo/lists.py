"""Training lists from the corpus: a query, its passage, and passages that share its rare words."""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.train_demo.corpus import Corpus, Place
from scripts.train_demo.packing import QueryList
from scripts.train_demo.queries import add_noise_words, chinese_query, english_query

MAX_QUERY_TOKENS = 40
_MARGIN = 0.85
"""A passage that covers the query nearly as well as the relevant one may be relevant too; it is not used as a negative."""


@dataclass(frozen=True, slots=True)
class _QuerySource:
    ids: frozenset[int]
    coverage: float
    place: Place


class ListMaker:
    """Generates lists of one relevant passage, which is the first, and ``num_documents - 1`` others."""

    def __init__(self, corpus: Corpus, lead: list[int], label: list[int]) -> None:
        self._corpus = corpus
        self._lead = lead
        self._label = label

    def make(
        self,
        rng: random.Random,
        language: str,
        num_tokens: int,
        num_documents: int = 6,
        *,
        held_out: bool = False,
    ) -> QueryList:
        """Return one list.

        Args:
            rng: The random generator.
            language: ``en`` or ``zh``.
            num_tokens: Typical length of the passages.
            num_documents: Passages in the list.
            held_out: Take the relevant passage from a held-out document.
        """
        while True:
            document = self._corpus.draw(rng, language, held_out=held_out)
            place = Place(document, rng.randrange(len(self._corpus.documents[document].sentences)))
            query = self._corpus.encode(self._make_query(rng, place))[:MAX_QUERY_TOKENS]
            ids = frozenset(query)
            coverage = self._corpus.coverage(ids, self._corpus.sentence_ids(place)) if ids else 0.0
            if len(ids) > 2 and coverage > 0.35:
                break
        asked = _QuerySource(ids, coverage, place)
        passages = [self._passage(rng, place, num_tokens, language, frozenset())]
        passages += self._negatives(rng, asked, num_tokens, num_documents - 1, language)
        return QueryList([*self._lead, *query, *self._label], passages, ids)

    def _make_query(self, rng: random.Random, place: Place) -> str:
        document = self._corpus.documents[place.document]
        if document.title and rng.random() < 0.15:
            return document.title
        make = english_query if document.language == "en" else chinese_query
        query = make(rng, document.sentences[place.sentence])
        if rng.random() < 0.5:
            return query
        other = self._random_place(rng, document.language)
        other_sentence = self._corpus.documents[other.document].sentences[other.sentence]
        return add_noise_words(rng, query, other_sentence, document.language)

    def _passage(
        self, rng: random.Random, place: Place, num_tokens: int, language: str, without: frozenset[int]
    ) -> list[int]:
        """Return a window around a place, with 0.4 to 2.5 times ``num_tokens`` tokens.

        The lengths within a list vary, so that length does not predict relevance. If a document is shorter than its
        window, text of other documents usually fills it up.
        """
        wanted = int(num_tokens * 2.0 ** rng.uniform(-1.3, 1.3))
        ids = self._corpus.window(rng, place, wanted, without)
        while wanted - len(ids) > 12 and rng.random() < 0.8:
            filler = self._corpus.window(rng, self._random_place(rng, language), wanted - len(ids), without)
            ids = filler + ids if rng.random() < 0.5 else ids + filler
        return ids

    def _random_place(self, rng: random.Random, language: str) -> Place:
        document = self._corpus.draw(rng, language, held_out=False)
        return Place(document, rng.randrange(len(self._corpus.documents[document].sentences)))

    def _negatives(
        self, rng: random.Random, asked: _QuerySource, num_tokens: int, count: int, language: str
    ) -> list[list[int]]:
        """Return passages that share rare words, sometimes one from the same document, and random ones."""
        source = frozenset([self._corpus.key(asked.place)])
        chosen = [
            place
            for place in self._corpus.similar_sentences(rng, asked.ids)
            if self._is_negative(asked, place)
        ]
        rng.shuffle(chosen)
        chosen = chosen[: count - rng.choice((0, 0, 1, 1, 2))]
        siblings = len(self._corpus.documents[asked.place.document].sentences)
        if siblings > 3 and rng.random() < 0.4:
            sibling = Place(asked.place.document, rng.randrange(siblings))
            if self._is_negative(asked, sibling):
                chosen.insert(0, sibling)
        passages = []
        for place in chosen[:count]:
            ids = self._passage(rng, place, num_tokens, language, source)
            if self._corpus.coverage(asked.ids, ids) < _MARGIN * asked.coverage:
                passages.append(ids)
        while len(passages) < count:
            passages.append(
                self._passage(rng, self._random_place(rng, language), num_tokens, language, source)
            )
        return passages

    def _is_negative(self, asked: _QuerySource, place: Place) -> bool:
        if self._corpus.key(place) == self._corpus.key(asked.place):
            return False
        return self._corpus.coverage(asked.ids, self._corpus.sentence_ids(place)) < _MARGIN * asked.coverage
