"""Converts the query parameters and headers of an upload to a `JobSpec`, and describes them.

Opens no file. The options are validated by the settings of the batch pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, NoReturn

from starlette.datastructures import Headers, QueryParams

from qwen_rerank_plugins.batch import BatchOptions
from qwen_rerank_plugins.batch.formats import SUFFIXES
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.service.errors import BodyError, Problem, ProblemError
from qwen_rerank_plugins.service.jobs.records import FORMATS, JobSpec

__all__ = [
    "MEDIA_TYPES",
    "PARAMETERS",
    "UPLOAD_TYPES",
    "Parameters",
    "batch_options",
    "check_uncompressed",
    "client_message",
    "formats",
    "options_of",
    "read_job_spec",
    "read_parameters",
    "shown_name",
]

MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
"""Media types of results. Uploads may also have the others in `_TYPES`."""

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
"""Media types of uploads. With the last one, `format` or the name determines the format."""

MAX_NAME_CHARS = 120
MAX_TEXT_CHARS = 10_000
_OPTION = re.compile(r"--([a-z][a-z-]+)")
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)

_TEXT = {"type": "string", "pattern": r"\S", "maxLength": MAX_TEXT_CHARS}
_BOOLEAN = {"type": "string", "enum": ["true", "false"]}
Parameters = Mapping[str, tuple[Mapping[str, Any], str]]
"""Name → JSON schema and description."""

PARAMETERS: Parameters = {
    "name": ({"type": "string"}, "Name of the file, used in the name of the result."),
    "format": (
        {"type": "string", "enum": list(FORMATS)},
        "Format of the file; by default that of `Content-Type`, or of the suffix of `name`.",
    ),
    "output_format": (
        {"type": "string", "enum": list(FORMATS)},
        "Format of the result; by default that of the file.",
    ),
    "form": (
        {"type": "string", "enum": ["auto", "pairs", "lists"]},
        "Whether a row is a pair, or a query with a list of documents.",
    ),
    "query_column": (_TEXT, "Column of queries."),
    "document_column": (_TEXT, "Column of documents, in rows that are pairs."),
    "documents_column": (_TEXT, "Column of lists of documents."),
    "instruction_column": (_TEXT, "Column of instructions."),
    "instruction": (_TEXT, "Definition of relevance; by default that of the service."),
    "top_n": ({"type": "integer", "minimum": 1, "maximum": 10**9}, "Number of documents to keep per query."),
    "min_score": ({"type": "number", "minimum": 0, "maximum": 1}, "Minimum relevance_score to keep."),
    "on_bad_row": (
        {"type": "string", "enum": ["stop", "reject"]},
        "Whether an invalid row fails the job, or is rejected with the reason.",
    ),
    "encoding": (
        {"type": "string", "pattern": r"\S", "maxLength": 40},
        "Encoding of the file, such as `gb18030`; by default it is detected.",
    ),
    "delimiter": (
        {"type": "string", "pattern": '^[^\\r\\n"]$'},
        "Delimiter of CSV; by default it is detected, and a tab is tried first in `.tsv`.",
    ),
    "replace_columns": (_BOOLEAN, "Drop columns that the result adds, such as those of an earlier job."),
    "explode": (_BOOLEAN, "Write one row per document of a list."),
    "details": (_BOOLEAN, "Add `log_odds`, `truncated`, `query_truncated`, `blank` and `warnings`."),
    "spans": (
        {"type": "integer", "minimum": 1, "maximum": 10**9},
        "Add the column `spans`: up to this many relevant spans of each document.",
    ),
    "span_unit": ({"type": "string", "enum": ["sentence", "passage"]}, "What a span is."),
    "span_threshold": ({"type": "number", "minimum": 0, "maximum": 1}, "Lowest relevance_score of a span."),
    "bom": (_BOOLEAN, "Start CSV with a byte order mark, from which Excel detects UTF-8."),
}

_NOT_OPTIONS = ("name", "format", "output_format")


def formats() -> tuple[str, ...]:
    """Return the formats that can be read and written with the installed packages."""
    return FORMATS if find_spec("pyarrow") is not None else FORMATS[:2]


def read_job_spec(query: QueryParams, headers: Headers, config: RerankConfig) -> JobSpec:
    """Return the spec of an upload.

    Raises:
        ProblemError: With status 415: the content is compressed, or its type is not supported.
        BodyError: With status 422: a parameter is unknown, repeated or invalid.
    """
    kind = _content_type(headers)
    given = read_parameters(query, PARAMETERS)
    name = shown_name(given.get("name", ""))
    input_format = given.get("format") or _TYPES[kind] or SUFFIXES.get(PurePath(name.lower()).suffix)
    if input_format is None:
        names = ", ".join(FORMATS)
        raise BodyError(
            f"unknown format of the file; set format= to one of {names}, or name= with such a suffix"
        )
    output_format = given.get("output_format", input_format)
    for chosen in (input_format, output_format):
        if chosen not in formats():
            raise BodyError(
                f"format is not supported here: {chosen[:20]!r}; use one of {', '.join(formats())}"
            )
    options = {key: value for key, value in given.items() if key not in _NOT_OPTIONS}
    name = name or ("upload.tsv" if kind == "text/tab-separated-values" else f"upload.{input_format}")
    spec = JobSpec(name=name, input_format=input_format, output_format=output_format, options=options)
    batch_options(spec, config)
    return spec


def batch_options(spec: JobSpec, config: RerankConfig, **overrides: Any) -> BatchOptions:
    """Return the settings of the batch pipeline: those of the configuration, overridden by the spec.

    Raises:
        BodyError: An option is invalid.
    """
    fixed = {
        "input_format": spec.input_format,
        "output_format": spec.output_format,
        "escape_formulas": True,
    }
    return options_of(config, **{**spec.options, **fixed, **overrides})


def options_of(config: RerankConfig, **settings: Any) -> BatchOptions:
    """Return the settings of the batch pipeline: those of the configuration, overridden by others.

    Raises:
        BodyError: A setting is invalid.
    """
    try:
        return BatchOptions.from_config(config, **settings)
    except ConfigurationError as error:
        raise BodyError(str(error).removeprefix("section 'batch': ")) from None


def client_message(message: str, name: str, *paths: Path) -> str:
    """Return an error message with the name of the client's file for paths, and parameters for command-line options."""
    for path in paths:
        message = message.replace(str(path), name).replace(path.name, name)
    folder = paths[0].parent
    message = message.replace(f"{folder}/", "").replace(str(folder), "")
    return _OPTION.sub(lambda found: found[1].replace("-", "_"), message)


