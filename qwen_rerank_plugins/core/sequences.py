"""Prompts as paths of token segments, and the number of tokens that a set of prompts computes.

A prompt is a path of segments from a root to a leaf: system and instruction, query, document. Prompts that
share leading segments share their computation. This module is the contract between prompts, scheduler and
engine; it knows no torch, no text and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Segment", "SegmentPath", "TokenCounter", "TokenSequence", "group_by_prefix"]

Segment = tuple[int, ...]
"""Token ids that may be shared as a unit."""

SegmentPath = tuple[Segment, ...]
"""Segments from a root down to a node; they identify the node."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One prompt as the path of its segments; its token ids are their concatenation.

    Attributes:
        segments: At least one segment. Any but the last may be empty.
    """

    segments: SegmentPath

    @property
    def num_tokens(self) -> int:
        """Length of the prompt in tokens."""
        return sum(map(len, self.segments))


class TokenCounter:
    """Counts the tokens that a set of prompts computes when shared segments are computed once."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, Segment], int] = {}
        self.num_tokens = 0

    def cost(self, sequence: TokenSequence) -> int:
        """Return the tokens that this prompt would add."""
        node, new = 0, 0
        for segment in sequence.segments:
            child = self._children.get((node, segment), -1) if node >= 0 else -1
            if child < 0:
                new += len(segment)
            node = child
        return new

    def add(self, sequence: TokenSequence) -> int:
        """Add a prompt, and return the tokens that it adds."""
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


def group_by_prefix(sequences: Sequence[TokenSequence]) -> list[int]:
    """Return the indices of prompts such that those with a common prefix are neighbours, shorter ones first.

    Groups are in the order of their first prompt.
    """
    rank: dict[SegmentPath, int] = {}
    keys: list[tuple[int, ...]] = []
    for sequence in sequences:
        prefixes = [sequence.segments[: depth + 1] for depth in range(len(sequence.segments) - 1)]
        keys.append(
            (*(rank.setdefault(prefix, len(rank)) for prefix in prefixes), len(sequence.segments[-1]))
        )
    return sorted(range(len(sequences)), key=lambda index: (keys[index], index))
