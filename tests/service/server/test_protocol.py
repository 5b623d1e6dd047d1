"""Connections of stalled clients are closed; slow clients that continue are served."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from typing import BinaryIO

import pytest

from qwen_rerank_plugins.service.jobs.records import Job
from qwen_rerank_plugins.service.jobs.store import Store
from qwen_rerank_plugins.service.server import protocol
from qwen_rerank_plugins.service.server.protocol import DeadlineProtocol
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.service.jobs.uploads import csv_file, pairs, serving
from tests.service.servers import RunningService, running_service, wait_for
from tests.service.test_serving import BODY, raw_request

pytestmark = pytest.mark.loopback

TIMEOUT_S = 0.6


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service(receive_timeout_s=TIMEOUT_S, keep_alive_s=2.0, max_connections=20) as running:
        yield running


def connect(service: RunningService) -> closing[socket.socket]:
    return closing(socket.create_connection(("127.0.0.1", service.port), timeout=20))


def read_all(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    return received


def read_answer(client: socket.socket) -> bytes:
    """Read one answer, which may arrive in several packets, by its Content-Length."""
    received = b""
    while True:
        head, found, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if found and length and len(body) >= int(length[1]):
            return received
        chunk = client.recv(65536)
        assert chunk, received
        received += chunk


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def problem_in(answer: bytes) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-content-type-options: nosniff" in head.lower()
    problem: dict[str, str] = json.loads(body)
    assert problem["message"] == problem["detail"] == problem["error"]
    assert f"x-request-id: {problem['id']}".encode() in head.lower()
    return problem


def test_a_client_that_never_says_a_word_is_cut_off(service: RunningService) -> None:
    with connect(service) as client:
        start = time.monotonic()
        assert read_all(client) == b""
        assert TIMEOUT_S / 2 < time.monotonic() - start < 5


def test_a_head_that_comes_in_drops_is_answered_408(service: RunningService) -> None:
    with connect(service) as client:
        client.sendall(b"POST /rerank HTTP/1.1\r\n")
        for _ in range(4):
            client.sendall(b"X: y\r\n")
            time.sleep(TIMEOUT_S / 8)
        answer = read_all(client)
    assert status_of(answer) == 408
    assert "head" in problem_in(answer)["message"]


def test_a_later_head_on_the_same_connection_has_its_deadline_too(service: RunningService) -> None:
    with connect(service) as client:
        client.sendall(raw_request(BODY))
        assert status_of(client.recv(65536)) == 200
        time.sleep(TIMEOUT_S * 1.5)  # idle is allowed
        client.sendall(raw_request(BODY))
        assert status_of(client.recv(65536)) == 200
        client.sendall(b"POST /rerank HT")
        assert status_of(read_all(client)) == 408


def test_a_body_that_does_not_come_is_answered_408(service: RunningService) -> None:
    with connect(service) as client:
        client.sendall(raw_request(BODY[:10], declared=len(BODY)))
        start = time.monotonic()
        answer = read_all(client)
        assert TIMEOUT_S / 2 < time.monotonic() - start < 5
    assert status_of(answer) == 408
    assert "body" in problem_in(answer)["message"]
    wait_for(lambda: service.service.admission.pending_bytes == 0)


def test_a_body_that_comes_slowly_but_in_time_is_taken(service: RunningService) -> None:
    with connect(service) as client:
        request = raw_request(BODY)
        for at in range(0, len(request), 40):
            client.sendall(request[at : at + 40])
            time.sleep(TIMEOUT_S / 40)
        assert status_of(client.recv(65536)) == 200


def closing_request(num_bytes: int) -> bytes:
    return raw_request(b"", declared=num_bytes).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def test_a_client_that_closes_after_its_request_gets_an_early_answer(service: RunningService) -> None:
    """RFC 9112, section 9.6: closing with unread data resets the connection, and the answer is lost."""
    size = 9 << 20
    with connect(service) as client:
        client.sendall(closing_request(size))
        for _ in range(9):
            client.sendall(bytes(1 << 20))
        assert status_of(read_all(client)) == 413


def test_the_rest_of_the_body_after_an_early_answer_has_a_deadline(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "APP_MARGIN_S", 0.0)
    with connect(service) as client:
        client.sendall(closing_request(9 << 20))
        assert status_of(read_all(client)) == 413
        client.sendall(b"x")
        wait_for(lambda: is_reset(client, b"x"))


def is_reset(client: socket.socket, data: bytes) -> bool:
    try:
        client.sendall(data)
    except ConnectionError:
        return True
    return False


def test_an_idle_connection_is_closed_after_its_time(service: RunningService) -> None:
    with connect(service) as client:
        client.sendall(raw_request(BODY))
        assert status_of(client.recv(65536)) == 200
        start = time.monotonic()
        assert client.recv(10) == b""
        assert 1.5 < time.monotonic() - start < 6


def test_a_head_without_end_is_answered_431(service: RunningService) -> None:
    with connect(service) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000)
        answer = read_all(client)
    assert status_of(answer) == 431
    problem = problem_in(answer)
    assert "too large" in problem["message"]
    assert (problem["code"], problem["error_type"]) == ("bad_request", "Validation")
    assert problem["type"] == "/docs#error-bad_request"


@pytest.mark.parametrize("head", ["X: " + "y" * 70_000, "\r\n".join(["X: y"] * 17_000)], ids=["one", "many"])
def test_a_complete_head_that_is_too_large_is_answered_431(service: RunningService, head: str) -> None:
    """It may arrive in one packet, with its end."""
    with connect(service) as client:
        client.sendall(f"GET /health HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        assert status_of(read_all(client)) == 431


CHUNKED = b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"


def chunks(body: bytes, size: int, extension: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)


@pytest.mark.parametrize(
    ("framing", "endless"),
    [
        (b"0\r\nX: ", b"y" * 1000),
        (b"0\r\n", b"X: y\r\n" * 200),
        (b"0\r\n", b"y" * 1000),
        (b"2;", b"y" * 1000),
        (b"", chunks(b"x" * 10, 1, b";y=" + b"z" * 300)),
    ],
    ids=["value", "trailers", "name", "extension", "extensions"],
)
def test_an_endless_framing_of_a_body_is_cut_off(
    service: RunningService, framing: bytes, endless: bytes
) -> None:
    """The app never receives the end of the body: neither extensions nor trailers reach it."""
    with connect(service) as client:
        client.sendall(CHUNKED + b"\r\n" + framing)
        sent = 0
        with suppress(ConnectionError):
            while sent < 8_000_000:
                client.sendall(endless)
                sent += len(endless)
        assert sent < 8_000_000
    wait_for(lambda: service.service.admission.pending_bytes == 0)


def test_a_body_in_the_smallest_chunks_with_a_trailer_is_ranked() -> None:
    body = json.dumps({"query": "word", "documents": ["word " * 40_000]}).encode()
    with running_service() as service, connect(service) as client:
        client.sendall(CHUNKED + b"\r\n" + chunks(body, 1) + b"0\r\nX-Checksum: 5\r\n\r\n")
        assert status_of(client.recv(65536)) == 200


def test_a_trailer_never_becomes_a_header(service: RunningService) -> None:
    with connect(service) as client:
        client.sendall(
            b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunks(BODY, 50)
            + b"0\r\nContent-Type: application/json\r\nHost: localhost\r\n\r\n"
        )
        assert status_of(client.recv(65536)) == 415


@pytest.mark.parametrize(
    "coding",
    [
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "gzip",
        "chunked;q=1",
        "chunked\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_transfer_coding_other_than_chunked_is_refused(service: RunningService, coding: str) -> None:
    head = CHUNKED.replace(b"chunked", coding.encode())
    with connect(service) as client:
        client.sendall(head + b"\r\n" + chunks(BODY, 50) + b"0\r\n\r\n")
        answer = read_all(client)
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.2", "h2c, websocket", "foo/9"])
def test_an_offer_of_another_protocol_is_ignored(service: RunningService, protocol: str) -> None:
    """Java's HttpClient and `curl --http2` offer h2c with every first request, its body included."""
    offer = f"HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABk\r\n"
    request = raw_request(BODY).replace(b"HTTP/1.1\r\n", offer.encode(), 1)
    with connect(service) as client:
        for at in (len(request), len(request) - len(BODY), len(request) - 5, 30):
            client.sendall(request[:at])
            time.sleep(0.02)
            client.sendall(request[at:])
            answer = read_answer(client)
            assert status_of(answer) == 200
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["results"]


