"""The dialect of vLLM's score route, in its four spellings, answered with scores in input order.

The left side is one query for all documents, or one query per document.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import answers, dialect, field_types
from qwen_rerank_plugins.service.schemas.documents import DOCUMENT_SCHEMA, text_of, texts_of

__all__ = ["SPELLINGS", "ScoreAnswer", "ScoreRequest"]

_EXAMPLE: dict[str, Any] = {
    "text_1": "capital of France",
    "text_2": ["Berlin lies on the Spree", "Paris, capital of France"],
}


def _read_left(value: Any) -> list[str]:
    if value is None:  # of `text_1` alone, since every other spelling is chosen by its left side
        spellings = "text_1 and text_2, data_1 and data_2, or queries and documents or items"
        raise PydanticCustomError("missing_spelling", f"is missing; pass {spellings}")
    if isinstance(value, list):
        return field_types.QUERIES.validate_python(value)
    return [field_types.QUERY.validate_python(value)]


def _read_right(value: Any) -> Any:
    return value if isinstance(value, str | dict) else field_types.DOCUMENTS.validate_python(value)


_LEFT = [field_types.QUERY.json_schema(), field_types.QUERIES.json_schema()]
_RIGHT = [{**DOCUMENT_SCHEMA, "type": ["string", "object"]}, field_types.DOCUMENTS.json_schema()]
_Left = Annotated[
    list[str],
    PlainValidator(_read_left),
    WithJsonSchema({"description": "One query for all documents, or one per document.", "anyOf": _LEFT}),
]
_Right = Annotated[
    Any,
    PlainValidator(_read_right),
    WithJsonSchema(
        {
            "description": "One document or a list; with several queries, one document per query.",
            "anyOf": _RIGHT,
        }
    ),
]


class ScoreRequest(dialect.Instructed, dialect.RawScores, dialect.TokenLimits, dialect.Dialect):
    """`text_1` and `text_2`. The other spellings declare the two sides again with other names."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    name: ClassVar[str] = "score"

    left: _Left = Field(alias="text_1")
    right: _Right = Field(alias="text_2")
    model: field_types.Text = None
    truncate: field_types.Flag = Field(default=None, description=field_types.TRUNCATE)

    def to_request(self) -> dialect.RankingRequest:
        """Return what to rank."""
        left, place = (str(type(self).model_fields[side].alias) for side in ("left", "right"))
        is_list = isinstance(self.right, list)
        texts = texts_of(self.right, place) if is_list else (text_of(self.right, place),)
        if len(self.left) > 1 and len(self.left) != len(texts):
            numbers = f"{len(texts)} documents for {len(self.left)} of {left}"
            raise BodyError(f"{place} has {numbers}; pass one query, or one per document")
        return dialect.RankingRequest(
            queries=tuple(self.left),
            documents=(texts,) if len(self.left) == 1 else tuple((text,) for text in texts),
            instruction=self.effective_instruction,
            model=self.model,
            allow_truncation=self.truncate is not False,
            limits=self.limits,
        )

    def from_result(self, outcome: dialect.Outcome) -> ScoreAnswer:
        """Return the answer."""
        raw = self.raw
        return {
            "id": outcome.request_id,
            "object": "list",
            "created": outcome.created_s,
            "model": outcome.model,
            "data": [
                {
                    "index": index,
                    "object": "score",
                    "score": answers.score_of(one, raw=raw),
                    **answers.details(one),
                }
                for index, one in enumerate(answers.in_input_order(outcome.results))
            ],
            "usage": answers.usage(outcome.results),
            **answers.status(outcome.results),
        }


class _DataRequest(ScoreRequest):
    """`data_1` and `data_2`."""

    model_config = ConfigDict(json_schema_extra={})
    left: _Left = Field(alias="data_1")
    right: _Right = Field(alias="data_2")


class _DocumentsRequest(ScoreRequest):
    """`queries` and `documents`."""

    model_config = ConfigDict(json_schema_extra={})
    left: _Left = Field(alias="queries")
    right: _Right = Field(alias="documents")


class _ItemsRequest(ScoreRequest):
    """`queries` and `items`."""

    model_config = ConfigDict(json_schema_extra={})
    left: _Left = Field(alias="queries")
    right: _Right = Field(alias="items")


SPELLINGS: tuple[tuple[tuple[str, ...], type[ScoreRequest]], ...] = (
    (("text_1",), ScoreRequest),
    (("data_1",), _DataRequest),
    (("queries", "documents"), _DocumentsRequest),
    (("queries", "items"), _ItemsRequest),
)
"""Deciding keys and model of each spelling: the first whose keys are all present applies."""


class ScoreEntry(answers.Details):
    """The score of one pair."""

    index: answers.Index
    object: Literal["score"]
    score: answers.Score


class ScoreAnswer(answers.Status):
    """The answer to vLLM's score clients."""

    id: Annotated[str, Field(description="The request id.")]
    object: Literal["list"]
    created: Annotated[int, Field(description="Unix time in seconds.")]
    model: str
    data: Annotated[list[ScoreEntry], Field(description="In input order.")]
    usage: answers.Usage
