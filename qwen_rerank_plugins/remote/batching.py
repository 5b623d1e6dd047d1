"""Groups pairs into calls: one query per call, as many documents as a service accepts. Knows no HTTP and no dialect."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen_rerank_plugins.types import ScoreRequest, TextLimits

__all__ = ["Batch", "make_batches"]


@dataclass(frozen=True, slots=True)
class Batch:
    """The pairs of one call.

    Attributes:
        query: The query of all its pairs.
        instruction: The instruction of all its pairs, or None.
        limits: The limits of all its pairs, or None.
        documents: The documents, in the order of the requests.
        positions: Index of each pair in the requests.
    """

    query: str
    instruction: str | None
    limits: TextLimits | None
    documents: tuple[str, ...]
    positions: tuple[int, ...]


def make_batches(
    requests: Sequence[ScoreRequest],
    *,
    max_documents: int,
    max_bytes: int,
    counts_pairs: bool = False,
    with_blanks: bool = True,
) -> list[Batch]:
    """Group pairs by query, instruction and limits, and split each group to fit the limits of a service.

    Args:
        requests: The pairs, in any order.
        max_documents: Maximum number of documents in a batch.
        max_bytes: Maximum size of their text in UTF-8. A longer document is sent alone.
        counts_pairs: Whether the query counts once per document.
        with_blanks: Whether pairs with a blank document are in a batch.
    """
    groups: dict[tuple[str, str | None, TextLimits | None], list[int]] = {}
    for position, request in enumerate(requests):
        if with_blanks or not _is_blank(request.document):
            key = (request.query, request.instruction, request.limits)
            groups.setdefault(key, []).append(position)
    batches = []
    for (query, instruction, limits), positions in groups.items():
        extra = _num_bytes(query) if counts_pairs else 0
        sizes = [_num_bytes(requests[one].document) + extra for one in positions]
        for part in _parts(sizes, positions, max_documents, max_bytes):
            documents = tuple(requests[one].document for one in part)
            batches.append(Batch(query, instruction, limits, documents, tuple(part)))
    return batches


def _is_blank(text: str) -> bool:
    """Whether a text has only white space, control characters and invisible ones (U+200B, U+FEFF)."""
    return all(one.isspace() or unicodedata.category(one) in {"Cc", "Cf"} for one in text)


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _parts(sizes: list[int], positions: list[int], max_documents: int, max_bytes: int) -> Iterator[list[int]]:
    part: list[int] = []
    total = 0
    for size, position in zip(sizes, positions, strict=True):
        if part and (len(part) == max_documents or total + size > max_bytes):
            yield part
            part, total = [], 0
        part.append(position)
        total += size
    yield part