def test_many_offers_in_one_packet_are_answered_in_their_order(service: RunningService) -> None:
    offer = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with connect(service) as client:
        client.sendall(offer * 1200 + b"GET /he")
        answer = read_all(client)
    assert answer.count(b"HTTP/1.1 200") == 1200


@pytest.mark.parametrize(
    "head",
    [b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
)
def test_a_tunnel_or_a_bare_http_2_connection_is_refused(service: RunningService, head: bytes) -> None:
    with connect(service) as client:
        client.sendall(head)
        answer = read_all(client)
    assert status_of(answer) == 400
    assert problem_in(answer)["code"] == "bad_request"


def test_what_is_no_http_is_answered_in_the_usual_shape(service: RunningService) -> None:
    with connect(service) as client:
        client.sendall(b"EHLO example\r\n\r\n")
        answer = read_all(client)
    assert status_of(answer) == 400
    assert problem_in(answer)["code"] == "bad_request"


def test_a_client_that_does_not_read_its_answer_is_cut_off(service: RunningService) -> None:
    """The unread answers of many requests on one connection fill every buffer."""
    documents = ["word " * 2000] * 400
    body = json.dumps({"query": "word", "documents": documents, "return_documents": True}).encode()
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", service.port))
        before = len(service.server.server_state.connections)
        client.sendall(raw_request(body))
        wait_for(lambda: len(service.server.server_state.connections) == before + (before == 0))
        wait_for(lambda: writing(service) > 0)
        wait_for(lambda: not service.server.server_state.connections, timeout_s=10)
        assert drained(client) < 400 * 10_000


def drained(client: socket.socket) -> int:
    """Return the number of bytes that are left of an aborted answer."""
    received = 0
    with suppress(ConnectionError):
        while chunk := client.recv(1 << 20):
            received += len(chunk)
    return received


def writing(service: RunningService) -> int:
    """Bytes that wait to be read."""
    connections = list(service.server.server_state.connections)
    return sum(connection.transport.get_write_buffer_size() for connection in connections)


def test_a_reader_that_goes_on_slowly_gets_everything(service: RunningService) -> None:
    documents = ["word " * 2000] * 800  # more than the system's buffers hold
    body = json.dumps({"query": "word", "documents": documents, "return_documents": True}).encode()
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(20)
        client.connect(("127.0.0.1", service.port))
        client.sendall(raw_request(body).replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n", 1))
        received = 0
        start = time.monotonic()
        while chunk := client.recv(1 << 16):
            received += len(chunk)
            time.sleep(0.05 if time.monotonic() - start < 3 * TIMEOUT_S else 0.0)
    assert received > 800 * 10_000


def test_a_connection_above_the_limit_is_answered_503(service: RunningService) -> None:
    wait_for(lambda: not service.server.server_state.connections)
    with closing(Connections(service, 20)), connect(service) as client:
        answer = read_all(client)
        assert status_of(answer) == 503
        assert b"retry-after" in answer.lower()
    wait_for(lambda: not service.server.server_state.connections)
    assert service.rank().status_code == 200


class Connections:
    """Several open connections."""

    def __init__(self, service: RunningService, number: int) -> None:
        self._open = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(number)]
        wait_for(lambda: len(service.server.server_state.connections) == number)

    def close(self) -> None:
        for one in self._open:
            one.close()


def test_requests_in_one_packet_are_answered_in_their_order(service: RunningService) -> None:
    with connect(service) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3 + b"GET /he")
        time.sleep(TIMEOUT_S * 1.5)
        answer = read_all(client)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.count(b"HTTP/1.1 408") == 1


