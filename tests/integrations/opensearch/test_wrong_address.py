"""Addresses that are not an OpenSearch cluster: a web page, another JSON service, Elasticsearch, plain text."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opensearch_qwen_rerank.cli import app
from typer.testing import CliRunner

ELASTICSEARCH = {
    "version": {"number": "8.15.0", "build_flavor": "default"},
    "tagline": "You Know, for Search",
}
PAGE = "<!doctype html><title>Qwen rerank</title>"


class FixedResponse:
    """What the server answers to every request."""

    status = 200
    content_type = "application/json"
    body = ""


@pytest.fixture
def server() -> Iterator[tuple[str, FixedResponse]]:
    """A server on this machine with one answer for all requests; its address and the answer."""
    response = FixedResponse()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(response.status)
            self.send_header("Content-Type", response.content_type)
            self.end_headers()
            self.wfile.write(response.body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", response
        running.shutdown()
        thread.join()


@pytest.mark.loopback
@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, "text/html; charset=utf-8", PAGE),
        (404, "text/html", PAGE),
        (200, "text/plain", "ok"),
        (200, "application/json", "not JSON"),
        (200, "application/json", '{"name": "something else"}'),
        (200, "application/json", '["a list"]'),
        (404, "application/json", '{"detail": "Not Found"}'),
        (200, "application/json", json.dumps(ELASTICSEARCH)),
    ],
)
def test_an_address_that_is_not_opensearch_is_named_as_such(
    server: tuple[str, FixedResponse], status: int, content_type: str, body: str
) -> None:
    address, response = server
    response.status, response.content_type, response.body = status, content_type, body
    result = CliRunner().invoke(app, ["apply", "--cluster", address, "--fields", "body"])
    assert result.exit_code == 1
    assert "error: this is not an OpenSearch cluster" in result.stderr
    assert "Check the address in --cluster." in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.loopback
def test_an_opensearch_that_refuses_keeps_its_own_error(server: tuple[str, FixedResponse]) -> None:
    address, response = server
    response.status, response.body = 401, '{"error": {"reason": "no credentials"}}'
    result = CliRunner().invoke(app, ["plan", "--cluster", address, "--fields", "body"])
    assert result.exit_code == 1
    assert "GET / was answered with status 401: no credentials" in result.stderr
    assert "not an OpenSearch cluster" not in result.stderr
