"""The planner: token segments in, a packed forest and batches under a token budget out.

It knows no torch, no text and no model. A prompt is a path of segments from a root to a leaf (system and
instruction, query, document); prompts that share leading segments share the nodes of those segments, so each is
computed once. A packed forest lays all nodes behind one another in one sequence without padding: a token attends to
its node's ancestors and, causally, to its own node. Its position is its ancestors' lengths plus its offset in its
own node, never its place in the packed sequence.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "Node",
    "PackedForest",
    "Path",
    "Segment",
    "TokenCounter",
    "TokenSequence",
    "pack",
    "plan_batches",
    "sharing_order",
]

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


@dataclass(frozen=True, slots=True)
class Node:
    """A segment at one place of the forest.

    Attributes:
        ids: Its token ids; empty only where a prompt's segment was empty and is skipped, so never in a forest.
        parent: Index of the parent in `PackedForest.nodes`; -1 for a root.
        position: Position of its first token: the summed lengths of its ancestors.
        start: Its first row in the packed sequence; -1 for a node whose keys and values are already known.
        path: The segments from the root to here, itself included.
    """

    ids: Segment
    parent: int
    position: int
    start: int
    path: Path

    @property
    def is_known(self) -> bool:
        """Whether its keys and values come from outside, so that it is not computed."""
        return self.start < 0


@dataclass(frozen=True, slots=True)
class PackedForest:
    """Prompts merged into a forest and laid out in one packed sequence.

    Attributes:
        nodes: Parents before children; siblings behind one another, shorter ones first, so that siblings of equal
            length form a block.
        leaves: For each prompt, in input order, the node that ends it; prompts that are equal share one.
        num_tokens: Rows of the packed sequence: tokens of the nodes that are computed.
        num_known_tokens: Tokens of the nodes that are not.
    """

    nodes: tuple[Node, ...]
    leaves: tuple[int, ...]
    num_tokens: int
    num_known_tokens: int

    def ancestors(self, index: int) -> list[int]:
        """Indices from the root down to the parent of a node; empty for a root."""
        found: list[int] = []
        parent = self.nodes[index].parent
        while parent >= 0:
            found.append(parent)
            parent = self.nodes[parent].parent
        return found[::-1]

    @property
    def inner(self) -> list[int]:
        """Indices of the nodes that have children."""
        return sorted({node.parent for node in self.nodes if node.parent >= 0})


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


def pack(sequences: Sequence[TokenSequence], known: Container[Path] = ()) -> PackedForest:
    """Merge prompts into a forest and lay it out.

    Args:
        sequences: The prompts, at least one token each.
        known: Paths whose keys and values need not be computed. Ignored for a node that ends a prompt, and for
            one that has an ancestor to be computed.
    """
    tree = _Tree()
    ends = [tree.insert(sequence) for sequence in sequences]
    order = tree.layout()
    index_of = {old: new for new, old in enumerate(order)}
    is_known = tree.known(order, known, set(ends))
    nodes: list[Node] = []
    start = 0
    for old in order:
        parent = index_of.get(tree.parents[old], -1)
        position = nodes[parent].position + len(nodes[parent].ids) if parent >= 0 else 0
        ids = tree.ids[old]
        nodes.append(Node(ids, parent, position, -1 if old in is_known else start, tree.paths[old]))
        start += 0 if old in is_known else len(ids)
    num_known_tokens = sum(len(node.ids) for node in nodes if node.is_known)
    return PackedForest(tuple(nodes), tuple(index_of[end] for end in ends), start, num_known_tokens)


class _Tree:
    """The forest while it grows: node 0 is a nameless root above all roots."""

    def __init__(self) -> None:
        self.ids: list[Segment] = [()]
        self.parents: list[int] = [-1]
        self.paths: list[Path] = [()]
        self.depths: list[int] = [0]
        self._children: dict[tuple[int, Segment], int] = {}

    def insert(self, sequence: TokenSequence) -> int:
        """Walk a prompt down the tree, adding what is new; the node that ends it."""
        node = 0
        for segment in sequence.segments:
            if segment:
                node = self._child(node, segment)
        if node == 0:
            raise ValueError("a prompt without tokens cannot be packed")
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

    def layout(self) -> list[int]:
        """Nodes level by level, siblings together and sorted by length."""
        place = {0: 0}
        order: list[int] = []
        for level in _levels(self.depths):
            level.sort(key=lambda node: (place[self.parents[node]], len(self.ids[node]), node))
            for node in level:
                place[node] = len(place)
            order.extend(level)
        return order

    def known(self, order: Iterable[int], known: Container[Path], ends: set[int]) -> set[int]:
        """The nodes that need not be computed."""
        found = {0}
        for node in order:
            if node not in ends and self.parents[node] in found and self.paths[node] in known:
                found.add(node)
        return found - {0}


def _levels(depths: Sequence[int]) -> list[list[int]]:
    levels: list[list[int]] = [[] for _ in range(max(depths))]
    for node, depth in enumerate(depths):
        if depth:
            levels[depth - 1].append(node)
    return levels


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
