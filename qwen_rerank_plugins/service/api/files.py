"""Reads a file into a table of texts, so that clients need no decoder and no parser of their own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwen_rerank_plugins.batch.encodings import NotTextError
from qwen_rerank_plugins.batch.formats import SUFFIXES
from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.tables import Table, TableLimits, read_table
from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.service.api.body import check_declared_size, read_body, run_until_disconnect
from qwen_rerank_plugins.service.app_state import app_state_of
from qwen_rerank_plugins.service.errors import BodyError, Problem, ProblemError
from qwen_rerank_plugins.service.jobs.manager import COMPRESSED, empty_upload
from qwen_rerank_plugins.service.jobs.openapi import Described, describe_parameters
from qwen_rerank_plugins.service.jobs.spec import (
    PARAMETERS,
    Parameters,
    check_uncompressed,
    client_message,
    formats,
    options_of,
    read_parameters,
    shown_name,
)
from qwen_rerank_plugins.service.middleware.request_context import context_of
from qwen_rerank_plugins.service.schemas.json_codec import dump_json
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["TABLE_SCHEMAS", "describe", "read_file"]

MAX_ROWS = 100_000
MAX_CELLS = 500_000
TIMEOUT_S = 10.0
ONE_COLUMN = "none"
_OPTIONS = ("encoding", "delimiter")

FILE_PARAMETERS: Parameters = {
    "name": (
        {"type": "string"},
        f"Name of the file. Its suffix determines the format: {', '.join(SUFFIXES)}; others have one text per line.",
    ),
    "encoding": PARAMETERS["encoding"],
    "delimiter": (
        {"type": "string", "pattern": f'^([^\\r\\n"]|{ONE_COLUMN})$'},
        f"Delimiter of cells, or `{ONE_COLUMN}` for one column; by default it is detected.",
    ),
    "rows": (
        {"type": "integer", "minimum": 1, "maximum": MAX_ROWS},
        f"Maximum number of rows to return, the header included; by default {MAX_ROWS}.",
    ),
}


def _schemas() -> dict[str, Any]:
    table = TypeAdapter(Table).json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    definitions = table.pop("$defs")
    return {"table": table, **definitions}


TABLE_SCHEMAS = _schemas()


def describe(settings: ServiceSettings) -> Described:
    """Return the additions to the description of `read_file`."""
    body = {
        "required": True,
        "description": f"The file, uncompressed, with at most {settings.max_body_bytes} bytes. Any `Content-Type`.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
    return Described(
        (400, 408, 413, 415, 422, 429, 503, 504),
        {"parameters": describe_parameters(FILE_PARAMETERS), "requestBody": body},
        {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/table"}}}},
    )


async def read_file(request: Request) -> Response:
    """Return the table in the file that is the body."""
    state, context = app_state_of(request), context_of(request.scope)
    settings = state.settings
    check_uncompressed(request.headers)
    check_declared_size(request, settings.max_body_bytes)
    given = read_parameters(request.query_params, FILE_PARAMETERS)
    one_column = given.get("delimiter") == ONE_COLUMN
    chosen: dict[str, str | None] = {name: given[name] for name in _OPTIONS if name in given}
    options = options_of(state.config, **(chosen | {"delimiter": None} if one_column else chosen))
    limits = TableLimits(_max_rows(given), MAX_CELLS, settings.max_body_bytes, TIMEOUT_S)

    async def read(body: bytearray) -> bytes:
        name = shown_name(given.get("name", "")) or "the file"
        work = partial(_read, body, name, options, limits, one_column=one_column)
        return await asyncio.get_running_loop().run_in_executor(state.file_reader, work)

    with state.admission.reserve_bytes() as reserve:
        with context.stage("read"):
            body = await read_body(request, settings, reserve)
        context.num_bytes = len(body)
        if not body:
            raise empty_upload()
        aborted, timeout_s = state.lifecycle.aborted, settings.request_timeout_s
        with context.stage("parse"):
            answer = await run_until_disconnect(read(body), request, timeout_s=timeout_s, aborted=aborted)
    with ExitStack() as held:
        held.enter_context(state.admission.reserve_bytes())(len(answer))
        return _ReservedResponse(answer, held.pop_all())


class _ReservedResponse(Response):
    """Counts its bytes as pending until it is sent."""

    media_type = "application/json"

    def __init__(self, content: bytes, held: ExitStack) -> None:
        super().__init__(content)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


def _max_rows(given: Mapping[str, str]) -> int:
    number = int(given.get("rows", MAX_ROWS))
    if not 1 <= number <= MAX_ROWS:
        raise BodyError(f"rows is out of range: {number}; use an integer from 1 to {MAX_ROWS}")
    return number


def _read(
    body: bytearray, name: str, options: BatchOptions, limits: TableLimits, *, one_column: bool
) -> bytes:
    suffix = PurePath(name.lower()).suffix
    suffix = ".parquet" if body.startswith(b"PAR1") else suffix if suffix in SUFFIXES else ".txt"
    if SUFFIXES.get(suffix, "csv") not in formats():
        raise BodyError(
            f"format is not supported here: {SUFFIXES[suffix]!r}; use one of {', '.join(formats())}"
        )
    if body.startswith(COMPRESSED):
        raise _unsupported(f"{name} is compressed, or a workbook; send text or Parquet, uncompressed")
    with tempfile.TemporaryDirectory(prefix="qwen-rerank-") as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(body)
        try:
            table = read_table(path, options, limits, one_column=one_column)
        except NotTextError as error:
            raise _unsupported(client_message(str(error), name, path)) from None
        except InputError as error:
            raise BodyError(client_message(str(error), name, path)) from None
    return dump_json({**asdict(replace(table, rows=())), "rows": table.rows})


def _unsupported(message: str) -> ProblemError:
    return ProblemError(Problem(415, message, reason="media_type"))
