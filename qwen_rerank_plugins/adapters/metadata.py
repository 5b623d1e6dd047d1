"""What a reranking writes into a document's metadata. Knows no framework and no settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from qwen_rerank_plugins.adapters.spans import Excerpt, clipped
from qwen_rerank_plugins.types import RankedDocument, RerankResult, Span

__all__ = ["reranked_metadata"]

_CALL_KEYS = frozenset(
    f"rerank_{name}"
    for name in (
        *("log_odds", "calibrated", "truncated", "query_truncated", "warnings", "passage", "passage_span"),
        *("spans", "status", "error"),
    )
)
"""The keys of one call. `first_stage_score` and what describes a shortened content outlive them."""


def reranked_metadata(
    metadata: Mapping[str, Any],
    ranked: RankedDocument,
    result: RerankResult,
    *,
    content: str,
    offset: int,
    first_stage_score: float | None,
    excerpt: Excerpt | None = None,
) -> dict[str, Any]:
    """Return a document's metadata with this call's rerank keys, replacing those of an earlier call.

    Args:
        metadata: The document's metadata; not changed.
        ranked: The document's place in the ranking.
        result: The ranking. Unless its status is "ranked", the only keys written are `rerank_status` and
            `rerank_error`.
        content: The document's own content.
        offset: Where the content begins in the text that was scored, in characters.
        first_stage_score: The score that the document came with. It is kept under `first_stage_score` unless an
            earlier reranking has written that key.
        excerpt: The relevant spans of the content, if they were requested.
    """
    updated = {key: value for key, value in metadata.items() if key not in _CALL_KEYS}
    if result.status != "ranked":
        updated["rerank_status"] = result.status
        if result.error is not None:
            updated["rerank_error"] = result.error
        return updated
    if first_stage_score is not None:
        updated.setdefault("first_stage_score", first_stage_score)
    if ranked.log_odds is not None:
        updated["rerank_log_odds"] = ranked.log_odds
    if ranked.calibrated is not None:
        updated["rerank_calibrated"] = ranked.calibrated
    if ranked.truncated:
        updated["rerank_truncated"] = True
    if ranked.query_truncated:
        updated["rerank_query_truncated"] = True
    if ranked.warnings:
        updated["rerank_warnings"] = list(ranked.warnings)
    if ranked.span is not None:
        updated |= _passage(content, clipped(ranked.span, offset))
    if excerpt is not None:
        updated["rerank_spans"] = [asdict(span) for span in excerpt.spans]
        if excerpt.text is not None:
            kept = [list(part) for part in excerpt.kept]
            updated |= {"rerank_original_content": content, "rerank_kept_spans": kept}
    return updated


def _passage(content: str, span: Span | None) -> dict[str, Any]:
    """Return the part of the best passage that is content; nothing if there is none."""
    if span is None:
        return {}
    return {"rerank_passage": content[slice(*span)], "rerank_passage_span": list(span)}
