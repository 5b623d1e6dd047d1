"""What all dialects share: the request to rank, the outcome to answer from, the base model, and the types of fields.

Fields accept what clients send in practice: null means absent, booleans may be "true" and "false", integers "3" and 2.0.
A number is never converted to a string. Messages contain the place and type of a value, never the value. Nothing here
knows HTTP, keys, queues or a particular dialect.
"""

from __future__ import annotations

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qwen_rerank_plugins.service.schemas.documents import DOCUMENT_SCHEMA, json_type, texts_of
from qwen_rerank_plugins.types import RerankResult, TextLimits

__all__ = [
    "DOCUMENTS",
    "QUERIES",
    "QUERY",
    "TRUNCATE",
    "Count",
    "Dialect",
    "Documents",
    "Fields",
    "Flag",
    "Ignored",
    "Instructed",
    "Names",
    "Outcome",
    "Queries",
    "Query",
    "RankingRequest",
    "RawScores",
    "Route",
    "ScoreLimit",
    "SingleQuery",
    "Text",
    "TokenLimits",
]


class Route(enum.StrEnum):
    """Kind of address. On RERANK addresses the body determines the dialect."""

    RERANK = "rerank"
    SCORE = "score"
    DASHSCOPE = "dashscope"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of ranking a request.

    Attributes:
        results: One ranked list per query, in the order of the queries, with `scores` for every document.
        model: Name of the model.
        request_id: The request id, as in the answer's header.
        created_s: Unix time in whole seconds.
        return_documents: Whether documents are echoed if the request does not say.
        warnings: What was wrong with the texts of the request, each once.
    """

    results: Sequence[RerankResult]
    model: str
    request_id: str
    created_s: int
    return_documents: bool = False
    warnings: tuple[str, ...] = ()

    def echoes(self, requested: bool | None) -> bool:  # noqa: FBT001 (a field of a request)
        """Return whether documents are echoed: as requested, or else as configured."""
        return self.return_documents if requested is None else requested


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """A request, independent of its dialect.

    Attributes:
        queries: At least one query.
        documents: One list of texts per query; a text may be empty, a list may not.
        top_n: Maximum length of each ranked list; None for all documents.
        instruction: Definition of relevance; None for the default.
        model: Name of the requested model, or None.
        allow_truncation: Whether documents may be truncated; if False, a truncated document is an error.
        min_score: Lowest probability in the ranked lists; None for no threshold.
        limits: Limits of the texts, or None.
    """

    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]
    top_n: int | None = None
    instruction: str | None = None
    model: str | None = None
    allow_truncation: bool = True
    min_score: float | None = None
    limits: TextLimits | None = None

    @property
    def num_pairs(self) -> int:
        """Number of pairs to score."""
        return sum(map(len, self.documents))


# Types of fields: how a JSON value is read, and its JSON Schema.

_WORDS: Final = {"true": True, "True": True, "false": False, "False": False}
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"0(?:\.[0-9]{1,18})?|1(?:\.0{1,18})?")
# Contains a character other than those that str.strip() removes; the meaning of \S differs between engines.
_VISIBLE: Final = r"[^\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


def _invalid(value: object, expected: str) -> PydanticCustomError:
    return PydanticCustomError("invalid", f"has the wrong type: {json_type(value)}; pass {expected}")


def _read_flag(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    raise _invalid(value, "a boolean, 'true', 'false' or null")


def _read_count(value: Any, *, expected: str = "an integer; 0 or null returns all") -> int | None:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(value, expected)
    if value < 0:
        raise PydanticCustomError("invalid", f"is negative; pass {expected}")
    if isinstance(value, float) and not value.is_integer():
        raise PydanticCustomError("invalid", f"is not an integer; pass {expected}")
    return int(value) or None


def _read_score(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(value, "a number from 0 to 1, or null")
    if not 0 <= value <= 1:
        raise PydanticCustomError("invalid", "is out of range; pass a number from 0 to 1, or null")
    return float(value)


def _read_token_limit(value: Any) -> int | None:
    return None if value == -1 else _read_count(value, expected="an integer; 0, -1 or null for no limit")


TRUNCATE: Final = (
    "Whether documents may be truncated; if false, a truncated document is an error. True by default."
)


def _number_schema(kind: str, digits: str, **limits: int) -> WithJsonSchema:
    number = {"type": [kind, "null"], **limits}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "pattern": f"^(?:{digits})$"}]})


def _none_if_blank(value: str | None) -> str | None:
    return value if value is not None and value.strip() else None


Query = Annotated[str, Field(pattern=_VISIBLE, description="The query; not blank.")]
Queries = Annotated[list[Query], Field(min_length=1, fail_fast=True, description="The queries.")]
Documents = Annotated[
    list[Annotated[Any, WithJsonSchema(DOCUMENT_SCHEMA)]],
    Field(min_length=1, description="The documents to rank; at least one."),
]
Text = Annotated[str | None, AfterValidator(_none_if_blank)]
Names = Annotated[
    Annotated[list[str], Field(fail_fast=True)] | None,
    Field(description="Fields of objects to rank, in this order; `a.b` is `b` in `a`."),
]
Flag = Annotated[
    bool | None, PlainValidator(_read_flag), WithJsonSchema({"enum": [True, False, None, *_WORDS]})
]
Count = Annotated[
    int | None,
    PlainValidator(_read_count),
    _number_schema("integer", "[0-9]{1,18}", minimum=0),
    Field(description="Number of results per query; all if absent, null or 0."),
]
_ScoreValue = Annotated[
    float | None,
    PlainValidator(_read_score),
    _number_schema("number", _DECIMAL.pattern, minimum=0, maximum=1),
]
_TokenLimit = Annotated[
    int | None,
    PlainValidator(_read_token_limit),
    _number_schema("integer", "[0-9]{1,18}", minimum=-1),
    Field(description="Longer texts are truncated; no limit if null, 0 or -1."),
]
Ignored = Annotated[Any, Field(description="Accepted and ignored.")]

QUERY: Final[TypeAdapter[str]] = TypeAdapter(Query)
QUERIES: Final[TypeAdapter[list[str]]] = TypeAdapter(Queries)
DOCUMENTS: Final[TypeAdapter[list[Any]]] = TypeAdapter(Documents)


# Models.


class Fields(BaseModel):
    """Base of every object in a request. Keys that it does not define are ignored."""

    model_config = ConfigDict(frozen=True)
    _required: ClassVar[dict[str, None]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Collect the keys that a body must have."""
        super().__pydantic_init_subclass__(**kwargs)
        fields = cls.model_fields.items()
        cls._required = {field.alias or name: None for name, field in fields if field.is_required()}

    @model_validator(mode="before")
    @classmethod
    def _absent_is_null(cls, body: Any) -> Any:
        return {**cls._required, **body} if isinstance(body, dict) else body


