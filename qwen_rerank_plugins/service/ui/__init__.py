"""The workbench's files, served by Starlette with the headers of a page."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from starlette.responses import Response
from starlette.staticfiles import PathLike, StaticFiles
from starlette.types import Scope

__all__ = ["MEDIA_TYPES", "PAGE_HEADERS", "PageFiles"]

PAGE_HEADERS = {
    # "no-cache": a browser may keep the file, but asks each time whether it has changed.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""Headers of every page and every file of one."""

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Suffixes that are served. Python's own table of types depends on the machine's `mime.types`."""


class PageFiles(StaticFiles):
    """Starlette's `StaticFiles`, restricted to the file types of `MEDIA_TYPES`; hidden files are not served.

    Args:
        directory: The folder; by default that of the workbench.
    """

    def __init__(self, directory: PathLike = Path(__file__).parent) -> None:
        # Some installers link a package's files to a cache; `..` is rejected either way.
        super().__init__(directory=directory, follow_symlink=True)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Return a file's full path and status, or an empty path and None if it is not served."""
        parts = PurePath(path)
        if parts.suffix not in MEDIA_TYPES or any(part.startswith((".", "_")) for part in parts.parts):
            return "", None
        return super().lookup_path(path)

    def file_response(
        self, full_path: PathLike, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return the file, or status 304 if the client has it, both with `PAGE_HEADERS`."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(PAGE_HEADERS)
        if response.status_code == status_code:
            response.headers["Content-Type"] = MEDIA_TYPES[PurePath(full_path).suffix]
        return response
