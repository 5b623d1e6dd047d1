"""Lists of random tokens for the first two lessons.

A query's tokens recur in its relevant document and rarely in others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from scripts.train_demo.packing import QueryList
from scripts.train_demo.tokenizer import NUM_CONTROL_AND_BYTE_TOKENS

NUM_DOCUMENTS = 6


def simple_list(rng: random.Random) -> QueryList:
    """Return a list of lesson one: a query of 4 tokens out of 3,000, 3 of which occur in the relevant document of 16."""
    tokens = range(NUM_CONTROL_AND_BYTE_TOKENS, NUM_CONTROL_AND_BYTE_TOKENS + 3000)
    query = rng.choices(tokens, k=4)
    documents = [
        _document(rng, tokens, 16, query, 3 if number == 0 else 0) for number in range(NUM_DOCUMENTS)
    ]
    return QueryList([1, *query, 2], documents, frozenset(query))


def mixed_list(
    rng: random.Random, vocabulary_size: int, lead: Sequence[int], label: Sequence[int]
) -> QueryList:
    """Return a list of lesson two: all tokens, mixed lengths, matches in irrelevant documents, and the template.

    Args:
        rng: The random generator.
        vocabulary_size: Upper bound of the token ids.
        lead: Ids of ``<Query>:``, before the query.
        label: Ids of ``<Document>:``, after the query.
    """
    tokens = range(NUM_CONTROL_AND_BYTE_TOKENS, vocabulary_size)
    query = rng.choices(tokens, k=rng.choice((2, 3, 4, 6, 9, 12)))
    length = rng.choice((16, 24, 40, 64))
    recurring = [max(1, len(query) - rng.choice((0, 1, 2)))]
    recurring += [
        rng.randint(0, max(0, recurring[0] - 2)) if rng.random() < 0.5 else 0
        for _ in range(NUM_DOCUMENTS - 1)
    ]
    documents = [_document(rng, tokens, length, query, count) for count in recurring]
    return QueryList([*lead, *query, *label], documents, frozenset(query))


def _document(
    rng: random.Random, tokens: range, length: int, query: list[int], num_recurring: int
) -> list[int]:
    document = rng.choices(tokens, k=length)
    chosen = rng.sample(query, num_recurring)
    for place, token in zip(rng.sample(range(length), num_recurring), chosen, strict=True):
        document[place] = token
    return document
