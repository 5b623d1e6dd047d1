"""The settings of a batch job: the `batch` section of a configuration, checked. Opens no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qwen_rerank_plugins.config import RerankConfig, validators
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = ["BatchOptions", "FileFormat", "Form"]

FileFormat = Literal["csv", "jsonl", "parquet"]
Form = Literal["pairs", "lists"]

MEBI = 1 << 20


def _not_bool(value: object) -> object:
    """Keep true and false from being taken for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number")  # noqa: TRY004 (pydantic tells a ValueError as a finding)
    return value


def _delimiter(text: str) -> str:
    if len(text) != 1 or text in '"\r\n':
        raise ValueError("one character, neither a quote nor the end of a line")
    return text


Text = Annotated[str, AfterValidator(validators.not_blank)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_not_bool)]


class BatchOptions(BaseModel):
    """How files are read and written; frozen, and read from nowhere.

    Raises:
        ConfigurationError: A setting is unknown, of the wrong type, out of range, or contradicts another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input_format: FileFormat | None = Field(
        default=None, description="What is read: `csv`, `jsonl` or `parquet`; None goes by the suffix."
    )
    output_format: FileFormat | None = Field(
        default=None, description="What is written; None goes by the suffix."
    )
    form: Literal["auto", "pairs", "lists"] = Field(
        default="auto",
        description="A row is a pair, or a query with its list; `auto` goes by the columns that are there.",
    )
    query_column: Text = Field(default="query", description="Column of the query.")
    document_column: Text = Field(default="document", description="Column of a pair's document.")
    documents_column: Text = Field(default="documents", description="Column of a list's documents.")
    instruction_column: Text | None = Field(
        default=None, description="Column of what relevance means in a row; where empty, `instruction` holds."
    )
    score_column: Text = Field(default="relevance_score", description="Column that is added for the score.")
    rank_column: Text = Field(default="rank", description="Column that is added for the rank, from 1.")
    index_column: Text = Field(
        default="index", description="Column that is added for a document's place in its list, from 0."
    )
    results_column: Text = Field(default="results", description="Column that is added for a ranked list.")
    explode: bool = Field(default=False, description="Write a row for each document of a list.")
    details: bool = Field(default=False, description="Add `log_odds`, `truncated` and `query_truncated`.")

    instruction: str | None = Field(
        default=None, description="What relevance means; None for the reranker's."
    )
    top_n: Count | None = Field(
        default=None, description="Documents to keep of each query; None for the reranker's."
    )
    min_score: Annotated[float, Field(ge=0, le=1), BeforeValidator(_not_bool)] | None = Field(
        default=None, description="Lowest relevance_score to keep; None for the reranker's."
    )

    on_bad_row: Literal["stop", "set_aside"] = Field(
        default="stop",
        description="A row that cannot be ranked ends the job, or goes to a file of its own with the reason.",
    )
    delimiter: Annotated[str, AfterValidator(_delimiter)] | None = Field(
        default=None, description="Between the cells of CSV; None for a comma, in `.tsv` a tab."
    )
    escape_formulas: bool = Field(
        default=True, description="Write CSV cells that a spreadsheet would compute with an apostrophe."
    )
    unescape_formulas: bool = Field(
        default=False,
        description="Take that apostrophe off when CSV is read: for files of `escape_formulas`.",
    )
    bom: bool = Field(
        default=False, description="Begin CSV with a byte order mark, by which Excel knows UTF-8."
    )

    max_row_chars: Count = Field(
        default=16 * MEBI, description="Characters of a row, which is held in memory as a whole."
    )
    window_rows: Count = Field(
        default=2000, description="Rows that are read ahead and grouped by their queries."
    )
    call_pairs: Count = Field(default=256, description="Pairs in one call to the scorer, then they are kept.")
    concurrency: Count | None = Field(
        default=None,
        description="Calls at the same time; None for 2, or the remote backend's `max_concurrency`.",
    )

    if not TYPE_CHECKING:  # type checkers shall see the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                told = validators.configuration_error(error, type(self).model_fields, {})
                raise ConfigurationError(f"section 'batch': {told}") from None

    @classmethod
    def from_config(cls, config: RerankConfig, **overrides: Any) -> Self:
        """Read the section `batch` of a configuration, over which `overrides` go.

        Raises:
            ConfigurationError: As for new options.
        """
        return cls(**{**config.batch, **overrides})

    def details_columns(self) -> tuple[str, ...]:
        """Columns that are added to those of score and rank."""
        return ("log_odds", "truncated", "query_truncated") if self.details else ()

    def added_columns(self, form: Form) -> tuple[str, ...]:
        """Every column that the output has beside the input's."""
        ranked = (self.score_column, self.rank_column, *self.details_columns())
        if form == "pairs":
            return ranked
        return (self.index_column, self.document_column, *ranked) if self.explode else (self.results_column,)
