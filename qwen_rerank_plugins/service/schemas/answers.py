"""What answers are made of: scores, ranked entries and what they cost, with a schema each. Knows no dialect.

Scores leave as `wire_number` rounds them. The order is the result's, which was made from what was not rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from qwen_rerank_plugins.service.schemas.numbers import wire_number
from qwen_rerank_plugins.service.schemas.request import BodyError
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
    "description": "Probability of relevance, or log-odds where raw scores were asked for; null if unscored.",
    "type": ["number", "null"],
}
INDEX_SCHEMA: Final[dict[str, Any]] = {
    "description": "Position in the documents that were sent, from 0.",
    "type": "integer",
    "minimum": 0,
}
DETAILS_SCHEMA: Final[dict[str, Any]] = {
    "log_odds": {
        "description": "The probability's logit, which does not saturate.",
        "type": ["number", "null"],
    },
    "truncated": {"description": "The document was cut to fit.", "type": "boolean"},
    "query_truncated": {"description": "The query was cut to fit.", "type": "boolean"},
    "span": {
        "description": "Start and end of the best passage, in characters of the text that was ranked.",
        "type": ["array", "null"],
        "items": {"type": "integer", "minimum": 0},
        "minItems": 2,
        "maxItems": 2,
    },
}
STATUS_SCHEMA: Final[dict[str, Any]] = {
    "description": "Only in an answer without scores: ranking is switched off, or failed and the order was kept.",
    "enum": ["disabled", "failed"],
}


def closed_schema(properties: Mapping[str, Any], *, optional: Sequence[str] = ()) -> dict[str, Any]:
    """Describe an object that has these keys, the optional ones perhaps, and no other."""
    required = [key for key in properties if key not in optional]
    return {
        "type": "object",
        "properties": dict(properties),
        "required": required,
        "additionalProperties": False,
    }


SCORES_SCHEMA: Final[dict[str, Any]] = {
    "description": "One score a document, in the order they were sent, whatever `top_n` cut; empty if unscored.",
    "type": "array",
    "items": {"type": "number"},
}
PAIRS_SCHEMA: Final[dict[str, Any]] = {
    "description": "Where `return_pairs` asked for it: everything about each document, in the order they were sent.",
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
    """Give a probability, or with `raw` its log-odds; None where nothing was scored.

    Raises:
        BodyError: Log-odds are asked for, and the model behind the service does not tell them.
    """
    if not raw or scored.relevance_score is None:
        return _wire(scored.relevance_score)
    if scored.log_odds is None:
        raise BodyError("raw scores are not available: the model behind this service tells no log-odds")
    return _wire(scored.log_odds)


def details(scored: RankedDocument | PairScore) -> dict[str, Any]:
    """Give what is told of a pair beside its score."""
    return {
        "log_odds": _wire(scored.log_odds),
        "truncated": scored.truncated,
        "query_truncated": scored.query_truncated,
        "span": None if scored.span is None else list(scored.span),
    }


def scores(result: RerankResult, *, raw: bool) -> list[float | None]:
    """Give one plain number a document, in input order, whatever was cut."""
    return [score_of(score, raw=raw) for score in result.scores]


def pairs(result: RerankResult) -> list[dict[str, Any]]:
    """Give everything about each document, in input order, whatever was cut; never raw."""
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
    """Give the mark of an answer without scores, or nothing."""
    return next(({"status": one.status} for one in results if one.status != "ranked"), {})


def num_tokens(results: Sequence[RerankResult]) -> int:
    """Add up the tokens of all pairs."""
    return sum(result.usage.num_tokens for result in results)


def usage(results: Sequence[RerankResult]) -> dict[str, int]:
    """Give the tokens of all pairs as OpenAI-like clients read them."""
    tokens = num_tokens(results)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _wire(value: float | None) -> float | None:
    return None if value is None else wire_number(value)
