"""A small hub on loopback with the routes that the packages of Hugging Face and of ModelScope use."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BLOCK = 1 << 16
pause = time.sleep  # tests replace `time.sleep`, so that nobody waits before another try


@dataclass
class HubState:
    """What the server serves, and how it fails.

    Attributes:
        model: The only repository.
        files: Its files.
        statuses: A part of an address → the status that it is answered with.
        headers: Further headers of those answers.
        dropped: File → after how many bytes the connection is lost, once per number.
        redirects: Whether files come from another address of the server.
        pause_s: Pause after each 64 kB.
        token: The only token that is let in; None for a public repository.
        asked: Method, file or address, and range of each request.
        revisions: The revisions that ModelScope's package asked for.
        commits: Revisions that the repository has.
    """

    model: str
    files: Mapping[str, bytes]
    statuses: dict[str, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    redirects: bool = False
    pause_s: float = 0.0
    token: str | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    revisions: set[str] = field(default_factory=set)
    commits: tuple[str, ...] = ("main", "master", "v1", COMMIT)
    url: str = ""

    def ranges(self, name: str) -> list[str | None]:
        """The ranges of the requests for a file's content."""
        return [asked for method, file, asked in self.asked if (method, file) == ("GET", name)]

    def downloads(self) -> Counter[str]:
        """How often each file was asked for."""
        return Counter(name for method, name, _ in self.asked if method == "GET" and name in self.files)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: HubState

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path, query, state = unquote(parts.path), parse_qs(parts.query), self.state
        file = query.get("FilePath", [path.rpartition(f"/resolve/{COMMIT}/")[2].removeprefix("/cdn/")])[0]
        state.asked.append((self.command, file, self.headers.get("Range")))
        state.revisions |= set(query.get("Revision", []))
        failing = next((status for part, status in state.statuses.items() if part in self.path), None)
        if failing is not None:
            self._send(failing, b"failing", state.headers)
        elif state.token and state.token not in (self.headers.get("Authorization") or ""):
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif path == f"/api/models/{state.model}/tree/{COMMIT}":
            self._send_json([self._entry(name) for name in state.files])
        elif path in [f"/api/models/{state.model}/revision/{name}" for name in state.commits]:
            siblings = [{"rfilename": name} for name in state.files]
            self._send_json({"id": state.model, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"/api/models/{state.model}/revision/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path == f"/api/v1/models/{state.model}/repo/files" and query["Revision"][0] in state.commits:
            listed = [self._modelscope_entry(name) for name in state.files]
            self._send_json({"Code": 200, "Success": True, "Data": {"Files": listed}})
        elif file in state.files and state.redirects and not path.startswith("/cdn/"):
            self._send(302, b"", self._file_headers(file) | {"Location": f"{state.url}/cdn/{file}"})
        elif file in state.files:
            self._send_file(file)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _entry(self, name: str) -> dict[str, Any]:
        content = self.state.files[name]
        entry: dict[str, Any] = {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": _sha(content)[:40],
        }
        if name.endswith((".safetensors", ".bin", ".gguf")):
            entry["lfs"] = {"oid": _sha(content), "size": len(content), "pointerSize": 130}
        return entry

    def _modelscope_entry(self, name: str) -> dict[str, Any]:
        content = self.state.files[name]
        return {"Path": name, "Type": "blob", "Size": len(content), "Sha256": _sha(content)}

    def _file_headers(self, name: str) -> dict[str, str]:
        content = self.state.files[name]
        return {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{_sha(content)}"',
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{_sha(content)}"',
            "Accept-Ranges": "bytes",
        }

    def _send_file(self, name: str) -> None:
        content, start = self.state.files[name], 0
        headers, status = self._file_headers(name), 200
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        limits = self.state.dropped.get(name, []) if self.command == "GET" else []
        self._send(status, content, headers, limit=max(0, limits.pop(0) - start) if limits else None)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str], *, limit: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(body[:limit]), BLOCK):
            self.wfile.write(body[:limit][start : start + BLOCK])
            pause(self.state.pause_s)
        self.close_connection = limit is not None


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serve_hub(state: HubState) -> Iterator[HubState]:
    """Serve until the block ends."""
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
