"""A wire between a cluster and a service: it passes bytes on, counts connections, and keeps what went over them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CHUNK = 1 << 16


@dataclass
class Wire:
    """What a test sees of it.

    Attributes:
        url: Where it listens, without a slash at the end.
        connections: How many were opened so far.
        sent: What the cluster sent, of all connections.
        received: What the service answered.
    """

    url: str
    connections: int = 0
    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)

    @property
    def rerank_url(self) -> str:
        """The address that a connector calls."""
        return f"{self.url}/v1/rerank"


@contextmanager
def running_wire(target_url: str) -> Iterator[Wire]:
    """Pass on to a service until the block ends."""
    host, _, port = target_url.removeprefix("http://").partition(":")
    target = (host, int(port))
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(f"http://127.0.0.1:{listener.getsockname()[1]}")
    opened: list[socket.socket] = []
    thread = threading.Thread(target=_accept, args=(listener, target, wire, opened))
    thread.start()
    try:
        yield wire
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closing alone would not
        listener.close()
        thread.join()
        for one in opened:
            _close(one)


def _accept(
    listener: socket.socket, target: tuple[str, int], wire: Wire, opened: list[socket.socket]
) -> None:
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        far = socket.create_connection(target)
        opened += [near, far]
        wire.connections += 1
        for source, sink, kept in ((near, far, wire.sent), (far, near, wire.received)):
            threading.Thread(target=_pass_on, args=(source, sink, kept), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            kept += data
            sink.sendall(data)
    _close(source)
    _close(sink)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
