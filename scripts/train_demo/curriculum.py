"""The three lessons of the training, and the held-out lists."""

from __future__ import annotations

import random
from typing import Final

from scripts.train_demo.corpus import Corpus
from scripts.train_demo.lists import ListMaker
from scripts.train_demo.synthetic import mixed_list, simple_list
from scripts.train_demo.tokenizer import INSTRUCTION, PREFIX, SUFFIX
from scripts.train_demo.trainer import Batch, Lesson

OTHER_INSTRUCTIONS: Final = (
    "Given a question, find the passage that answers it",
    "Given a query, retrieve documents that are relevant to it",
    "Retrieve the package whose description matches the query",
    "Rank the documents by how well they answer the user's question",
    "Find manual pages about the topic of the query",
    "Given a search query in Chinese or English, retrieve matching passages",
    "给定一个搜索查询，检索能够回答该查询的相关段落",
    "根据问题找出包含答案的段落",
    "Given a claim, find documents that support or refute it",
    "Which of these texts is about the same thing as the query?",
)
_OTHER_SHARE: Final = 0.2
_SYNTHETIC_SHARE: Final = 0.08
_LENGTHS: Final = (48, 64, 80, 96, 112, 128, 160, 200)
_LISTS_TIMES_LENGTH: Final = 640
"""Lists per batch times tokens per document; constant, so that every step takes about the same time."""


class Curriculum:
    """Generates the batches of each lesson."""

    def __init__(self, corpus: Corpus, vocabulary_size: int) -> None:
        self._corpus = corpus
        self._vocabulary_size = vocabulary_size
        self._lead = corpus.encode("<Query>:")
        self._label = corpus.encode("<Document>:")
        self._suffix = corpus.encode(SUFFIX)
        self._maker = ListMaker(corpus, self._lead, self._label)
        self._prefixes = {text: self._prefix(text) for text in (INSTRUCTION, *OTHER_INSTRUCTIONS)}

    def _prefix(self, instruction: str) -> list[int]:
        return self._corpus.encode(PREFIX) + self._corpus.encode(f"<Instruct>: {instruction}\n")

    def lessons(self) -> list[Lesson]:
        """Return the lessons in order."""
        return [
            Lesson("random tokens", self._simple, max_steps=1200, enough=0.93),
            Lesson("random tokens in the template", self._mixed, max_steps=500, enough=0.85),
            Lesson("text", self._text),
        ]

    def _simple(self, rng: random.Random) -> Batch:
        return Batch([1], [simple_list(rng) for _ in range(24)], [2])

    def _mixed(self, rng: random.Random) -> Batch:
        lists = [mixed_list(rng, self._vocabulary_size, self._lead, self._label) for _ in range(20)]
        return Batch(self._random_prefix(rng), lists, self._suffix)

    def _text(self, rng: random.Random) -> Batch:
        if rng.random() < _SYNTHETIC_SHARE:
            return self._mixed(rng)
        length = rng.choice(_LENGTHS)
        count = max(4, _LISTS_TIMES_LENGTH // length)
        lists = [self._maker.make(rng, rng.choice(("en", "zh")), length) for _ in range(count)]
        return Batch(self._random_prefix(rng), lists, self._suffix)

    def _random_prefix(self, rng: random.Random) -> list[int]:
        return self._prefixes[rng.choice(OTHER_INSTRUCTIONS) if rng.random() < _OTHER_SHARE else INSTRUCTION]

    def held_out(
        self, language: str, seed: int = 1, num_batches: int = 8, num_documents: int = 12
    ) -> list[Batch]:
        """Return lists about held-out documents, the same on every call."""
        rng = random.Random(seed)
        batches = []
        for _ in range(num_batches):
            length = rng.choice((64, 128, 192))
            lists = [self._maker.make(rng, language, length, num_documents, held_out=True) for _ in range(8)]
            batches.append(Batch(self._prefixes[INSTRUCTION], lists, self._suffix))
        return batches
