"""Parts of answers with their schemas: scores, details of pairs, usage. Knows no dialect.

Scores are rounded by `wire_number`. The order is that of the result, determined by unrounded scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas.numbers import wire_number
from qwen_rerank_plugins.types import PairScore, RankedDocument, RerankResult

__all__ = [
    "DETAILS_SCHEMA",
    "INDEX_SCHEMA",
    "PAIRS_SCHEMA",
    "SCORES_SCHEMA",
    "SCORE_SCHEMA",
    "STATUS_SCHEMA",
    "USAGE_SCHEMA",
    "closed_schema",
    "details",
    "num_tokens",
    "pairs",
    "score_of",
    "scores",
    "status",
    "usage",
]

SCORE_SCHEMA: Final[dict[str, Any]] = {
    "description": "Probability of relevance, or log-odds if raw scores were requested; null if unscored.",
    "type": ["number", "null"],
}
INDEX_SCHEMA: Final[dict[str, Any]] = {
    "description": "Position in the documents of the request, from 0.",
    "type": "integer",
    "minimum": 0,
}
DETAILS_SCHEMA: Final[dict[str, Any]] = {
    "log_odds": {
        "description": "Logit of the probability, which does not saturate.",
        "type": ["number", "null"],
    },
    "truncated": {"description": "The document was truncated.", "type": "boolean"},
    "query_truncated": {"description": "The query was truncated.", "type": "boolean"},
    "span": {
        "description": "Start and end of the best passage, in characters of the ranked text.",
        "type": ["array", "null"],
        "items": {"type": "integer", "minimum": 0},
        "minItems": 2,
        "maxItems": 2,
    },
}
STATUS_SCHEMA: Final[dict[str, Any]] = {
    "description": "Only in answers without scores: ranking is disabled, or failed and the input order was kept.",
    "enum": ["disabled", "failed"],
}


def closed_schema(properties: Mapping[str, Any], *, optional: Sequence[str] = ()) -> dict[str, Any]:
    """Return the schema of an object with exactly these keys; `optional` ones may be absent."""
    required = [key for key in properties if key not in optional]
    return {
        "type": "object",
        "properties": dict(properties),
        "required": required,
        "additionalProperties": False,
    }


SCORES_SCHEMA: Final[dict[str, Any]] = {
    "description": "One score per document, in input order, independent of `top_n`; empty if unscored.",
    "type": "array",
    "items": {"type": "number"},
}
PAIRS_SCHEMA: Final[dict[str, Any]] = {
    "description": "With `return_pairs`: details of every document, in input order.",
    "type": "array",
    "items": closed_schema(
        {
            "index": INDEX_SCHEMA,
            "relevance_score": {"type": "number"},
            **DETAILS_SCHEMA,
            "num_tokens": {"type": "integer", "minimum": 0},
        }
    ),
}
USAGE_SCHEMA: Final[dict[str, Any]] = closed_schema(
    {
        "prompt_tokens": {"type": "integer", "minimum": 0},
        "total_tokens": {"type": "integer", "minimum": 0},
    }
)


def score_of(scored: RankedDocument | PairScore, *, raw: bool) -> float | None:
    """Return the probability, or with `raw` the log-odds; None if unscored.

    Raises:
        BodyError: Log-odds are requested, and the scorer does not return them.
    """
    if not raw or scored.relevance_score is None:
        return _wire(scored.relevance_score)
    if scored.log_odds is None:
        raise BodyError("raw scores are not available: the scorer returns no log-odds; request probabilities")
    return _wire(scored.log_odds)


def details(scored: RankedDocument | PairScore) -> dict[str, Any]:
    """Return the details of a pair in addition to its score."""
    return {
        "log_odds": _wire(scored.log_odds),
        "truncated": scored.truncated,
        "query_truncated": scored.query_truncated,
        "span": None if scored.span is None else list(scored.span),
    }


def scores(result: RerankResult, *, raw: bool) -> list[float | None]:
    """Return one number per document, in input order, independent of `top_n`."""
    return [score_of(score, raw=raw) for score in result.scores]


def pairs(result: RerankResult) -> list[dict[str, Any]]:
    """Return the details of every document, in input order, with probabilities as scores."""
    return [
        {
            "index": index,
            "relevance_score": wire_number(score.relevance_score),
            **details(score),
            "num_tokens": score.num_tokens,
        }
        for index, score in enumerate(result.scores)
    ]


def status(results: Sequence[RerankResult]) -> dict[str, str]:
    """Return the `status` field of an answer without scores, or nothing."""
    return next(({"status": one.status} for one in results if one.status != "ranked"), {})


def num_tokens(results: Sequence[RerankResult]) -> int:
    """Return the tokens of all pairs."""
    return sum(result.usage.num_tokens for result in results)


def usage(results: Sequence[RerankResult]) -> dict[str, int]:
    """Return the tokens of all pairs in the format of OpenAI's API."""
    tokens = num_tokens(results)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _wire(value: float | None) -> float | None:
    return None if value is None else wire_number(value)
