"""The workbench's files and the documentation page, as answers.

Files are read once and found by name in a table, so that no path of a request ever reaches the file system.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["PAGE_POLICY", "StaticFiles"]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""What is served; a file of another kind is not. The system's own table of types differs between machines."""


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        """The file, or 304 if the client has it."""
        # "no-cache" means: keep it, but ask each time whether it is still the one.
        headers = {"ETag": self.etag, "Cache-Control": "no-cache", "Content-Security-Policy": PAGE_POLICY}
        known = {
            tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
        }
        if self.etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers={**headers, "Content-Type": self.media_type})


def make_file(content: bytes, suffix: str) -> _File:
    """A file that is served as its suffix says."""
    return _File(content, MEDIA_TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


class StaticFiles:
    """A folder's files, read when this is made, hidden ones and unknown kinds left out.

    Args:
        folder: The folder; None for the workbench in the package.
    """

    def __init__(self, folder: Traversable | None = None) -> None:
        root = folder or resources.files("qwen_rerank_plugins.service") / "ui"
        self._files = dict(_walk(root, "")) if root.is_dir() else {}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def endpoint(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """Give the handler of one file."""

        async def one_file(request: Request) -> Response:
            return self._answer(name, request)

        return one_file

    async def any_file(self, request: Request) -> Response:
        """Answer with the file that the address names."""
        return self._answer(request.path_params["name"], request)

    def _answer(self, name: str, request: Request) -> Response:
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404)
        return file.answer(request)


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, _File]]:
    for entry in folder.iterdir():
        suffix = f".{entry.name.rpartition('.')[2].lower()}"
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif suffix in MEDIA_TYPES:
            yield f"{prefix}{entry.name}", make_file(entry.read_bytes(), suffix)
