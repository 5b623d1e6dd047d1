"""What a client asks for with an upload: query parameters and headers to an `JobSpec`, and their description.

Opens no file; the options themselves are checked by the batch pipeline's own settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NoReturn

from starlette.datastructures import Headers, QueryParams

from qwen_rerank_plugins.batch import BatchOptions
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.service.errors import Problem, ProblemError
from qwen_rerank_plugins.service.jobs.records import JobSpec
from qwen_rerank_plugins.service.schemas.request import BodyError

__all__ = [
    "FORMATS",
    "MEDIA_TYPES",
    "PARAMETERS",
    "UPLOAD_TYPES",
    "batch_options",
    "formats",
    "read_job_spec",
]

FORMATS = ("csv", "jsonl", "parquet")
MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
"""Of results; uploads may have these and the others that `_TYPES` knows."""

_TYPES: Mapping[str, str | None] = {
    "text/csv": "csv",
    "text/tab-separated-values": "csv",
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/vnd.apache.parquet": "parquet",
    "application/octet-stream": None,
}
UPLOAD_TYPES = tuple(_TYPES)
"""What an upload may be declared as; the last leaves it to `format` or the name."""

_SUFFIXES = {
    "csv": "csv",
    "tsv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "pq": "parquet",
}

MAX_NAME_CHARS = 120
MAX_TEXT_CHARS = 10_000
_NOT_PRINTED = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)

_TEXT = {"type": "string", "pattern": r"\S", "maxLength": MAX_TEXT_CHARS}
_BOOLEAN = {"type": "string", "enum": ["true", "false"]}
PARAMETERS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "name": ({"type": "string"}, "The file's name: it is shown, and the result is named after it."),
    "format": (
        {"type": "string", "enum": list(FORMATS)},
        "What the file is; left out, the type of the content tells it, or else the name's end.",
    ),
    "output_format": ({"type": "string", "enum": list(FORMATS)}, "What the result is; left out, the same."),
    "form": (
        {"type": "string", "enum": ["auto", "pairs", "lists"]},
        "A row is a pair, or a query with its list.",
    ),
    "query_column": (_TEXT, "Column of the query."),
    "document_column": (_TEXT, "Column of a pair's document."),
    "documents_column": (_TEXT, "Column of a list's documents."),
    "instruction_column": (_TEXT, "Column of what relevance means in a row."),
    "instruction": (_TEXT, "What relevance means; left out, the service's."),
    "top_n": ({"type": "integer", "minimum": 1, "maximum": 10**9}, "Documents to keep of each query."),
    "min_score": ({"type": "number", "minimum": 0, "maximum": 1}, "Lowest relevance_score to keep."),
    "on_bad_row": (
        {"type": "string", "enum": ["stop", "set_aside"]},
        "A row that cannot be ranked ends the job, or is set aside with the reason.",
    ),
    "delimiter": (
        {"type": "string", "pattern": '^[^\\r\\n"]$'},
        "Between the cells of CSV; in `.tsv` a tab.",
    ),
    "explode": (_BOOLEAN, "Write a row for each document of a list."),
    "details": (_BOOLEAN, "Add `log_odds`, `truncated` and `query_truncated`."),
    "bom": (_BOOLEAN, "Begin CSV with a byte order mark, by which Excel knows UTF-8."),
}
"""Name → JSON schema and meaning."""

_OWN = ("name", "format", "output_format")


def formats() -> tuple[str, ...]:
    """The formats that can be read and written here."""
    return FORMATS if find_spec("pyarrow") is not None else FORMATS[:2]


def read_job_spec(query: QueryParams, headers: Headers, config: RerankConfig) -> JobSpec:
    """Read what is asked for.

    Raises:
        ProblemError: With status 415: the content is compressed, or of a type that is not taken.
        BodyError: With status 422: a parameter is unknown, comes twice, or is wrong.
    """
    kind = _content_type(headers)
    given = _given(query)
    name = shown_name(given.get("name", ""))
    suffix = name.rpartition(".")[2].lower() if "." in name else ""
    input_format = given.get("format") or _TYPES[kind] or _SUFFIXES.get(suffix)
    if input_format is None:
        _wrong(
            "the file's format is not known", f"format=, one of {', '.join(FORMATS)}, or a name that ends so"
        )
    output_format = given.get("output_format", input_format)
    for chosen in (input_format, output_format):
        if chosen not in formats():
            _wrong(f"format is not taken here: {chosen[:20]!r}", ", ".join(formats()))
    options: dict[str, Any] = {key: value for key, value in given.items() if key not in _OWN}
    if "delimiter" not in options and (suffix == "tsv" or kind == "text/tab-separated-values"):
        options["delimiter"] = "\t"
    spec = JobSpec(name or f"upload.{input_format}", input_format, output_format, options)
    batch_options(spec, config)
    return spec


def batch_options(spec: JobSpec, config: RerankConfig, **overrides: Any) -> BatchOptions:
    """The batch pipeline's settings of a job's spec: those of the configuration, but what was asked for.

    Raises:
        BodyError: One is wrong.
    """
    fixed = {
        "input_format": spec.input_format,
        "output_format": spec.output_format,
        "escape_formulas": True,
    }
    try:
        return BatchOptions.from_config(config, **{**spec.options, **fixed, **overrides})
    except ConfigurationError as error:
        raise BodyError(str(error).removeprefix("section 'batch': ")) from None


def shown_name(text: str) -> str:
    """The last part of a file's name, without what cannot be printed or kept by some file system."""
    last = re.split(r"[/\\]", text)[-1]
    return re.sub(r'[<>:"|?*]', "", _NOT_PRINTED.sub("", last)).strip(" .")[-MAX_NAME_CHARS:]


def _content_type(headers: Headers) -> str:
    """Refuse what a stranger's web page could send unasked: a form, or text without a type of its own."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        _unsupported("Content-Encoding is not supported; allowed: none, or identity")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        _unsupported(f"Content-Type is not taken; allowed: {', '.join(_TYPES)}")
    return kind


def _given(query: QueryParams) -> dict[str, str]:
    """The parameters, each once."""
    given: dict[str, str] = {}
    for name, value in query.multi_items():
        if name not in PARAMETERS:
            _wrong(f"unknown parameter {name[:40]!r}", ", ".join(PARAMETERS))
        if name in given:
            _wrong(f"parameter {name} comes twice", "each once")
        _check(name, value, PARAMETERS[name][0])
        given[name] = value
    return given


def _check(name: str, value: str, schema: Mapping[str, Any]) -> None:
    """What the description says of a value, and the batch pipeline's settings would read more leniently."""
    allowed: Sequence[str] | None = schema.get("enum")
    if allowed is not None and value not in allowed:
        _wrong(f"{name} is not valid: {value[:40]!r}", ", ".join(allowed))
    if schema["type"] == "integer" and not re.fullmatch(r"[0-9]{1,10}", value):
        _wrong(f"{name} is not valid: {value[:40]!r}", "an integer of at least 1")
    if len(value) > MAX_TEXT_CHARS:
        _wrong(f"{name} is too long: {len(value)} characters", f"at most {MAX_TEXT_CHARS}")


def _wrong(what: str, allowed: str) -> NoReturn:
    raise BodyError(f"{what}; allowed: {allowed}")


def _unsupported(message: str) -> NoReturn:
    raise ProblemError(Problem(415, message, reason="media_type"))
