"""HTTP connections with timeouts for heads, bodies and clients that do not read, and limits for all but the body.

uvicorn's protocol waits indefinitely for the rest of a request, and the app never sees an incomplete head, a chunk's
extensions or a trailer. The app itself answers 408 for a body that it waits for; this protocol closes connections that
the app no longer reads. Offers to change the protocol (`Upgrade`) are ignored, as RFC 9110 permits.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
import uuid
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from qwen_rerank_plugins.service.api.body import EXTEND_BODY_TIMEOUT
from qwen_rerank_plugins.service.errors import Problem, ProblemError, unavailable
from qwen_rerank_plugins.service.middleware.request_context import SECURITY_HEADERS
from qwen_rerank_plugins.service.schemas.json_codec import dump_json
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["DeadlineProtocol", "protocol_class"]

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024  # of a head, and of a body's framing: sizes and extensions of chunks, trailers
FRAMING_PER_BYTE = 8  # a chunk of one byte has a framing of five
APP_MARGIN_S = 5.0  # so that the app, which can answer, times out first

LAST_CALL_S = 0.25  # for a request that was sent before its client could notice the shutdown

_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class DeadlineProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with timeouts and limits.

    Attributes:
        receive_timeout_s: Timeout for a head, for a body, and for a client that does not read its answer.
        max_connections: Further connections are answered 503 and closed.
        root_path: Prefix of every address, for the links in error answers.
    """

    receive_timeout_s = 30.0
    max_connections = 1000
    root_path = ""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._receive_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0
        self._framing_bytes = 0
        self._unsent_bytes = 0
        self._is_shutting_down = False
        self._closes_after_body = False

    # Receiving.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timeout for the first head, or reject a connection above the limit."""
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > self.max_connections:
            self._reject(unavailable("too many connections; retry later", reason="connections"))
            return
        self._start_receive_timer(self.receive_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and reject what is invalid or too large."""
        self._unset_keepalive_if_required()
        if self._in_head:
            if self._receive_timer is None:  # first bytes of a later request on this connection
                self._start_receive_timer(self.receive_timeout_s)
            self._head_bytes += len(data)
        else:
            self._framing_bytes += len(data)  # of which `on_body` subtracts the body
        try:
            rest = memoryview(data)
            while rest:
                rest = self._feed(rest)
            self._check_sizes()
        except httptools.HttpParserError as error:
            cause = error.__context__
            invalid = Problem(400, "Invalid HTTP request received", reason="http")
            self._reject(cause.problem if isinstance(cause, ProblemError) else invalid)
        except ProblemError as error:
            self._reject(error.problem)

    def _feed(self, data: memoryview) -> memoryview:
        """Parse data up to the end of a head that offers another protocol, and return the rest.

        The parser ends such a request at its head, so the head is parsed again without the offer.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            if method == b"CONNECT":
                raise ProblemError(Problem(400, "CONNECT is not supported", reason="http")) from None
            lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
            lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))
            return data[offer.args[0] :]
        return data[len(data) :]

    def _check_sizes(self) -> None:
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            message = f"the request's head is too large; send at most {MAX_HEAD_BYTES} bytes"
            raise ProblemError(Problem(431, message, reason="head"))
        if not self._in_head and self._framing_bytes > MAX_HEAD_BYTES:
            message = (
                f"the body's chunk extensions or trailers are too large; send at most {MAX_HEAD_BYTES} bytes"
            )
            raise ProblemError(Problem(431, message, reason="head"))

    def on_message_begin(self) -> None:
        """Start the timeout for a head, which may begin in the packet that ends the previous request."""
        super().on_message_begin()
        self._head_bytes = max(self._head_bytes, 1)
        if self._receive_timer is None:
            self._start_receive_timer(self.receive_timeout_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header, and drop a trailer, which would otherwise become a header."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Reject a head that is too large or ambiguous, and start the timeout for the body."""
        if self.parser.should_upgrade():
            return
        self._head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._check_sizes()
        if [value.lower() for name, value in self.headers if name == b"transfer-encoding"] not in (
            [],
            [b"chunked"],
        ):
            message = "Transfer-Encoding is not supported; use chunked alone"
            raise ProblemError(Problem(400, message, reason="http"))
        self._in_head, self._head_bytes, self._framing_bytes = False, 0, 0
        self._start_receive_timer(self.receive_timeout_s + APP_MARGIN_S)
        self._offer_extension()
        super().on_headers_complete()
        self.cycle.transport = cast(asyncio.Transport, _ResponseTransport(self, self.cycle))
        if self._is_shutting_down:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body, which permits some framing."""
        self._framing_bytes = max(0, self._framing_bytes - (1 + FRAMING_PER_BYTE) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the timeout until the next request."""
        if self.parser.should_upgrade():
            return
        self._in_head, self._head_bytes = True, 0
        self._stop_receive_timer()
        super().on_message_complete()
        if self._closes_after_body:
            self.transport.close()

    def _offer_extension(self) -> None:
        """Let the app restart the timeout for the body; only it knows which bodies may be long."""
        scope: Any = self.scope

        def extend_body_timeout() -> None:
            if self.scope is scope and not self._in_head:
                self._start_receive_timer(self.receive_timeout_s + APP_MARGIN_S)

        scope["state"][EXTEND_BODY_TIMEOUT] = extend_body_timeout

    def _start_receive_timer(self, seconds: float) -> None:
        self._stop_receive_timer()
        self._receive_timer = self.loop.call_later(seconds, self._on_receive_timeout)

    def _stop_receive_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _on_receive_timeout(self) -> None:
        self._receive_timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused or (self._in_head and self._is_answering):
            self._start_receive_timer(self.receive_timeout_s)  # the server is the one that is not reading
        elif self._in_head and self._head_bytes:
            message = f"the request's head did not arrive within {self.receive_timeout_s:g} s; send it faster"
            self._reject(Problem(408, message, reason="slow_client"))
        elif self._in_head:
            self.transport.close()  # no request was sent
        else:
            logger.info("closed a connection: the rest of the body did not arrive")
            self.transport.abort()

    # Sending.

    def pause_writing(self) -> None:
        """Start the timeout for a client that does not read its answer."""
        super().pause_writing()
        self._start_send_timer()

    def resume_writing(self) -> None:
        """Stop that timeout."""
        super().resume_writing()
        self._stop_send_timer()

    def _start_send_timer(self) -> None:
        self._stop_send_timer()
        self._unsent_bytes = self._count_unsent()
        self._send_timer = self.loop.call_later(self.receive_timeout_s, self._on_send_timeout)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _on_send_timeout(self) -> None:
        self._send_timer = None
        if not self.transport.get_write_buffer_size():
            return
        if self._count_unsent() >= self._unsent_bytes:
            logger.info("closed a connection: the client did not read its answer")
            self.transport.abort()
        else:
            self._start_send_timer()

    def _count_unsent(self) -> int:
        """Return the bytes that the client has not received, including those in the socket's buffer."""
        queued = _queued_bytes(self.transport.get_extra_info("socket"))
        return self.transport.get_write_buffer_size() + queued

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also if its last answer was not read."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self._start_send_timer()

    # Closing.

    def shutdown(self) -> None:
        """Close gracefully: a request that is already on its way to an idle connection is still answered."""
        self._is_shutting_down = True
        if self._is_answering:
            super().shutdown()
        else:
            self.loop.call_later(LAST_CALL_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._is_answering and not self.transport.is_closing():
            self.transport.close()

    def close_after(self, cycle: RequestResponseCycle) -> None:
        """Close the connection when the rest of the body has been received and discarded, or has timed out.

        Closing with unread data resets the connection, and the client may lose the answer (RFC 9112, section 9.6).
        """
        if self._in_head or self._is_shutting_down or cycle is not self.cycle or not cycle.response_complete:
            self.transport.close()
            return
        self._closes_after_body = True
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._stop_receive_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        """Whether the answer to an earlier request on this connection is incomplete."""
        return not getattr(self.cycle, "response_complete", True)  # no cycle before the first request

    def _reject(self, problem: Problem) -> None:
        """Answer without the app and close the connection; if an answer has begun, only close it."""
        self._stop_receive_timer()
        if self._is_answering if self._in_head else self.pipeline or self.cycle.response_started:
            self.transport.abort()
            return
        request_id = uuid.uuid4().hex
        body = dump_json(problem.body(request_id, self.root_path))
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "X-Request-Id": request_id,
            **SECURITY_HEADERS,
            **problem.headers,
        }
        lines = [f"HTTP/1.1 {problem.status} {_PHRASES[problem.status]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self.transport.close()


class _ResponseTransport:
    """The transport of one answer, which closes the connection after the body of its request."""

    def __init__(self, protocol: DeadlineProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol, self._cycle = protocol, cycle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)

    def close(self) -> None:
        self._protocol.close_after(self._cycle)


def _queued_bytes(connection: socket.socket | None) -> int:
    """Return the bytes in a socket's send buffer; 0 if the system does not report them."""
    if connection is None or sys.platform != "linux":
        return 0
    import fcntl
    import termios

    try:
        (queued,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(queued)


def protocol_class(settings: ServiceSettings) -> type[DeadlineProtocol]:
    """Return a protocol class with the limits of these settings, as uvicorn expects."""
    names = ("receive_timeout_s", "max_connections", "root_path")
    return type("Protocol", (DeadlineProtocol,), {name: getattr(settings, name) for name in names})
