"""Runs: ordered as trec_eval orders them, and written so that it cannot order them otherwise. Knows no scorer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from qwen_rerank_plugins.errors import InputError

__all__ = ["ScoredList", "logit", "order_as_trec_eval", "strictly_falling", "write_run"]

ScoredList = Sequence[tuple[str, float]]
"""Document ids with scores, best first."""

_SMALLEST = float(np.finfo(np.float64).tiny)
_TAG = "qwen-rerank"


def order_as_trec_eval(scores: Mapping[str, float]) -> list[str]:
    """Order documents as trec_eval does: by score in 32 bits, falling, and of equal ones by id, falling."""
    return sorted(scores, key=lambda doc_id: (float(np.float32(scores[doc_id])), doc_id), reverse=True)


def logit(probability: float) -> float:
    """Give a probability's log-odds, finite at 0 and 1 too."""
    return math.log(max(probability, _SMALLEST)) - math.log(max(1.0 - probability, _SMALLEST))


def strictly_falling(scores: Iterable[float]) -> list[float]:
    """Lower scores by the least that makes each one less than the one before, in 32 bits.

    trec_eval reads scores in 32 bits and decides ties by the documents' ids: two documents that the reranker
    tells apart, or whose tie the first stage decided, would change places.
    """
    falling: list[float] = []
    before = np.float32(np.inf)
    for score in scores:
        rounded = np.float32(score)
        before = rounded if rounded < before else np.nextafter(before, np.float32(-np.inf))
        falling.append(float(before))
    return falling


def write_run(path: Path, lists: Mapping[str, ScoredList], *, tag: str = _TAG) -> None:
    """Write lists as a TREC run that trec_eval orders as they are.

    Raises:
        InputError: The file cannot be written, or an id holds white space.
    """
    lines: list[str] = []
    for query_id, scored in lists.items():
        scores = strictly_falling(score for _, score in scored)
        for rank, ((doc_id, _), score) in enumerate(zip(scored, scores, strict=True), start=1):
            if any(character.isspace() for character in query_id + doc_id):
                raise InputError(f"id holds white space: {query_id!r}, {doc_id!r}; a TREC run cannot hold it")
            lines.append(f"{query_id} Q0 {doc_id} {rank} {score:.9g} {tag}\n")
    try:
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"file cannot be written: {str(path)!r}: {error.strerror}") from error
