"""TREC runs: order them as trec_eval does, and write them so that trec_eval keeps their order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from qwen_rerank_plugins.errors import InputError

__all__ = ["ScoredList", "logit", "order_as_trec_eval", "strictly_decreasing", "write_run"]

ScoredList = Sequence[tuple[str, float]]
"""Document ids with scores, best first."""

_SMALLEST = float(np.finfo(np.float64).tiny)
_TAG = "qwen-rerank"


def order_as_trec_eval(scores: Mapping[str, float]) -> list[str]:
    """Order documents as trec_eval does: by descending float32 score, ties by descending id."""
    return sorted(scores, key=lambda doc_id: (float(np.float32(scores[doc_id])), doc_id), reverse=True)


def logit(probability: float) -> float:
    """Return the log-odds of a probability; finite at 0 and 1."""
    return math.log(max(probability, _SMALLEST)) - math.log(max(1.0 - probability, _SMALLEST))


def strictly_decreasing(scores: Iterable[float]) -> list[float]:
    """Lower scores as little as possible, so that each is less than the one before in float32.

    trec_eval reads scores as float32 and breaks ties by document id. Documents whose scores differ only in float64, or
    whose tie keeps the order of the first stage, would otherwise be swapped.
    """
    decreasing: list[float] = []
    before = np.float32(np.inf)
    for score in scores:
        rounded = np.float32(score)
        before = rounded if rounded < before else np.nextafter(before, np.float32(-np.inf))
        decreasing.append(float(before))
    return decreasing


def write_run(path: Path, lists: Mapping[str, ScoredList], *, tag: str = _TAG) -> None:
    """Write lists as a TREC run in the order that trec_eval computes.

    Args:
        path: The file.
        lists: Query id → documents with scores, best first.
        tag: The name of the run in the file.

    Raises:
        InputError: The file cannot be written, or an id contains white space.
    """
    lines: list[str] = []
    for query_id, scored in lists.items():
        scores = strictly_decreasing(score for _, score in scored)
        for rank, ((doc_id, _), score) in enumerate(zip(scored, scores, strict=True), start=1):
            if any(character.isspace() for character in query_id + doc_id):
                raise InputError(
                    f"id contains white space: {query_id!r}, {doc_id!r}; rename it to write a TREC run"
                )
            lines.append(f"{query_id} Q0 {doc_id} {rank} {score:.9g} {tag}\n")
    try:
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"file cannot be written: {str(path)!r}: {error.strerror}") from error
