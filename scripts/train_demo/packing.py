"""Pack many lists of documents into one sequence, with shared tokens stored once.

The prefix (system and instruction) comes first, then the queries, then the documents with their suffix. Documents are
sorted by length into a few groups, so that little is wasted when attention pads each group to its longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray: TypeAlias = NDArray[np.int64]

MAX_GROUPS = 4


@dataclass(frozen=True, slots=True)
class QueryList:
    """One query with its documents, the relevant one first.

    Attributes:
        head: Token ids from the query up to and including ``<Document>:``.
        documents: Token ids of each document, without the suffix.
        query_tokens: The query's own ids, for the auxiliary labels.
    """

    head: list[int]
    documents: list[list[int]]
    query_tokens: frozenset[int]


@dataclass(frozen=True, slots=True)
class Segments:
    """The prefix, the queries, or a group of documents: N sequences, padded to W tokens for attention.

    Attributes:
        start: Packed index of the first token of the first sequence.
        places: Index of each packed token among the N * W padded ones.
        parents: For each kind of ancestor, its index for each sequence, (N,).
        mask: The keys that each token attends to, those of ancestors first, (N, 1, W, keys).
    """

    start: int
    places: Tensor
    parents: tuple[Tensor, ...]
    mask: Tensor


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch for the forward pass.

    Attributes:
        ids: Packed token ids, (T,).
        positions: Each token's position in its own plain sequence, (T,).
        segments: The prefix, the queries, and the groups of documents, in packed order.
        last: Packed index of each document's last suffix token, in the lists' order, (lists * documents,).
        labelled: Packed indices of the document tokens, (D,).
        occurs: 1 where that token occurs in its query, else 0, (D,).
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segments, ...]
    last: Tensor
    labelled: Tensor
    occurs: Tensor


@dataclass(frozen=True, slots=True)
class _Level:
    """Sequences by their lengths, from packed index ``start`` on."""

    start: int
    lengths: IntArray

    @property
    def starts(self) -> IntArray:
        return self.start + np.cumsum(self.lengths) - self.lengths

    @property
    def real(self) -> NDArray[np.bool_]:
        return np.arange(int(self.lengths.max())) < self.lengths[:, None]


def _segments(own: _Level, ancestors: Sequence[tuple[_Level, IntArray]]) -> Segments:
    """Build the attention of ``own`` to its ancestors (a level, and its index for each sequence) and to itself."""
    count, width = own.real.shape
    parts = [np.repeat(level.real[index][:, None], width, axis=1) for level, index in ancestors]
    parts.append(np.tril(np.ones((width, width), dtype=bool))[None] & own.real[:, None])
    return Segments(
        start=own.start,
        places=torch.from_numpy(np.flatnonzero(own.real)),
        parents=tuple(torch.from_numpy(index) for _, index in ancestors),
        mask=torch.from_numpy(np.concatenate(parts, axis=2)[:, None]).view(count, 1, width, -1),
    )


def pack(prefix: Sequence[int], lists: Sequence[QueryList], suffix: Sequence[int]) -> PackedBatch:
    """Pack lists that share a prefix and a suffix.

    Args:
        prefix: Token ids of system and instruction, at least one.
        lists: With at least one document each.
        suffix: Token ids after each document, at least one.
    """
    documents = [(number, ids) for number, query in enumerate(lists) for ids in query.documents]
    order = np.argsort([len(ids) for _, ids in documents], kind="stable")
    tails = [documents[index] for index in order]
    owner = np.array([number for number, _ in tails], dtype=np.int64)
    root = _Level(0, np.array([len(prefix)]))
    stems = _Level(len(prefix), np.array([len(query.head) for query in lists]))
    leaves = _Level(
        len(prefix) + int(stems.lengths.sum()), np.array([len(ids) + len(suffix) for _, ids in tails])
    )

    segments = [_segments(root, []), _segments(stems, [(root, np.zeros(len(lists), dtype=np.int64))])]
    for group in np.array_split(np.arange(len(tails)), min(MAX_GROUPS, len(tails))):
        level = _Level(int(leaves.starts[group[0]]), leaves.lengths[group])
        segments.append(_segments(level, [(root, np.zeros_like(group)), (stems, owner[group])]))

    tail_offsets = len(prefix) + stems.lengths[owner]
    ids = [*prefix]
    for query in lists:
        ids += query.head
    for _, document in tails:
        ids += [*document, *suffix]
    occurs = [token in lists[number].query_tokens for number, document in tails for token in document]
    last = np.empty(len(tails), dtype=np.int64)
    last[order] = leaves.starts + leaves.lengths - 1
    return PackedBatch(
        ids=torch.tensor(ids),
        positions=_ranges(
            [(0, len(prefix))],
            [(len(prefix), length) for length in stems.lengths],
            zip(tail_offsets, leaves.lengths, strict=True),
        ),
        segments=tuple(segments),
        last=torch.from_numpy(last),
        labelled=_ranges(zip(leaves.starts, leaves.lengths - len(suffix), strict=True)),
        occurs=torch.tensor(occurs, dtype=torch.float32),
    )


def _ranges(*parts: Iterable[tuple[int, int]]) -> Tensor:
    """Concatenate ranges, each given by its first number and its length."""
    return torch.from_numpy(np.concatenate([first + np.arange(n) for part in parts for first, n in part]))
