"""Prompts as paths of token segments, and what they cost together. Knows no torch, no text and no model.

A prompt is a path of segments from a root to a leaf: system and instruction, query, document. Prompts that share leading
segments share their computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Path", "Segment", "TokenCounter", "TokenSequence", "plan_batches", "sharing_order"]

Segment = tuple[int, ...]
"""Token ids that belong together and may be shared."""

Path = tuple[Segment, ...]
"""Segments from a root down to a node: what identifies the node."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One prompt as the path of its segments; its token ids are their concatenation.

    Attributes:
        segments: At least one; empty segments are allowed except as the last.
    """

    segments: Path

    @property
    def num_tokens(self) -> int:
        """Length of the whole prompt in tokens."""
        return sum(map(len, self.segments))


class TokenCounter:
    """Counts what a set of prompts costs when everything they share is computed once."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, Segment], int] = {}
        self.num_tokens = 0

    def cost(self, sequence: TokenSequence) -> int:
        """Tokens that this prompt would add to those already counted."""
        node, new = 0, 0
        for segment in sequence.segments:
            known = self._children.get((node, segment), -1) if node >= 0 else -1
            if known < 0:
                new += len(segment)
            node = known
        return new

    def add(self, sequence: TokenSequence) -> int:
        """Count this prompt in, and return the tokens that it added."""
        node, new = 0, 0
        for segment in sequence.segments:
            key = (node, segment)
            found = self._children.get(key)
            if found is None:
                found = self._children[key] = len(self._children) + 1
                new += len(segment)
            node = found
        self.num_tokens += new
        return new


def plan_batches(sequences: Sequence[TokenSequence], max_batch_tokens: int) -> list[list[int]]:
    """Cut prompts into batches of at most `max_batch_tokens` computed tokens.

    Prompts that share segments stay together, and shorter ones come first among them, so that little is computed
    twice and rows of equal length meet. A prompt that is longer than the budget has a batch to itself.

    Returns:
        Indices into `sequences`, each exactly once.
    """
    batches: list[list[int]] = []
    counter = TokenCounter()
    for index in sharing_order(sequences):
        sequence = sequences[index]
        if not batches or counter.num_tokens + counter.cost(sequence) > max_batch_tokens:
            batches.append([])
            counter = TokenCounter()
        counter.add(sequence)
        batches[-1].append(index)
    return batches


def sharing_order(sequences: Sequence[TokenSequence]) -> list[int]:
    """Indices of prompts such that those with a common beginning are neighbours, shorter ones first among them.

    Groups come in the order in which their first prompt does.
    """
    rank: dict[Path, int] = {}
    keys: list[tuple[int, ...]] = []
    for sequence in sequences:
        heads = [sequence.segments[: depth + 1] for depth in range(len(sequence.segments) - 1)]
        keys.append((*(rank.setdefault(head, len(rank)) for head in heads), len(sequence.segments[-1])))
    return sorted(range(len(sequences)), key=lambda index: (keys[index], index))
