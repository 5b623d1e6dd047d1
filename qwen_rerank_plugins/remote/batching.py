"""Groups pairs into calls: one query per call, as many documents as a service accepts. Knows no HTTP and no dialect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen_rerank_plugins.types import ScoreRequest

__all__ = ["Batch", "make_batches"]


@dataclass(frozen=True, slots=True)
class Batch:
    """The pairs of one call.

    Attributes:
        query: The query of all its pairs.
        instruction: The instruction of all its pairs, or None.
        documents: The documents, in the order of the requests.
        positions: Index of each pair in the requests.
    """

    query: str
    instruction: str | None
    documents: tuple[str, ...]
    positions: tuple[int, ...]


def make_batches(requests: Sequence[ScoreRequest], *, max_documents: int, max_bytes: int) -> list[Batch]:
    """Group pairs by query and instruction, and split each group to fit the limits of a service.

    Args:
        requests: The pairs, in any order.
        max_documents: Maximum number of documents in a batch.
        max_bytes: Maximum size of their text in UTF-8. A longer document is sent alone.
    """
    groups: dict[tuple[str, str | None], list[int]] = {}
    for position, request in enumerate(requests):
        groups.setdefault((request.query, request.instruction), []).append(position)
    return [
        Batch(query, instruction, tuple(requests[one].document for one in part), tuple(part))
        for (query, instruction), positions in groups.items()
        for part in _parts(requests, positions, max_documents, max_bytes)
    ]


def _parts(
    requests: Sequence[ScoreRequest], positions: list[int], max_documents: int, max_bytes: int
) -> Iterator[list[int]]:
    part: list[int] = []
    size = 0
    for position in positions:
        document_size = len(requests[position].document.encode("utf-8", "surrogatepass"))
        if part and (len(part) == max_documents or size + document_size > max_bytes):
            yield part
            part, size = [], 0
        part.append(position)
        size += document_size
    yield part
