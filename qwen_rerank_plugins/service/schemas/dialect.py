"""What all dialects share: the request to rank, the outcome to answer from, and the base models.

Nothing here knows HTTP, keys, queues or a particular dialect.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from qwen_rerank_plugins.service.schemas.documents import texts_of
from qwen_rerank_plugins.service.schemas.field_types import (
    TRUNCATE,
    Count,
    Documents,
    Flag,
    Probability,
    Query,
    Text,
    TokenLimit,
)
from qwen_rerank_plugins.types import RerankResult, SpanOptions, TextLimits

__all__ = [
    "Dialect",
    "Fields",
    "Instructed",
    "Outcome",
    "RankingRequest",
    "RawScores",
    "RelevantSpans",
    "Route",
    "ScoreLimit",
    "SingleQuery",
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
        spans: Which spans to return with each document; None for none.
    """

    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]
    top_n: int | None = None
    instruction: str | None = None
    model: str | None = None
    allow_truncation: bool = True
    min_score: float | None = None
    limits: TextLimits | None = None
    spans: SpanOptions | None = None

    @property
    def num_pairs(self) -> int:
        """Number of pairs to score."""
        return sum(map(len, self.documents))


SPAN_THRESHOLD: Final = 0.1
"""Cohere's default for the lowest score of a span."""


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

    min_score: Probability = Field(
        default=None, description="Lowest probability in the ranked list; null for no threshold."
    )
    score_threshold: Probability = Field(
        default=None, description="Alias of `min_score`, which takes precedence."
    )

    @property
    def effective_min_score(self) -> float | None:
        """`min_score`, or else `score_threshold`."""
        return self.score_threshold if self.min_score is None else self.min_score


class SpanFields(Fields):
    """What `relevant_spans` contains: Cohere's fields, and `unit`."""

    mode: Literal["enabled", "disabled"] | None = Field(
        default=None, description="Whether to return spans; enabled by default."
    )
    threshold: Probability = Field(
        default=None, description=f"Lowest score of a span; {SPAN_THRESHOLD} if absent or null."
    )
    max_spans: Annotated[Count, Field(description="Spans per document; all if absent, null or 0.")] = None
    unit: Literal["sentence", "passage"] | None = Field(
        default=None, description="What a span is; a sentence by default."
    )


class RelevantSpans(Fields):
    """The field that requests relevant spans, for the dialects that return details of a document."""

    relevant_spans: SpanFields | None = Field(
        default=None, description="Return the most relevant parts of each document in the ranked list."
    )

    @property
    def spans(self) -> SpanOptions | None:
        """Which spans are requested, or None."""
        asked = self.relevant_spans
        if asked is None or asked.mode == "disabled":
            return None
        threshold = SPAN_THRESHOLD if asked.threshold is None else asked.threshold
        return SpanOptions(unit=asked.unit or "sentence", max_spans=asked.max_spans, threshold=threshold)


class TokenLimits(Fields):
    """The limits of Cohere's and vLLM's requests, in addition to the configured ones."""

    max_tokens_per_doc: TokenLimit = None
    max_tokens_per_query: TokenLimit = None
    truncate_prompt_tokens: TokenLimit = Field(
        default=None, description="Tokens of the whole prompt; only the document is truncated."
    )
    max_chunks_per_doc: TokenLimit = Field(
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
            spans=self.spans if isinstance(self, RelevantSpans) else None,
        )

    def _texts(self) -> tuple[str, ...]:
        return texts_of(self.documents, type(self).model_fields["documents"].alias or "documents")