def test_an_idle_connection_does_not_hold_up_the_end_and_a_late_request_gets_its_answer() -> None:
    with (
        running_service(shutdown_grace_s=20.0) as running,
        connect(running) as idle,
        connect(running) as late,
    ):
        idle.sendall(raw_request(BODY))
        assert status_of(idle.recv(65536)) == 200
        wait_for(lambda: len(running.server.server_state.connections) == 2)
        running.server.drain()
        wait_for(lambda: running.server.should_exit)
        start = time.monotonic()
        late.sendall(raw_request(BODY))
        assert status_of(read_all(late)) == 503
        assert read_all(idle) == b""
        assert time.monotonic() - start < 5


def test_the_last_answer_before_the_end_closes_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `Connection: close`, a client sends its next request on a closing connection."""
    monkeypatch.setattr("qwen_rerank_plugins.service.server.protocol.LAST_CALL_S", 3.0)
    with running_service(shutdown_grace_s=20.0) as running, connect(running) as client:
        client.sendall(raw_request(BODY))
        answer = read_answer(client)
        assert (status_of(answer), b"connection: close" in answer.lower()) == (200, False)
        (connection,) = running.server.server_state.connections
        assert isinstance(connection, DeadlineProtocol)
        running.server.drain()
        wait_for(lambda: connection._is_shutting_down)
        client.sendall(raw_request(BODY))
        answer = read_all(client)
        assert (status_of(answer), b"connection: close" in answer.lower()) == (503, True)


def test_a_client_is_not_cut_off_while_the_app_does_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Reading is paused above 64 KiB that the app has not taken; the body's timeout passes meanwhile."""
    content = csv_file(pairs(20_000))
    timeouts, let_go = Event(), Event()

    def on_timeout(protocol: DeadlineProtocol) -> None:
        if protocol.flow.read_paused:
            timeouts.set()
        expired(protocol)

    def begin(store: Store, job: Job) -> BinaryIO:
        assert let_go.wait(20)
        return begun(store, job)

    expired, begun = DeadlineProtocol._on_receive_timeout, Store.begin
    monkeypatch.setattr("qwen_rerank_plugins.service.server.protocol.APP_MARGIN_S", 0.1)
    monkeypatch.setattr(DeadlineProtocol, "_on_receive_timeout", on_timeout)
    monkeypatch.setattr(Store, "begin", begin)
    with (
        serving(tmp_path, receive_timeout_s=TIMEOUT_S) as (_, client),
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(client.post, content)
        try:
            assert timeouts.wait(20)
        finally:
            let_go.set()
        assert answer.result().status_code == 202


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_rerank_plugins.service.server.protocol.APP_MARGIN_S", 0.2)
    with (
        running_service(receive_timeout_s=TIMEOUT_S, max_body_bytes=100) as running,
        connect(running) as client,
    ):
        client.sendall(raw_request(b"{", declared=1000))
        assert status_of(client.recv(65536)) == 413
        start = time.monotonic()
        assert drained(client) == 0
        assert time.monotonic() - start < 5


def test_an_answer_without_the_app_names_the_documentation_below_the_prefix() -> None:
    made = protocol.protocol_class(ServiceSettings(root_path="/rerank-service", max_connections=7))
    assert (made.root_path, made.max_connections) == ("/rerank-service", 7)
    assert made.receive_timeout_s == ServiceSettings().receive_timeout_s
