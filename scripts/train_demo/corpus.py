"""The corpus as token ids, with postings from tokens to sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from scripts.train_demo.sources import Document

HELD_OUT_EVERY = 50
"""Every fiftieth document is held out of training, to choose the best state."""


@dataclass(frozen=True, slots=True)
class Place:
    """One sentence of one document: ``corpus.documents[document].sentences[sentence]``."""

    document: int
    sentence: int


class Corpus:
    """Documents, their sentences' token ids, and postings from token to sentence.

    Attributes:
        documents: All documents, in their order.
        rarity: Inverse document frequency by token, in nats, counted over sentences, (vocabulary,).
    """

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer) -> None:
        self.documents = documents
        self._tokenizer = tokenizer
        self._first = np.cumsum([0, *(len(document.sentences) for document in documents)])
        texts = [sentence for document in documents for sentence in document.sentences]
        encoded = [
            encoding.ids
            for start in range(0, len(texts), 8192)
            for encoding in _encode(tokenizer, texts, start)
        ]
        self._ids = [np.array(ids, dtype=np.uint16) for ids in encoded]
        self._keys = [hash(text) for text in texts]
        self._index(tokenizer.get_vocab_size())
        self._train: dict[str, list[int]] = {}
        self._held_out: dict[str, list[int]] = {}
        for number, document in enumerate(documents):
            pool = self._held_out if number % HELD_OUT_EVERY == 0 else self._train
            pool.setdefault(document.language, []).append(number)

    def _index(self, vocabulary_size: int) -> None:
        pairs = [np.unique(ids) for ids in self._ids]
        sentence = np.repeat(np.arange(len(pairs), dtype=np.int32), [len(pair) for pair in pairs])
        token = np.concatenate(pairs)
        order = np.argsort(token, kind="stable")
        self._posting = sentence[order]
        counts = np.bincount(token, minlength=vocabulary_size)
        self._posting_start = np.concatenate(([0], np.cumsum(counts)))
        self.rarity: NDArray[np.float64] = np.log(len(pairs) / np.maximum(counts, 1))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def draw(self, rng: random.Random, language: str, *, held_out: bool) -> int:
        """Return a random document of the training part or of the held-out part."""
        return rng.choice((self._held_out if held_out else self._train)[language])

    def sentence_ids(self, place: Place) -> list[int]:
        """Return the token ids of one sentence."""
        ids: list[int] = self._ids[self._first[place.document] + place.sentence].tolist()
        return ids

    def coverage(self, query: frozenset[int], ids: Sequence[int]) -> float:
        """Return the share of the query's weight (by rarity) that occurs in ``ids``, from 0 to 1."""
        held = query.intersection(ids)
        weight = float(sum(self.rarity[token] for token in query))
        return float(sum(self.rarity[token] for token in held)) / (weight + 1e-9)

    def similar_sentences(self, rng: random.Random, query: frozenset[int], limit: int = 12) -> list[Place]:
        """Return sentences that share rare tokens with a query: the most similar of a random sample, best first."""
        rarest = sorted(query, key=lambda token: -self.rarity[token])[:6]
        samples, weights = [], []
        for token in rarest:
            start, end = self._posting_start[token], self._posting_start[token + 1]
            begin = rng.randrange(start, max(start + 1, end - 400))
            samples.append(self._posting[begin : min(end, begin + 400)])
            weights.append(np.full(len(samples[-1]), self.rarity[token]))
        found, inverse = np.unique(np.concatenate(samples), return_inverse=True)
        scores = np.bincount(inverse, weights=np.concatenate(weights))
        best = found[np.argsort(-scores, kind="stable")[:limit]]
        owners = np.searchsorted(self._first, best, side="right") - 1
        return [
            Place(int(owner), int(one - self._first[owner])) for owner, one in zip(owners, best, strict=True)
        ]

    def window(self, rng: random.Random, place: Place, num_tokens: int, without: frozenset[int]) -> list[int]:
        """Return about ``num_tokens`` ids: the complete sentence at a place, and its neighbours.

        Args:
            rng: The random generator.
            place: The sentence in the middle.
            num_tokens: Length at which the text is cut.
            without: Keys of sentences to omit, from ``key``.
        """
        centre = self.sentence_ids(place)
        room = max(0, num_tokens - len(centre))
        before, after = self._around(place, room, without)
        num_before = rng.randint(0, min(room, len(before)))
        return before[len(before) - num_before :] + centre + after[: room - num_before]

    def _around(self, place: Place, room: int, without: frozenset[int]) -> tuple[list[int], list[int]]:
        first, last = self._first[place.document], self._first[place.document + 1]
        here = first + place.sentence
        before: list[int] = []
        for number in range(here - 1, first - 1, -1):
            if len(before) < room and self._keys[number] not in without:
                before = self._ids[number].tolist() + before
        after: list[int] = []
        for number in range(here + 1, last):
            if len(after) < room and self._keys[number] not in without:
                after += self._ids[number].tolist()
        return before, after

    def key(self, place: Place) -> int:
        """Return a number for a sentence's text; equal texts have equal numbers."""
        return self._keys[int(self._first[place.document]) + place.sentence]


def _encode(tokenizer: Tokenizer, texts: Sequence[str], start: int) -> list[Encoding]:
    return tokenizer.encode_batch(list(texts[start : start + 8192]), add_special_tokens=False)
