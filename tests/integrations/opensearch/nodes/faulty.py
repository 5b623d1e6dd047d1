"""A reranking service that misbehaves on request, and remembers what it was sent; it speaks Cohere's form.

A good answer scores a document by the first number in it: "0.7 whales" has 0.7, any other text 0.5. A test says word for
word which literals stand in an answer, which no JSON library would let it.
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
    """A request as it arrived.

    Attributes:
        headers: Its headers, names in lower case.
        raw: Its body.
        body: The body's JSON value.
        connection: The number of the connection it came on, from 1.
    """

    headers: dict[str, str]
    raw: bytes
    body: Any
    connection: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        status: Its status.
        body: Its body, sent as it is.
        headers: Headers beside the usual.
    """

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


Behaviour = Callable[["FaultyService", Any], Reply | None]
"""From the service and a request's JSON value to the answer; None closes the connection without one."""


@dataclass
class FaultyService:
    """What a test sees of the double.

    Attributes:
        url: Where it answers, without a slash at the end.
        seen: Requests in the order in which they came.
        next: What to do for each of the next requests.
        always: What to do after those.
        released: Set when those that hang shall go on.
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
    """The first number in a document's text; 0.5 if there is none."""
    found = re.search(r"\d+(\.\d+)?", document if isinstance(document, str) else json.dumps(document))
    return float(found[0]) if found else 0.5


def answer_of(literals: Sequence[str], *, order: Sequence[int] | None = None) -> Reply:
    """An answer with scores written exactly so, one a document; results in the order of `order`."""
    places = range(len(literals)) if order is None else order
    results = ",".join(f'{{"index": {place}, "relevance_score": {literals[place]}}}' for place in places)
    return Reply(200, f'{{"results": [{results}], "scores": [{",".join(literals)}]}}'.encode())


def good(service: FaultyService, body: Any) -> Reply:
    """Sorted results, and scores in the order sent."""
    scores = [score_of(document) for document in body["documents"]]
    best_first = sorted(range(len(scores)), key=lambda place: -scores[place])
    return answer_of([f"{score:.6f}" for score in scores], order=best_first)


def literal(text: str) -> Behaviour:
    """Give every document a score that is written so."""
    return lambda service, body: answer_of([text] * len(body["documents"]))


def failing(status: int, message: str = "staged", **headers: str) -> Behaviour:
    """Answer with an error; a header's underscores become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda service, body: Reply(status, json.dumps({"message": message}).encode(), named)


def throttled(service: FaultyService, body: Any) -> Reply:
    """Status 429 with the header by which versions before 3.8 know that they may try again."""
    behave = failing(429, "too much", x_amzn_ErrorType="ThrottlingException", Retry_After="1")
    reply = behave(service, body)
    assert reply is not None
    return reply


def hanging(service: FaultyService, body: Any) -> None:
    """Give no answer until the test is over, then close the connection."""
    service.released.wait(HANG_S)


def cut_short(service: FaultyService, body: Any) -> Reply:
    """One result fewer than there are documents."""
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

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service = FaultyService(f"http://127.0.0.1:{self.server_port}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of what is staged."""


@contextmanager
def running_faulty_service() -> Iterator[FaultyService]:
    """Run the double until the block ends."""
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
