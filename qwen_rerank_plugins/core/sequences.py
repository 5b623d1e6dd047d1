"""Prompts as paths of token segments that are shared by identity. The contract of prompts, scheduler and engine.

A prompt is a path from a root to a leaf: system and instruction, query, document. Its leaf stands for it. Segments
are interned: after the same parent, the same ids are the same object, so prompts that share leading segments share
their computation, and nothing past the encoder hashes or compares token ids. Knows no torch, no text and no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar
from weakref import WeakValueDictionary

__all__ = ["Segment", "TokenIds", "added_tokens", "group_by_prefix", "unseen_segments"]

TokenIds = tuple[int, ...]


class Segment:
    """Token ids at one place of a prompt; as a leaf, the prompt that ends with them.

    Create segments with `Segment.after`. They compare and hash by identity.

    Attributes:
        ids: The token ids; never empty.
        parent: The segment before this one; None for a root.
        position: Position of the first token: the total length of its ancestors.
        end: Position after the last token: the length of the prompt that ends here, in tokens.
    """

    __slots__ = ("__weakref__", "end", "ids", "parent", "position")

    _interned: ClassVar[WeakValueDictionary[tuple[Segment | None, TokenIds], Segment]] = WeakValueDictionary()

    def __init__(self, parent: Segment | None, ids: TokenIds) -> None:
        self.ids = ids
        self.parent = parent
        self.position: int = 0 if parent is None else parent.end
        self.end: int = self.position + len(ids)

    @classmethod
    def after(cls, parent: Segment | None, *runs: TokenIds) -> Segment:
        """Return the last of some segments, each after the one before; empty ones are left out.

        Two threads that create the same segment at once may get two objects: their prompts share nothing then, and
        have the same scores.

        Args:
            parent: The segment before the first one; None to begin a prompt.
            runs: The token ids of each segment.

        Raises:
            ValueError: There is no token.
        """
        for ids in filter(None, runs):
            found = cls._interned.get((parent, ids))
            parent = cls._interned.setdefault((parent, ids), cls(parent, ids)) if found is None else found
        if parent is None:
            raise ValueError("a prompt needs at least one token")
        return parent

    def path(self) -> list[Segment]:
        """Return the segments from the root to this one."""
        path: list[Segment] = []
        segment: Segment | None = self
        while segment is not None:
            path.append(segment)
            segment = segment.parent
        return path[::-1]

    def __repr__(self) -> str:
        return f"Segment(position={self.position}, end={self.end})"


def unseen_segments(prompt: Segment, seen: set[Segment]) -> tuple[list[Segment], int]:
    """Return the segments of a prompt that are not in `seen`, and their tokens.

    Args:
        prompt: The prompt's leaf.
        seen: Segments together with all their ancestors.
    """
    unseen: list[Segment] = []
    segment: Segment | None = prompt
    while segment is not None and segment not in seen:
        unseen.append(segment)
        segment = segment.parent
    return unseen, prompt.end - (0 if segment is None else segment.end)


def added_tokens(prompts: Iterable[Segment]) -> list[int]:
    """Return the tokens that each prompt adds to those before it when shared segments are computed once."""
    seen: set[Segment] = set()
    added: list[int] = []
    for prompt in prompts:
        unseen, tokens = unseen_segments(prompt, seen)
        seen.update(unseen)
        added.append(tokens)
    return added


def group_by_prefix(prompts: Sequence[Segment]) -> list[int]:
    """Return the indices of prompts such that those with a common prefix are neighbours, shorter ones first.

    Groups are in the order of their first prompt.
    """
    rank: dict[Segment, int] = {}
    keys = [
        (*(rank.setdefault(segment, len(rank)) for segment in prompt.path()[:-1]), len(prompt.ids))
        for prompt in prompts
    ]
    return sorted(range(len(prompts)), key=lambda index: (keys[index], index))
