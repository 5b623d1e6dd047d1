"""A rerank service that fails as a test configures, and records its requests; it has Cohere's API.

A normal response scores a document by the first number in it: "0.7 whales" has 0.7, a text without a number 0.5. A test can set
the exact literals of a response, which no JSON library supports.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG_S = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A received request.

    Attributes:
        headers: The headers, with lowercase names.
        raw: The body.
        body: The JSON value of the body.
        connection: Number of the connection, from 1.
    """

    headers: dict[str, str]
    raw: bytes
    body: Any
    connection: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A response.

    Attributes:
        status: The status code.
        body: The body, sent as it is.
        headers: Additional headers.
    """

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


Behaviour = Callable[["FaultyService", Any], Reply | None]
"""Returns the response to a request's JSON value; None closes the connection without a response."""


@dataclass
class FaultyService:
    """The running service.

    Attributes:
        url: The address, without a trailing slash.
        seen: Received requests in their order.
        next: Behaviours for the next requests.
        always: Behaviour for all requests after those.
        released: Set to end hanging requests.
    """

    url: str
    seen: list[Seen] = field(default_factory=list)
    next: deque[Behaviour] = field(default_factory=deque)
    always: Behaviour = field(default_factory=lambda: good)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    connections: int = 0

    @property
    def rerank_url(self) -> str:
        """The address that a connector calls."""
        return f"{self.url}/v1/rerank"


def score_of(document: Any) -> float:
    """Return the first number in a document's text; 0.5 if there is none."""
    found = re.search(r"\d+(\.\d+)?", document if isinstance(document, str) else json.dumps(document))
    return float(found[0]) if found else 0.5


def answer_of(literals: Sequence[str], *, order: Sequence[int] | None = None) -> Reply:
    """Return a response with exactly these score literals, one per document, and results in the order of `order`."""
    places = range(len(literals)) if order is None else order
    results = ",".join(f'{{"index": {place}, "relevance_score": {literals[place]}}}' for place in places)
    return Reply(200, f'{{"results": [{results}], "scores": [{",".join(literals)}]}}'.encode())


def good(service: FaultyService, body: Any) -> Reply:
    """Return sorted results, and scores in the order of the request."""
    scores = [score_of(document) for document in body["documents"]]
    best_first = sorted(range(len(scores)), key=lambda place: -scores[place])
    return answer_of([f"{score:.6f}" for score in scores], order=best_first)


def literal(text: str) -> Behaviour:
    """Return a behaviour that gives every document this score literal."""
    return lambda service, body: answer_of([text] * len(body["documents"]))


def failing(status: int, message: str = "staged", **headers: str) -> Behaviour:
    """Return a behaviour that answers with an error; underscores in header names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda service, body: Reply(status, json.dumps({"message": message}).encode(), named)


def throttled(service: FaultyService, body: Any) -> Reply:
    """Answer with status 429 and the header that makes versions before 3.8 retry."""
    behave = failing(429, "too much", x_amzn_ErrorType="ThrottlingException", Retry_After="1")
    reply = behave(service, body)
    assert reply is not None
    return reply


def hanging(service: FaultyService, body: Any) -> None:
    """Send no response until the test ends, then close the connection."""
    service.released.wait(HANG_S)


def cut_short(service: FaultyService, body: Any) -> Reply:
    """Return one result fewer than there are documents."""
    return answer_of(["0.5"] * (len(body["documents"]) - 1))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        service = self.server.service
        with service.lock:
            service.connections += 1
            self.number = service.connections

    def do_POST(self) -> None:
        service = self.server.service
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        headers = {name.lower(): value for name, value in self.headers.items()}
        with service.lock:
            service.seen.append(Seen(headers, raw, body, self.number))
            behave = service.next.popleft() if service.next else service.always
        if reply := behave(service, body):
            self._send(reply)
        else:
            self.close_connection = True

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        sized = {"Content-Type": "application/json", "Content-Length": str(len(reply.body))}
        for name, value in {**sized, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class has this name)
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service = FaultyService(f"http://127.0.0.1:{self.server_port}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect, which is part of the tests."""


@contextmanager
def running_faulty_service() -> Iterator[FaultyService]:
    """Run the service until the block ends."""
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.service
    finally:
        server.service.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
