"""A reranking service on loopback that speaks every dialect as its vendor documents it, and fails on demand.

A document's score is the first number in it: "0.7 whales" has probability 0.7. Invalid requests are
answered as the real service would, so that a client that leaves out a required field fails here too.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

PATHS = {
    "qwen": {"/rerank", "/v1/rerank", "/v2/rerank", "/api/rerank"},
    "cohere": {"/v1/rerank", "/v2/rerank"},
    "jina": {"/v1/rerank"},
    "vllm": {"/rerank", "/v1/rerank", "/v2/rerank"},
    "tei": {"/rerank"},
    "voyage": {"/v1/rerank"},
    "dashscope": {"/api/v1/services/rerank/text-rerank/text-rerank", "/compatible-api/v1/reranks"},
    "llamacpp": {"/rerank", "/reranking", "/v1/rerank", "/v1/reranking"},
    "sglang": {"/v1/rerank"},
}
REQUIRED = {
    "qwen": {"query", "documents"},
    "cohere": {"model", "query", "documents"},
    "jina": {"model", "query", "documents"},
    "vllm": {"query", "documents"},
    "tei": {"query", "texts"},
    "voyage": {"model", "query", "documents"},
    "dashscope": {"model", "query", "documents"},
    "llamacpp": {"query", "documents"},
    "sglang": {"query", "documents"},
}
ALLOWED = {
    "qwen": {
        *("model", "instruction", "return_documents", "return_pairs"),
        *("max_tokens_per_doc", "max_tokens_per_query", "truncate_prompt_tokens", "max_chunks_per_doc"),
    },
    "cohere": {"top_n", "max_tokens_per_doc", "priority"},
    "jina": {"top_n", "return_documents"},
    "vllm": {"model", "top_n", "instruction", "truncate_prompt_tokens", "use_activation"},
    "tei": {"truncate", "truncation_direction", "raw_scores", "return_text"},
    "voyage": {"top_k", "return_documents", "truncation"},
    "dashscope": {"top_n", "return_documents", "instruct"},
    "llamacpp": {"model", "top_n"},
    "sglang": {"model", "top_n", "return_documents", "instruct"},
}
MAX_BATCH = {"tei": 32, "dashscope": 500}

Fault = Callable[["Handler"], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: Any
    connection: int


@dataclass
class Service:
    """The state of the fake service.

    Attributes:
        url: Its root.
        dialect: What it speaks.
        seen: Received requests in their order.
        faults: Behaviours for the next requests.
        always: Behaviour for all requests after those.
        delay_s: Seconds before a good answer.
        most_at_once: The largest number of requests that were open at the same time.
        released: Set to end hanging handlers.
    """

    url: str
    dialect: str
    seen: list[Seen] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    delay_s: float = 0.0
    most_at_once: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    open: int = 0
    connections: int = 0
    arrived: threading.Event = field(default_factory=threading.Event)


class Server(ThreadingHTTPServer):
    """Handlers run in daemon threads, so that a hanging one does not block the end."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, dialect: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.service = Service(f"http://127.0.0.1:{self.server_port}", dialect)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect, which is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        with self.server.service.lock:
            self.server.service.connections += 1
            self.connection_number = self.server.service.connections

    def do_POST(self) -> None:
        service = self.server.service
        self.payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with service.lock:
            service.seen.append(Seen(self.path, dict(self.headers), self.payload, self.connection_number))
            service.open += 1
            service.most_at_once = max(service.most_at_once, service.open)
            fault = service.faults.popleft() if service.faults else service.always
        service.arrived.set()
        try:
            if fault is not None:
                fault(self)
            else:
                service.released.wait(service.delay_s)
                self.reply(*answer(service.dialect, self.path, self.payload))
        finally:
            with service.lock:
                service.open -= 1

    def reply(self, status: int, content: Any, **headers: str) -> None:
        """Send a status and a JSON value, or bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def raw(self, data: bytes) -> None:
        """Send bytes that are not HTTP, and close the connection."""
        self.close_connection = True
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Stay silent."""


@contextmanager
def serving(dialect: str, *, tls: ssl.SSLContext | None = None) -> Iterator[Service]:
    """Run the service until the block ends."""
    server = Server(dialect)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.service.url = server.service.url.replace("http:", "https:")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.service
    finally:
        server.service.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def mocked(handle: Callable[[httpx.Request], tuple[int, Any]]) -> httpx.MockTransport:
    """A transport that answers with a status and a JSON value, as a stream, as the network does."""

    def respond(request: httpx.Request) -> httpx.Response:
        status, value = handle(request)
        return httpx.Response(status, stream=httpx.ByteStream(json.dumps(value).encode()))

    return httpx.MockTransport(respond)


def score_of(text: str) -> float:
    """The first number in a text; 0.5 if there is none."""
    found = re.search(r"\d+(\.\d+)?", text)
    return float(found[0]) if found else 0.5


def logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def answer(dialect: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """What a service of the dialect answers."""
    if path not in PATHS[dialect]:
        return 404, {"detail": "Not Found"}
    if "text-rerank" in path:  # DashScope's own form, checked as the flat one
        if set(body) != {"model", "input", "parameters"}:
            return 400, {"code": "InvalidParameter", "message": f"got {sorted(body)}"}
        body = {"model": body["model"], **body["input"], **body["parameters"]}
        status_code, value = answer(dialect, "/compatible-api/v1/reranks", body)
        return status_code, {"output": {"results": value.get("results")}, "usage": {}, "request_id": "1"}
    missing = REQUIRED[dialect] - set(body)
    unknown = set(body) - REQUIRED[dialect] - ALLOWED[dialect]
    if missing or unknown:
        return 422, {"detail": f"missing {sorted(missing)}, unknown {sorted(unknown)}"}
    texts = body["texts" if dialect == "tei" else "documents"]
    if not all(text.strip() for text in texts) and dialect != "qwen":
        return 400, {"message": "Each document cannot be empty or whitespace only"}
    if len(texts) > MAX_BATCH.get(dialect, 1000):
        return 422, {"error": f"batch size {len(texts)} > {MAX_BATCH[dialect]}", "error_type": "Validation"}
    order = sorted(range(len(texts)), key=lambda index: -score_of(texts[index]))
    return ANSWERS[dialect](body, texts, order)


def _qwen(body: dict[str, Any], texts: list[str], order: list[int]) -> tuple[int, Any]:
    pairs = [
        {
            "index": index,
            "relevance_score": score_of(text),
            "log_odds": logit(score_of(text)),
            "truncated": "long" in text,
            "query_truncated": False,
            "span": [0, 3] if "long" in text else None,
            "num_tokens": len(text.split()),
        }
        for index, text in enumerate(texts)
    ]
    details = [{key: pairs[index][key] for key in pairs[index] if key != "num_tokens"} for index in order]
    value: dict[str, Any] = {"id": "1", "object": "rerank", "model": "served/model", "results": details}
    value["scores"] = [pair["relevance_score"] for pair in pairs]
    if body.get("return_pairs"):
        value["pairs"] = pairs
    return 200, value


def _cohere(body: dict[str, Any], texts: list[str], order: list[int]) -> tuple[int, Any]:
    results = [{"index": index, "relevance_score": score_of(texts[index])} for index in order]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return 200, {"id": "1", "results": results[: body.get("top_n") or 10], "meta": meta}


def _jina(body: dict[str, Any], texts: list[str], order: list[int]) -> tuple[int, Any]:
    results = [{"index": index, "relevance_score": score_of(texts[index])} for index in order]
    value = {"model": body["model"], "object": "list", "usage": {"total_tokens": 1}}
    return 200, {**value, "results": results[: body.get("top_n") or 10]}


def _vllm(body: dict[str, Any], texts: list[str], order: list[int]) -> tuple[int, Any]:
    results = [
        {
            "index": index,
            "document": {"text": texts[index], "multi_modal": None},
            "relevance_score": score_of(texts[index]),
        }
        for index in order
    ]
    return 200, {"id": "score-1", "model": body.get("model", "served/model"), "usage": {}, "results": results}


def _tei(body: dict[str, Any], texts: list[str], order: list[int]) -> tuple[int, Any]:
    turned = logit if body.get("raw_scores") else float
    return 200, [{"index": index, "score": turned(score_of(texts[index]))} for index in order]


def _voyage(body: dict[str, Any], texts: list[str], order: list[int]) -> tuple[int, Any]:
    data = [{"relevance_score": score_of(texts[index]), "index": index} for index in order]
    return 200, {"object": "list", "data": data, "model": body["model"], "usage": {"total_tokens": 1}}


def _sglang(body: dict[str, Any], texts: list[str], order: list[int]) -> tuple[int, Any]:
    return 200, [{"score": score_of(texts[index]), "index": index} for index in order]


ANSWERS = {
    "qwen": _qwen,
    "cohere": _cohere,
    "jina": _jina,
    "vllm": _vllm,
    "tei": _tei,
    "voyage": _voyage,
    "dashscope": _vllm,
    "llamacpp": _vllm,
    "sglang": _sglang,
}


# Faults.


def status(code: int, content: Any = None, **headers: str) -> Fault:
    """Answer with a status."""
    return lambda handler: handler.reply(code, {"message": "no"} if content is None else content, **headers)


def content(body: bytes, **headers: str) -> Fault:
    """Answer 200 with these bytes."""
    return lambda handler: handler.reply(200, body, **headers)


def raw(data: bytes) -> Fault:
    """Answer with these bytes instead of HTTP, then close."""
    return lambda handler: handler.raw(data)


def reset(handler: Handler) -> None:
    """End the connection by a TCP reset."""
    handler.close_connection = True
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def hang(handler: Handler) -> None:
    """Send nothing until the test ends."""
    handler.close_connection = True
    handler.server.service.released.wait(30)


def drip(start: bytes, piece: bytes, *, every_s: float = 0.02) -> Fault:
    """Send a piece repeatedly, so that the wait for the next bytes is always short."""

    def send(handler: Handler) -> None:
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.wfile.write(start)
            while not handler.server.service.released.wait(every_s):
                handler.wfile.write(piece)

    return send


def flood(handler: Handler) -> None:
    """Answer 200 with a body that does not end."""
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.server.service.released.is_set():
            handler.wfile.write(b"[" * 65_536)
