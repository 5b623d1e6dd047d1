"""HTTP connections with deadlines: slow heads, slow bodies, readers that stop reading, heads without end.

uvicorn's own protocol waits for ever for the rest of a request, and an app never sees a head that does not end. This one
ends such connections. The app itself answers 408 for a body that it waits for; here only what is left over is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
import uuid
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from qwen_rerank_plugins.service.api.body import MORE_TIME
from qwen_rerank_plugins.service.errors import Problem, unavailable
from qwen_rerank_plugins.service.middleware.request_context import SECURITY_HEADERS
from qwen_rerank_plugins.service.schemas.json_codec import dump_json

__all__ = ["DeadlineProtocol", "protocol_class"]

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
APP_MARGIN_S = 5.0  # the app, which can answer, comes first

LAST_CALL_S = 0.25  # for a request that left its client before that could know of the end

_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class DeadlineProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with an end to everything that a client can draw out.

    Attributes:
        receive_timeout_s: For a head, again for a body, and between two steps of reading an answer.
        max_connections: Above it a new connection is answered 503 and closed.
    """

    receive_timeout_s = 30.0
    max_connections = 1000

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0
        self._unsent_bytes = 0
        self._is_last_call = False

    # What comes in.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with a deadline for the first head, or refuse one connection too many."""
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > self.max_connections:
            self._refuse(unavailable("too many connections; try again later", reason="connections"))
            return
        self._expect(self.receive_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, but not with a head without end."""
        if self._in_head:
            if self._receiving is None:  # the first bytes of a later request on this connection
                self._expect(self.receive_timeout_s)
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            message = f"the request's head is too large; allowed: {MAX_HEAD_BYTES} bytes"
            self._refuse(Problem(431, message, reason="head"))

    def on_message_begin(self) -> None:
        """A head begins, perhaps in the same packet in which the request before it ended."""
        super().on_message_begin()
        self._head_bytes = max(self._head_bytes, 1)
        if self._receiving is None:
            self._expect(self.receive_timeout_s)

    def on_headers_complete(self) -> None:
        """Go on to the body, which has its own time."""
        self._in_head, self._head_bytes = False, 0
        self._expect(self.receive_timeout_s + APP_MARGIN_S)
        self._offer_more_time()
        super().on_headers_complete()
        if self._is_last_call and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Nothing more is expected until the next request."""
        self._in_head, self._head_bytes = True, 0
        self._stop_expecting()
        super().on_message_complete()

    def _offer_more_time(self) -> None:
        """Let the app begin the body's time anew: only it knows which bodies may be long, and how fast they come."""
        scope: Any = self.scope

        def more_time() -> None:
            if self.scope is scope and not self._in_head:
                self._expect(self.receive_timeout_s + APP_MARGIN_S)

        scope["state"][MORE_TIME] = more_time

    def _expect(self, seconds: float) -> None:
        self._stop_expecting()
        self._receiving = self.loop.call_later(seconds, self._too_slow)

    def _stop_expecting(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None

    def _too_slow(self) -> None:
        self._receiving = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused or (self._in_head and self._is_answering):
            self._expect(self.receive_timeout_s)  # it is this side that does not go on
        elif self._in_head and self._head_bytes:
            message = f"the request's head did not arrive in time; allowed: {self.receive_timeout_s:g} s"
            self._refuse(Problem(408, message, reason="slow_client"))
        elif self._in_head:
            self.transport.close()  # it never said a word
        else:
            logger.info("a client was cut off: the rest of its body did not come")
            self.transport.abort()

    # What goes out.

    def pause_writing(self) -> None:
        """Watch a client that does not take its answer."""
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        """The client reads on."""
        super().resume_writing()
        self._stop_watching()

    def _watch_sending(self) -> None:
        self._stop_watching()
        self._unsent_bytes = self._count_unsent()
        self._sending = self.loop.call_later(self.receive_timeout_s, self._check_sending)

    def _stop_watching(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _check_sending(self) -> None:
        self._sending = None
        if not self.transport.get_write_buffer_size():
            return
        if self._count_unsent() >= self._unsent_bytes:
            logger.info("a client was cut off: it did not read its answer")
            self.transport.abort()
        else:
            self._watch_sending()

    def _count_unsent(self) -> int:
        """Bytes that the client has not taken, those in the system's buffer included, which can hold megabytes."""
        queued = _queued_bytes(self.transport.get_extra_info("socket"))
        return self.transport.get_write_buffer_size() + queued

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also when its last answer was not read."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self._watch_sending()

    # The end.

    def shutdown(self) -> None:
        """Close in order; a request may be on its way to a connection that is idle, and still gets its answer."""
        self._is_last_call = True
        if self._is_answering:
            super().shutdown()
        else:
            self.loop.call_later(LAST_CALL_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._is_answering and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave no timer behind."""
        self._stop_expecting()
        self._stop_watching()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in the same shape as everything else."""
        self._refuse(Problem(400, msg.rstrip("."), reason="http"))

    @property
    def _is_answering(self) -> bool:
        """Whether an earlier request on this connection has no whole answer yet."""
        return not getattr(
            self.cycle, "response_complete", True
        )  # there is no cycle before the first request

    def _refuse(self, problem: Problem) -> None:
        """Answer without the app, and close; in the middle of another answer, only close."""
        self._stop_expecting()
        if self._is_answering:
            self.transport.abort()
            return
        request_id = uuid.uuid4().hex
        body = dump_json(problem.body(request_id))
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


def _queued_bytes(connection: socket.socket | None) -> int:
    """Bytes in a socket's send buffer, as far as the system tells it."""
    if connection is None or sys.platform != "linux":
        return 0
    import fcntl
    import termios

    try:
        (queued,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(queued)


def protocol_class(*, receive_timeout_s: float, max_connections: int) -> type[DeadlineProtocol]:
    """The protocol with these limits, as the class that uvicorn wants."""
    limits = {"receive_timeout_s": receive_timeout_s, "max_connections": max_connections}
    return type("Protocol", (DeadlineProtocol,), limits)
