"""Merge prompts into a forest and lay it out as one packed sequence. Knows no torch, no text and no model.

Prompts that share leading segments share the nodes of those segments, so each is computed once. The packed
sequence holds all computed nodes without padding. A token attends to its node's ancestors and, causally, to
its own node. Its position is the total length of the ancestors plus its offset in its node, not its row in
the packed sequence.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from qwen_rerank_plugins.core.sequences import Segment, SegmentPath, TokenSequence

__all__ = ["Node", "PackedForest", "pack"]


@dataclass(frozen=True, slots=True)
class Node:
    """A segment at one place of the forest.

    Attributes:
        ids: Its token ids; never empty in a forest.
        parent: Index of the parent in `PackedForest.nodes`; -1 for a root.
        position: Position of its first token: the total length of its ancestors.
        start: Its first row in the packed sequence; -1 for a node whose keys and values are cached.
        path: The segments from the root to this node, itself included.
    """

    ids: Segment
    parent: int
    position: int
    start: int
    path: SegmentPath

    @property
    def is_cached(self) -> bool:
        """Whether its keys and values are cached, so that it is not computed."""
        return self.start < 0


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


def pack(sequences: Sequence[TokenSequence], cached: Container[SegmentPath] = ()) -> PackedForest:
    """Merge prompts into a forest and lay it out.

    Args:
        sequences: The prompts, at least one token each.
        cached: Paths whose keys and values are cached. Ignored for a node that ends a prompt, and for one
            with a computed ancestor.

    Raises:
        ValueError: A prompt has no tokens.
    """
    builder = _ForestBuilder()
    ends = [builder.insert(sequence) for sequence in sequences]
    order = builder.ordered_nodes()
    index_of = {old: new for new, old in enumerate(order)}
    is_cached = builder.cached_nodes(order, cached, set(ends))
    nodes: list[Node] = []
    start = 0
    for old in order:
        parent = index_of.get(builder.parents[old], -1)
        position = nodes[parent].position + len(nodes[parent].ids) if parent >= 0 else 0
        ids = builder.ids[old]
        nodes.append(Node(ids, parent, position, -1 if old in is_cached else start, builder.paths[old]))
        start += 0 if old in is_cached else len(ids)
    num_cached_tokens = sum(len(node.ids) for node in nodes if node.is_cached)
    return PackedForest(tuple(nodes), tuple(index_of[end] for end in ends), start, num_cached_tokens)


class _ForestBuilder:
    """The forest under construction; node 0 is an unnamed root above all roots."""

    def __init__(self) -> None:
        self.ids: list[Segment] = [()]
        self.parents: list[int] = [-1]
        self.paths: list[SegmentPath] = [()]
        self.depths: list[int] = [0]
        self._children: dict[tuple[int, Segment], int] = {}

    def insert(self, sequence: TokenSequence) -> int:
        """Add the nodes of a prompt that are new, and return the node that ends it."""
        node = 0
        for segment in sequence.segments:
            if segment:
                node = self._child(node, segment)
        if node == 0:
            raise ValueError("a prompt without tokens cannot be packed; give it at least one")
        return node

    def _child(self, node: int, segment: Segment) -> int:
        key = (node, segment)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = len(self.ids)
            self.ids.append(segment)
            self.parents.append(node)
            self.paths.append((*self.paths[node], segment))
            self.depths.append(self.depths[node] + 1)
        return child

    def ordered_nodes(self) -> list[int]:
        """Return the nodes level by level, siblings adjacent and sorted by length."""
        rank = {0: 0}
        order: list[int] = []
        for level in _levels(self.depths):
            level.sort(key=lambda node: (rank[self.parents[node]], len(self.ids[node]), node))
            for node in level:
                rank[node] = len(rank)
            order.extend(level)
        return order

    def cached_nodes(self, order: Iterable[int], cached: Container[SegmentPath], ends: set[int]) -> set[int]:
        """Return the nodes that are not computed."""
        found = {0}
        for node in order:
            if node not in ends and self.parents[node] in found and self.paths[node] in cached:
                found.add(node)
        return found - {0}


def _levels(depths: Sequence[int]) -> list[list[int]]:
    levels: list[list[int]] = [[] for _ in range(max(depths))]
    for node, depth in enumerate(depths):
        if depth:
            levels[depth - 1].append(node)
    return levels
