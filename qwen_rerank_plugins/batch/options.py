"""The options of a batch job: the section `batch` of a configuration. Opens no file."""

from __future__ import annotations

import codecs
from encodings.aliases import aliases
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qwen_rerank_plugins.config import RerankConfig, validators
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.types import Priority, SpanOptions

__all__ = ["BatchOptions", "FileFormat", "Form"]

FileFormat = Literal["csv", "jsonl", "parquet"]
Form = Literal["pairs", "lists"]

MEBI = 1 << 20
_SUPERSETS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-1": "cp1252",
}
_CODECS = (
    frozenset(aliases.values())
    - {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13"}
    - {"uu_codec", "zlib_codec"}
)


def _not_bool(value: object) -> object:
    """Refuse booleans, which pydantic would convert to 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number")  # noqa: TRY004 (pydantic reports ValueErrors alone)
    return value


def _delimiter(text: str) -> str:
    if len(text) != 1 or text in '"\r\n':
        raise ValueError("one character other than a double quote or a line break")
    return text


def _encoding(name: str) -> str:
    """Return the codec of a name; what the web platform reads as a superset is read so here (WHATWG, Encoding)."""
    try:
        codec = codecs.lookup(name).name
    except (LookupError, ValueError):
        codec = ""
    found = _SUPERSETS.get(codec, codec)
    if found.replace("-", "_") not in _CODECS:
        raise ValueError("the name of a text encoding, such as gb18030, cp1252 or utf-16")
    return found


Text = Annotated[str, AfterValidator(validators.not_blank)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_not_bool)]
Probability = Annotated[float, Field(ge=0, le=1), BeforeValidator(_not_bool)]


class BatchOptions(BaseModel):
    """How files are read and written. Frozen; constructing it reads no environment and no file.

    Raises:
        ConfigurationError: A setting is unknown, of the wrong type, out of range, or contradicts another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input_format: FileFormat | None = Field(
        default=None,
        description="Format of the input: `csv`, `jsonl` or `parquet`; None to detect it by the suffix.",
    )
    output_format: FileFormat | None = Field(
        default=None, description="Format of the output; None to detect it by the suffix."
    )
    form: Literal["auto", "pairs", "lists"] = Field(
        default="auto",
        description="Rows are pairs, or queries with lists of documents; `auto` detects it by the columns.",
    )
    query_column: Text = Field(default="query", description="Column of the query.")
    document_column: Text = Field(default="document", description="Column of a pair's document.")
    documents_column: Text = Field(default="documents", description="Column of a list's documents.")
    instruction_column: Text | None = Field(
        default=None,
        description="Column of a row's instruction; if the cell is empty, `instruction` applies.",
    )
    score_column: Text = Field(default="relevance_score", description="Added column of the score.")
    rank_column: Text = Field(default="rank", description="Added column of the rank, from 1.")
    index_column: Text = Field(
        default="index", description="Added column of a document's index in its list, from 0."
    )
    results_column: Text = Field(default="results", description="Added column of a ranked list.")
    explode: bool = Field(default=False, description="Write one row per document of a list.")
    replace_columns: bool = Field(
        default=False, description="Drop columns of the input that the output adds, as an earlier run did."
    )
    details: bool = Field(
        default=False, description="Add `log_odds`, `truncated`, `query_truncated`, `blank` and `warnings`."
    )
    spans: Count | None = Field(
        default=None,
        description="Add the column `spans`: up to this many relevant spans of each document; None for no spans.",
    )
    span_unit: Literal["sentence", "passage"] = Field(default="sentence", description="What a span is.")
    span_threshold: Probability | None = Field(
        default=None, description="Lowest relevance_score of a span; None for no threshold."
    )

    instruction: str | None = Field(default=None, description="The instruction; None for the reranker's.")
    top_n: Count | None = Field(
        default=None, description="Documents to keep per query; None for the reranker's."
    )
    min_score: Probability | None = Field(
        default=None, description="Lowest relevance_score to keep; None for the reranker's."
    )

    on_bad_row: Literal["stop", "reject"] = Field(
        default="stop",
        description="`stop` ends the job at a row that cannot be ranked; `reject` writes such rows to another file.",
    )
    encoding: Annotated[str, AfterValidator(_encoding)] | None = Field(
        default=None, description="Encoding of the input, such as `gb18030`; None to detect it."
    )
    delimiter: Annotated[str, AfterValidator(_delimiter)] | None = Field(
        default=None,
        description="Delimiter of CSV; None to detect it in the input, and for a comma, or a tab in `.tsv`, in the "
        "output.",
    )
    escape_formulas: bool = Field(
        default=True, description="Prefix CSV cells that a spreadsheet would compute with an apostrophe."
    )
    unescape_formulas: bool = Field(
        default=False,
        description="Remove the apostrophe of `escape_formulas` when reading CSV.",
    )
    bom: bool = Field(
        default=False, description="Begin CSV with a byte order mark, so that Excel detects UTF-8."
    )

    max_row_chars: Count = Field(
        default=16 * MEBI, description="Maximum characters of a row, which is held in memory."
    )
    max_document_chars: Count | None = Field(
        default=None, description="Maximum characters of a document; None for no limit but `max_row_chars`."
    )
    window_rows: Count = Field(default=2000, description="Rows that are read ahead and grouped by query.")
    call_pairs: Count = Field(
        default=256, description="Pairs per call to the scorer; each call is recorded in the journal."
    )
    concurrency: Count | None = Field(
        default=None,
        description="Concurrent calls; None for 2, or the remote backend's `max_concurrency`.",
    )
    priority: Priority | None = Field(
        default=None,
        description="Whether calls come before (`interactive`) or after (`background`) others to the same engine or "
        "service; None for `background` with the remote backend, else `interactive`.",
    )

    if not TYPE_CHECKING:  # type checkers use the keywords that pydantic derives from the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                cause = validators.configuration_error(error, type(self).model_fields, {})
                raise ConfigurationError(f"section 'batch': {cause}") from None

    @classmethod
    def from_config(cls, config: RerankConfig, **overrides: Any) -> Self:
        """Create options from the section `batch` of a configuration; `overrides` take precedence.

        Raises:
            ConfigurationError: As the constructor.
        """
        return cls(**{**config.batch, **overrides})

    def span_options(self) -> SpanOptions | None:
        """Return which spans are scored; None for none."""
        if self.spans is None:
            return None
        return SpanOptions(unit=self.span_unit, max_spans=self.spans, threshold=self.span_threshold)

    def details_columns(self) -> tuple[str, ...]:
        """Return the columns that `details` and `spans` add to score and rank."""
        details = ("log_odds", "truncated", "query_truncated", "blank", "warnings") if self.details else ()
        return details if self.spans is None else (*details, "spans")

    def added_columns(self, form: Form) -> tuple[str, ...]:
        """Return the columns that the output adds to the input's."""
        ranked = (self.score_column, self.rank_column, *self.details_columns())
        if form == "pairs":
            return ranked
        return (self.index_column, self.document_column, *ranked) if self.explode else (self.results_column,)