class Instructed(Fields):
    """The fields of the instruction, for every dialect that has both."""

    instruction: Text = Field(
        default=None, description="Definition of relevance; null or blank for the default."
    )
    instruct: Text = Field(default=None, description="Alias of `instruction`, which takes precedence.")

    @property
    def effective_instruction(self) -> str | None:
        """`instruction`, or else `instruct`."""
        return self.instruct if self.instruction is None else self.instruction


class RawScores(Fields):
    """The fields that request log-odds."""

    raw_scores: Flag = Field(default=None, description="Return log-odds instead of probabilities.")
    use_activation: Flag = Field(default=None, description="False has the effect of `raw_scores`: true.")

    @property
    def raw(self) -> bool:
        """Whether log-odds are requested."""
        return bool(self.raw_scores) or self.use_activation is False


class ScoreLimit(Fields):
    """The fields of the threshold, for every dialect with a ranked list."""

    min_score: _ScoreValue = Field(
        default=None, description="Lowest probability in the ranked list; null for no threshold."
    )
    score_threshold: _ScoreValue = Field(
        default=None, description="Alias of `min_score`, which takes precedence."
    )

    @property
    def effective_min_score(self) -> float | None:
        """`min_score`, or else `score_threshold`."""
        return self.score_threshold if self.min_score is None else self.min_score


class TokenLimits(Fields):
    """The limits of Cohere's and vLLM's requests, in addition to the configured ones."""

    max_tokens_per_doc: _TokenLimit = None
    max_tokens_per_query: _TokenLimit = None
    truncate_prompt_tokens: _TokenLimit = Field(
        default=None, description="Tokens of the whole prompt; only the document is truncated."
    )
    max_chunks_per_doc: _TokenLimit = Field(
        default=None, description="Chunks of a document, where long documents are read in chunks."
    )

    @property
    def limits(self) -> TextLimits | None:
        """The limits, or None if none is set."""
        if LIMIT_NAMES.keys().isdisjoint(self.model_fields_set):
            return None
        limits = TextLimits(**{name: getattr(self, field) for field, name in LIMIT_NAMES.items()})
        return None if limits == TextLimits() else limits


LIMIT_NAMES: Final = dict(
    zip(
        TokenLimits.model_fields,
        ("max_document_tokens", "max_query_tokens", "max_length", "max_chunks"),
        strict=True,
    )
)
"""Field of a request → attribute of `TextLimits`."""


class Dialect(Fields, ABC):
    """A request in one dialect.

    Attributes:
        name: Name of the dialect, for logs and metrics.
    """

    name: ClassVar[str]

    @abstractmethod
    def to_request(self) -> RankingRequest:
        """Return what to rank.

        Raises:
            BodyError: A value is invalid. The message contains no text of the request.
        """

    @abstractmethod
    def from_result(self, outcome: Outcome) -> Any:
        """Return the answer as plain JSON types, with scores rounded by `wire_number`.

        Raises:
            BodyError: Log-odds are requested, and the scorer does not return them.
        """


class SingleQuery(Instructed, ScoreLimit, Dialect):
    """One query with its documents. Dialects that spell a field differently declare it again with an alias."""

    query: Query
    documents: Documents
    model: Text = Field(default=None, description="Any name; the answer contains that of the served model.")
    top_n: Count = None
    truncate: Flag = Field(default=None, description=TRUNCATE)

    def to_request(self) -> RankingRequest:
        """Return what to rank."""
        return RankingRequest(
            queries=(self.query,),
            documents=(self._texts(),),
            top_n=self.top_n,
            instruction=self.effective_instruction,
            model=self.model,
            allow_truncation=self.truncate is not False,
            min_score=self.effective_min_score,
            limits=self.limits if isinstance(self, TokenLimits) else None,
        )

    def _texts(self) -> tuple[str, ...]:
        return texts_of(self.documents, type(self).model_fields["documents"].alias or "documents")