def shown_name(text: str) -> str:
    """Return the last part of a file name, without characters that are unprintable or invalid on some file system."""
    last = re.split(r"[/\\]", text)[-1]
    return re.sub(r'[<>:"|?*]', "", _UNPRINTABLE.sub("", last)).strip(" .")[-MAX_NAME_CHARS:]


def check_uncompressed(headers: Headers) -> None:
    """Reject a body with a content encoding.

    Raises:
        ProblemError: With status 415.
    """
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        _unsupported("Content-Encoding is not supported; send the file uncompressed")


def _content_type(headers: Headers) -> str:
    """Reject what a foreign web page can send without permission: forms, and text without a specific type."""
    check_uncompressed(headers)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        _unsupported(f"Content-Type is not supported; use one of {', '.join(_TYPES)}")
    return kind


def read_parameters(query: QueryParams, described: Parameters) -> dict[str, str]:
    """Return the parameters of a query, each of which may occur once.

    Raises:
        BodyError: A parameter is unknown, repeated or invalid.
    """
    given: dict[str, str] = {}
    for name, value in query.multi_items():
        if name not in described:
            raise BodyError(f"unknown parameter {name[:40]!r}; use {', '.join(described)}")
        if name in given:
            raise BodyError(f"parameter {name} is repeated; send it once")
        _check_value(name, value, described[name][0])
        given[name] = value
    return given


def _check_value(name: str, value: str, schema: Mapping[str, Any]) -> None:
    """Check a value against its description, where the settings of the batch pipeline are more lenient."""
    choices: Sequence[str] | None = schema.get("enum")
    if choices is not None and value not in choices:
        raise BodyError(f"{name} is not valid: {value[:40]!r}; use one of {', '.join(choices)}")
    if schema["type"] == "integer" and not re.fullmatch(r"[0-9]{1,10}", value):
        raise BodyError(f"{name} is not valid: {value[:40]!r}; use an integer of at least 1")
    if len(value) > MAX_TEXT_CHARS:
        raise BodyError(f"{name} is too long: {len(value)} characters; use at most {MAX_TEXT_CHARS}")


def _unsupported(message: str) -> NoReturn:
    raise ProblemError(Problem(415, message, reason="media_type"))
