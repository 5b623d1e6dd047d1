"""HTTP handlers of upload jobs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from qwen_rerank_plugins.service.api.body import check_declared_size, stream_body
from qwen_rerank_plugins.service.app_state import AppState, app_state_of
from qwen_rerank_plugins.service.errors import Problem, ProblemError
from qwen_rerank_plugins.service.jobs.manager import JobManager
from qwen_rerank_plugins.service.jobs.records import Job
from qwen_rerank_plugins.service.jobs.spec import MEDIA_TYPES, read_job_spec
from qwen_rerank_plugins.service.middleware.request_context import context_of
from qwen_rerank_plugins.service.schemas.json_codec import dump_json

__all__ = ["create", "listing", "rejected", "remove", "result", "show"]

READ_BYTES = 256 * 1024
PRIVATE = {"Cache-Control": "private, no-store"}


async def create(request: Request) -> Response:
    """Receive an upload and queue it."""
    jobs, settings = _jobs(request), app_state_of(request).settings
    declared = check_declared_size(request, settings.jobs_max_upload_bytes)
    spec = read_job_spec(request.query_params, request.headers, app_state_of(request).config)
    pieces = stream_body(
        request, max_bytes=settings.jobs_max_upload_bytes, timeout_s=settings.receive_timeout_s
    )
    with context_of(request.scope).stage("read"):
        job = await jobs.add(_owner(request), spec, pieces, declared)
    context_of(request.scope).num_bytes = job.num_bytes
    return _json(jobs.views(job)[0], 202, {"Location": f"jobs/{job.id}"})


async def listing(request: Request) -> Response:
    """List the jobs of the caller's key, newest first."""
    return _json({"object": "list", "data": _jobs(request).list_for(_owner(request))})


async def show(request: Request) -> Response:
    """Return a job."""
    return _json(_jobs(request).views(_job(request))[0])


async def remove(request: Request) -> Response:
    """Cancel a job and delete its files."""
    await _jobs(request).remove(_job(request))
    return Response(status_code=204)


async def result(request: Request) -> Response:
    """Return the result of a job as a file."""
    job = _job(request)
    path = _jobs(request).result(job)
    stem = job.name.rpartition(".")[0] or job.name
    name = f"{stem}.ranked.{job.output_format}"
    return await _file(request, path, name, MEDIA_TYPES[job.output_format])


async def rejected(request: Request) -> Response:
    """Return the rejected rows of a job as a file."""
    job = _job(request)
    path = _jobs(request).rejected(job)
    stem = job.name.rpartition(".")[0] or job.name
    return await _file(request, path, f"{stem}.rejected.jsonl", MEDIA_TYPES["jsonl"])


def _jobs(request: Request) -> JobManager:
    jobs = app_state_of(request).jobs
    assert jobs is not None  # the routes exist only with a jobs folder
    return jobs


def _owner(request: Request) -> str:
    return app_state_of(request).keys.owner(request.headers)


def _job(request: Request) -> Job:
    return _jobs(request).get(_owner(request), request.path_params["id"])


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dump_json(value), status, {**PRIVATE, **(headers or {})}, "application/json")


async def _file(request: Request, path: Path, name: str, media_type: str) -> Response:
    """Stream a file. It is opened first, so that it remains readable if the job is removed."""
    state = app_state_of(request)
    try:
        file = await state.in_thread(path.open, "rb")
    except FileNotFoundError:
        raise ProblemError(Problem(404, "not found: no such job", reason="job")) from None
    headers = {
        **PRIVATE,
        "Content-Type": media_type,
        "Content-Length": str(os.fstat(file.fileno()).st_size),
        # An ASCII name for old clients, and the file's own name percent-encoded.
        "Content-Disposition": f"attachment; filename=\"{path.name}\"; filename*=UTF-8''{quote(name, safe='')}",
    }
    return _FileResponse(file, state, headers, is_head=request.method == "HEAD")


class _FileResponse(StreamingResponse):
    """Streams an open file, and closes it also when the client disconnects."""

    def __init__(self, file: BinaryIO, state: AppState, headers: Mapping[str, str], *, is_head: bool) -> None:
        super().__init__(self._pieces(), headers=headers)
        self._file, self._state, self._is_head = file, state, is_head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while not self._is_head and (piece := await self._state.in_thread(self._file.read, READ_BYTES)):
            yield piece
