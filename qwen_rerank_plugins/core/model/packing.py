"""Merge prompts into a forest and lay it out as one packed sequence. Knows no torch, no text and no model.

Prompts that share leading segments share the nodes of those segments, so each is computed once. The packed
sequence holds all computed nodes without padding. A token attends to its node's ancestors and, causally, to
its own node. Its position is the total length of the ancestors plus its offset in its node, not its row in
the packed sequence.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from operator import attrgetter

from qwen_rerank_plugins.core.sequences import Segment, TokenIds, unseen_segments

__all__ = ["Node", "PackedForest", "pack"]


@dataclass(frozen=True, slots=True)
class Node:
    """A segment of a forest.

    Attributes:
        segment: The segment.
        ids: Its token ids.
        parent: Index of the parent in `PackedForest.nodes`; -1 for a root.
        position: Position of its first token: the total length of its ancestors.
        start: Its first row in the packed sequence; -1 for a node whose keys and values are cached.
        is_cached: Whether its keys and values are cached, so that it is not computed.
    """

    segment: Segment
    ids: TokenIds
    parent: int
    position: int
    start: int
    is_cached: bool


@dataclass(frozen=True, slots=True)
class PackedForest:
    """Prompts merged into a forest and laid out in one packed sequence.

    Attributes:
        nodes: Parents before children; siblings are adjacent, shorter ones first, so that siblings of equal
            length form a block.
        leaves: For each prompt, in input order, the node that ends it; equal prompts share one.
        num_tokens: Rows of the packed sequence: tokens of the computed nodes.
        num_cached_tokens: Tokens of the cached nodes.
    """

    nodes: tuple[Node, ...]
    leaves: tuple[int, ...]
    num_tokens: int
    num_cached_tokens: int

    def ancestors(self, index: int) -> list[int]:
        """Return the indices from the root down to the parent of a node; empty for a root."""
        found: list[int] = []
        parent = self.nodes[index].parent
        while parent >= 0:
            found.append(parent)
            parent = self.nodes[parent].parent
        return found[::-1]


def pack(prompts: Sequence[Segment], cached: Container[Segment] = ()) -> PackedForest:
    """Merge prompts into a forest and lay it out.

    Args:
        prompts: The prompts.
        cached: Segments whose keys and values are cached. Ignored for a segment that ends a prompt, and for one with a
            computed ancestor.
    """
    segments: set[Segment] = set()
    children: dict[Segment | None, list[Segment]] = {}
    for prompt in prompts:
        unseen, _ = unseen_segments(prompt, segments)
        segments.update(unseen)
        for segment in unseen:
            children.setdefault(segment.parent, []).append(segment)
    ends = set(prompts)
    nodes: list[Node] = []
    index_of: dict[Segment | None, int] = {None: -1}
    num_tokens = num_cached_tokens = 0
    parents: list[Segment | None] = [None]
    for parent in parents:  # grows: level by level
        for segment in sorted(children.get(parent, ()), key=attrgetter("end")):
            above = index_of[parent]
            is_cached = segment not in ends and segment in cached and (above < 0 or nodes[above].is_cached)
            index_of[segment] = len(nodes)
            start = -1 if is_cached else num_tokens
            nodes.append(Node(segment, segment.ids, above, segment.position, start, is_cached))
            num_cached_tokens += len(segment.ids) if is_cached else 0
            num_tokens += 0 if is_cached else len(segment.ids)
            parents.append(segment)
    return PackedForest(
        tuple(nodes), tuple(index_of[prompt] for prompt in prompts), num_tokens, num_cached_tokens
    )
