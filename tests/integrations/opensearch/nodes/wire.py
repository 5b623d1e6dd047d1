"""A TCP proxy between a cluster and a service, which counts connections and records their bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CHUNK = 1 << 16


@dataclass
class Wire:
    """The running proxy.

    Attributes:
        url: The address, without a trailing slash.
        connections: Number of connections opened so far.
        sent: Bytes that the cluster sent, over all connections.
        received: Bytes that the service sent.
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
    """Forward connections to a service until the block ends."""
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
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread; closing alone would not
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
        for source, sink, recorded in ((near, far, wire.sent), (far, near, wire.received)):
            threading.Thread(target=_forward, args=(source, sink, recorded), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket, recorded: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            recorded += data
            sink.sendall(data)
    _close(source)
    _close(sink)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
