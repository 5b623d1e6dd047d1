"""The workloads: queries and documents of known lengths in tokens, the same in every run.

This module knows no model. The caller's `count` measures the length of a text, so a workload fits any
tokenizer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["DEFAULT_SIZES", "Pair", "Workload", "make_warm_up", "make_workloads"]

Pair = tuple[str, str]
"""A query and a document."""

Count = Callable[[str], int]
"""Tokens of a text."""

DEFAULT_SIZES: Mapping[str, int] = {"mixed": 24, "short": 40, "long": 2, "pairs": 8}
"""Workload → documents. With these the default run of all peers stays within a quarter of an hour on two cores."""

MIXED_TOKENS = (30, 400)
SHORT_TOKENS = (8, 32)
LONG_TOKENS = (1024, 1024)
PAIRS_TOKENS = (30, 200)
QUERY_TOKENS = 10

WORDS = (
    *("time", "year", "people", "way", "day", "world", "school", "state", "family", "student", "group"),
    *("country", "problem", "hand", "part", "place", "case", "week", "company", "system", "program"),
    *("question", "work", "government", "number", "night", "point", "home", "water", "room", "mother"),
    *("area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word"),
    *("business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power"),
    *("hour", "game", "line", "end", "member", "law", "car", "city", "community", "name", "president"),
    *("team", "minute", "idea", "kid", "body", "information", "back", "parent", "face", "others"),
    *("level", "office", "door", "health", "person", "art", "war", "history", "party", "result"),
    *("change", "morning", "reason", "research", "girl", "guy", "moment", "air", "teacher", "force"),
    *("the", "of", "and", "to", "in", "is", "was", "for", "on", "with", "as", "by", "at", "from", "it"),
)


@dataclass(frozen=True, slots=True)
class Workload:
    """A list of pairs that is scored in one call.

    Attributes:
        name: "mixed", "short", "long" or "pairs".
        pairs: Queries and documents.
        lengths: Tokens of each document.
    """

    name: str
    pairs: tuple[Pair, ...]
    lengths: tuple[int, ...]


def make_workloads(count: Count, sizes: Mapping[str, int]) -> list[Workload]:
    """Return workloads by name, in the order of `sizes`.

    Args:
        count: Returns a text's tokens, which must be the sum of those of its words, each with the space before it.
        sizes: Workload → number of documents.
    """
    return [_workload(name, size, _Writer(count, name)) for name, size in sizes.items()]


def make_warm_up(count: Count) -> list[Pair]:
    """Return pairs outside every workload, of the lengths at which kernels are selected."""
    writer = _Writer(count, "warm-up")
    return [(writer.text(QUERY_TOKENS), writer.text(length)) for length in (20, 60, 180)]


def _workload(name: str, size: int, writer: _Writer) -> Workload:
    bounds = {"mixed": MIXED_TOKENS, "short": SHORT_TOKENS, "long": LONG_TOKENS, "pairs": PAIRS_TOKENS}
    if name not in bounds:
        raise ValueError(f"unknown workload {name!r}; use one of {', '.join(bounds)}")
    if size < 1:
        raise ValueError(f"too few documents for {name}: {size!r}; use at least 1")
    lengths = spread(*bounds[name], size, writer.random)
    num_queries = size if name == "pairs" else 1
    queries = [writer.text(QUERY_TOKENS) for _ in range(num_queries)]
    pairs = tuple((queries[i % num_queries], writer.text(length)) for i, length in enumerate(lengths))
    return Workload(name, pairs, tuple(lengths))


def spread(shortest: int, longest: int, size: int, source: random.Random) -> list[int]:
    """Return lengths evenly spaced on a log scale, in random order."""
    steps = max(size - 1, 1)
    lengths = [round(shortest * (longest / shortest) ** (i / steps)) for i in range(size)]
    source.shuffle(lengths)
    return lengths


class _Writer:
    """Writes texts of a given number of tokens; seeded by its name."""

    def __init__(self, count: Count, name: str) -> None:
        self.random = random.Random(name)
        self._costs = {word: count(f" {word}") for word in WORDS}

    def text(self, num_tokens: int) -> str:
        """Return random words of this many tokens, as nearly as the words' lengths allow."""
        words: list[str] = []
        left = num_tokens
        while fitting := [word for word in WORDS if self._costs[word] <= left]:
            words.append(self.random.choice(fitting))
            left -= self._costs[words[-1]]
        return " ".join(words)
