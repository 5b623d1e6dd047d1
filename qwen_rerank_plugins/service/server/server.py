"""The server process: socket, signals and shutdown. It prints nothing; events are reported to the caller."""

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
from qwen_rerank_plugins.service.app_state import AppState
from qwen_rerank_plugins.service.lifecycle import Event, Lifecycle
from qwen_rerank_plugins.service.logs import log_config
from qwen_rerank_plugins.service.server.protocol import protocol_class
from qwen_rerank_plugins.service.settings import ServiceSettings
from qwen_rerank_plugins.types import Scorer

__all__ = ["Server", "bind", "make_server", "serve"]

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
BACKLOG = 2048
ABORT_MARGIN_S = 2  # for aborted requests to be answered
HANG_MARGIN_S = 15.0  # after which a hanging process exits

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(settings: ServiceSettings) -> socket.socket:
    """Return a socket that listens on the configured address.

    Raises:
        ConfigurationError: The port is in use or not permitted, or the address does not exist.
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
        return f"no permission to listen on port {port!r}; choose one above 1023 with --port"
    return f"cannot listen on host {host!r}, port {port!r}: {error.strerror}; choose with --host and --port"


class Server(uvicorn.Server):
    """uvicorn's server, which drains on the first signal, exits on the second, and exits if the engine is lost.

    Args:
        config: Settings of uvicorn.
        lifecycle: Lifecycle of the engine.
        settings: Settings of the service.

    Attributes:
        exit_code: Exit code for the process.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, settings: ServiceSettings) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._lifecycle = lifecycle
        self._settings = settings
        self._exit_at = math.inf
        lifecycle.on_fatal = self._on_fatal

    def drain(self) -> None:
        """Reject new requests, finish accepted ones, and stop. Safe in a signal handler."""
        if self._exit_at == math.inf:
            self._lifecycle.drain()
            self._exit_at = time.monotonic() + self._settings.shutdown_delay_s

    def _on_fatal(self, error: Exception) -> None:
        logger.error("stopping the service: %s", type(error).__name__)
        self.exit_code = EXIT_FAILED
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop listening; uvicorn calls it ten times per second."""
        if time.monotonic() >= self._exit_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish accepted requests within the grace period."""
        import asyncio

        self._lifecycle.drain()
        self._lifecycle.announce(Event("draining"))
        timer = asyncio.get_running_loop().call_later(self._settings.shutdown_grace_s, self._lifecycle.abort)
        await super().shutdown(sockets)
        timer.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in _SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (signature of a signal handler)
        """Drain; on the second signal, exit immediately."""
        if self._exit_at != math.inf:
            os._exit(128 + sig)
        self.drain()
        seconds = self._settings.shutdown_delay_s + self._settings.shutdown_grace_s + HANG_MARGIN_S
        hang = threading.Timer(seconds, os._exit, [EXIT_FAILED])  # a scorer's thread may hang
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
    """Create app and server without binding a port or loading the model. Call `run(sockets=[...])` to serve.

    Args:
        config: Settings of the reranker.
        settings: Settings of the service.
        announce: Called with events.
        scorer: Replaces the configured scorer.
        configure_logging: Whether to configure logging to standard error.

    Raises:
        ConfigurationError: A setting is invalid.
    """
    app = create_app(config, settings=settings, scorer=scorer, announce=announce)
    state: AppState = app.state.service
    protocol = protocol_class(settings)
    server_config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=log_config(settings.log_format) if configure_logging else None,
        access_log=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(settings.keep_alive_s),
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s) + ABORT_MARGIN_S,
    )
    try:
        server_config.load()
    except OSError as error:  # ssl.SSLError is one
        message = f"cannot read the certificate in tls_cert, or its key in tls_key: {error.strerror or error}"
        raise ConfigurationError(message) from error
    return Server(server_config, state.lifecycle, settings)


def serve(
    config: RerankConfig,
    settings: ServiceSettings | None = None,
    *,
    announce: Callable[[Event], None] | None = None,
    scorer: Scorer | None = None,
) -> int:
    """Serve until a signal, and return the exit code: 0, or 1 if loading failed or the engine died.

    The port is bound before the model is loaded, so that a port in use fails immediately.

    Args:
        config: Settings of the reranker.
        settings: Settings of the service; by default the section `service` of `config`.
        announce: Called with events, first "listening" with the address.
        scorer: Replaces the configured scorer.

    Raises:
        ConfigurationError: A setting is invalid, or the address cannot be bound.
        MissingDependencyError: A package for tracing is not installed.
    """
    settings = ServiceSettings.from_config(config) if settings is None else settings
    announce = _collect_garbage(announce or (lambda _: None))
    listener = bind(settings)
    try:
        server = make_server(config, settings, announce=announce, scorer=scorer)
        host, port = listener.getsockname()[:2]
        announce(Event("listening", address=(host, port)))
        server.run(sockets=[listener])
    finally:
        listener.close()
    return server.exit_code


def _collect_garbage(announce: Callable[[Event], None]) -> Callable[[Event], None]:
    """Exclude the loaded objects from garbage collection, and collect what an engine that failed has left.

    A full collection over torch's objects stops every thread for about 0.1 s. The tracebacks of an engine's death refer to its tensors in
    cycles that automatic collections reach too rarely: each rebuild would add the size of a model.
    """

    def on_event(event: Event) -> None:
        if event.kind in {"loaded", "recovered"}:
            gc.collect()
        if event.kind == "loaded":
            gc.freeze()
        announce(event)

    return on_event
