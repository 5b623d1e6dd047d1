"""The service as a process: its socket, its signals, its end. It prints nothing; whoever calls it is told of events."""

from __future__ import annotations

import errno
import gc
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.service.app import create_app
from qwen_rerank_plugins.service.app_state import Service
from qwen_rerank_plugins.service.lifecycle import Event, Lifecycle
from qwen_rerank_plugins.service.logs import log_config
from qwen_rerank_plugins.service.server.protocol import protocol_class
from qwen_rerank_plugins.service.settings import ServiceSettings
from qwen_rerank_plugins.types import Scorer

__all__ = ["Server", "bind", "make_server", "serve"]

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
BACKLOG = 2048
ABORT_MARGIN_S = 2  # in which requests that are ended answer so
HANG_MARGIN_S = 15.0  # after which a process that does not end is ended

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(settings: ServiceSettings) -> socket.socket:
    """Listen on the address of the settings.

    Raises:
        ConfigurationError: The port is busy or not allowed, or there is no such address here.
    """
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(_bind_message(error, host, port)) from error


def _bind_message(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port!r} on {host!r} is in use by another program; choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port!r} is not allowed for this user; choose one above 1023 with --port"
    return f"cannot listen on host {host!r}, port {port!r}: {error.strerror}; choose with --host and --port"


class Server(uvicorn.Server):
    """uvicorn's server that drains on the first signal, ends at once on the second, and ends when the engine is gone.

    Args:
        config: uvicorn's own settings.
        lifecycle: The engine's life.
        settings: The service's settings.

    Attributes:
        exit_code: What the process should end with.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, settings: ServiceSettings) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._lifecycle = lifecycle
        self._settings = settings
        self._exit_at = math.inf
        lifecycle.on_fatal = self._on_fatal

    def drain(self) -> None:
        """Say no to new requests, finish the accepted ones, and end. Safe in a signal's handler."""
        if self._exit_at == math.inf:
            self._lifecycle.drain()
            self._exit_at = time.monotonic() + self._settings.shutdown_delay_s

    def _on_fatal(self, error: Exception) -> None:
        logger.error("the service ends: %s", type(error).__name__)
        self.exit_code = EXIT_FAILED
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: whether to stop listening."""
        if time.monotonic() >= self._exit_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was accepted, for as long as the grace lasts."""
        import asyncio

        self._lifecycle.drain()
        self._lifecycle.announce(Event("draining"))
        timer = asyncio.get_running_loop().call_later(self._settings.shutdown_grace_s, self._lifecycle.abort)
        await super().shutdown(sockets)
        timer.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving; in another thread than the main one there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in _SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the signal module's)
        """End in order; at the second signal, at once."""
        if self._exit_at != math.inf:
            os._exit(128 + sig)
        self.drain()
        seconds = self._settings.shutdown_delay_s + self._settings.shutdown_grace_s + HANG_MARGIN_S
        hang = threading.Timer(seconds, os._exit, [EXIT_FAILED])  # a scorer's thread may never come back
        hang.daemon = True
        hang.start()


def make_server(
    config: RerankConfig,
    settings: ServiceSettings,
    *,
    announce: Callable[[Event], None] | None = None,
    scorer: Scorer | None = None,
    configure_logging: bool = True,
) -> Server:
    """Put app and server together; nothing is bound or loaded yet. Its `run(sockets=[...])` serves.

    Args:
        config: The reranker's settings.
        settings: The service's own.
        announce: Is told of events.
        scorer: Scores in place of the one that the settings mean.
        configure_logging: Write log lines to standard error, in the format of the settings.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    app = create_app(config, settings=settings, scorer=scorer, announce=announce)
    service: Service = app.state.service
    protocol = protocol_class(
        receive_timeout_s=settings.receive_timeout_s, max_connections=settings.max_connections
    )
    server_config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=log_config(settings.log_format) if configure_logging else None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(settings.keep_alive_s),
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s) + ABORT_MARGIN_S,
    )
    return Server(server_config, service.lifecycle, settings)


def serve(
    config: RerankConfig,
    settings: ServiceSettings | None = None,
    *,
    announce: Callable[[Event], None] | None = None,
    scorer: Scorer | None = None,
) -> int:
    """Serve until a signal comes, and give the exit code: 0, or 1 when the model could not be loaded or its engine died.

    The port is taken before anything is loaded, so that a busy one is known at once.

    Args:
        config: The reranker's settings.
        settings: The service's own; None for the section `service` of `config`.
        announce: Is told of events, first of all "listening" with the address.
        scorer: Scores in place of the one that the settings mean.

    Raises:
        ConfigurationError: A setting is wrong, or the address cannot be listened on.
        MissingDependencyError: A package for tracing is missing.
    """
    settings = ServiceSettings.from_config(config) if settings is None else settings
    tell = _freezing(announce or (lambda _: None))
    listener = bind(settings)
    try:
        server = make_server(config, settings, announce=tell, scorer=scorer)
        host, port = listener.getsockname()[:2]
        tell(Event("listening", address=(host, port)))
        server.run(sockets=[listener])
    finally:
        listener.close()
    return server.exit_code


def _freezing(announce: Callable[[Event], None]) -> Callable[[Event], None]:
    """Keep the garbage collector away from what was loaded, which stays.

    A full collection over torch's objects stops every thread for a tenth of a second.
    """

    def tell(event: Event) -> None:
        if event.kind == "loaded":
            gc.collect()
            gc.freeze()
        announce(event)

    return tell
