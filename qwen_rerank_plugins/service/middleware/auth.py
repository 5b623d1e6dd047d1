"""Access control: API keys, host names, and the public paths.

If any key is configured, every path requires one, except those listed here. It knows neither bodies nor scores.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Iterable, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from qwen_rerank_plugins.service.errors import Problem, ProblemError
from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["AllowedHosts", "AuthMiddleware", "KeyRing", "is_open"]

logger = logging.getLogger(__name__)

PROBES = ("/health", "/ready", "/ping", "/.well-known/ready", "/.well-known/live")
PAGES = (
    "/",
    "/favicon.ico",
    "/docs",
    "/docs.css",
    "/openapi.json",
)  # browsers follow links to them without a key
OPEN_PATHS = frozenset([*PROBES, *PAGES])
OPEN_FOLDER = "/static/"
LOOPBACK_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])


def is_open(path: str) -> bool:
    """Return whether a path requires no key: health checks, and pages, which contain no data."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


class KeyRing:
    """The accepted API keys, stored as digests.

    Args:
        keys: The keys. Without any, every request is accepted.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, headers: Headers) -> bool:
        """Return whether a request has a valid key: `Authorization: Bearer KEY`, `Authorization: KEY`, or `X-API-Key: KEY`."""
        if not self._digests:
            return True
        return any([self._matches(key) for key in _keys_in(headers)])  # noqa: C419 (constant time: no early exit)

    def owner(self, headers: Headers) -> str:
        """Return an id of the key of a request, from which the key cannot be derived.

        The id is empty if no keys are configured.
        """
        if not self._digests:
            return ""
        known = next((key for key in _keys_in(headers) if self._matches(key)), "")
        return hashlib.sha256(b"owner of jobs\0" + _digest(known)).hexdigest()

    def _matches(self, key: str) -> bool:
        """Compare with every key, in constant time."""
        digest = _digest(key)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _keys_in(headers: Headers) -> list[str]:
    values = headers.getlist("authorization") + headers.getlist("x-api-key") + headers.getlist("api-key")
    keys = []
    for value in values:
        scheme, _, rest = value.strip().partition(" ")
        keys.append(rest.strip() if scheme.lower() == "bearer" and rest.strip() else value.strip())
    return keys


class AllowedHosts:
    """The accepted host names, as protection against DNS rebinding.

    A rebinding page cannot use an IP address or a name without a dot, so these are accepted if the service listens on
    a public address. Such a page has no API key either, so with keys every name is accepted.

    Args:
        settings: `allowed_hosts`, and the host to listen on.
        has_keys: Whether requests require a key.
    """

    def __init__(self, settings: ServiceSettings, *, has_keys: bool) -> None:
        given = settings.allowed_hosts
        self._names = {name.lower() for name in given or ()} | LOOPBACK_NAMES | {settings.host.lower()}
        self._any = "*" in self._names or (given is None and has_keys)
        self._local_network = given is None and settings.is_public

    def accepts(self, host: str | None) -> bool:
        """Return whether a `Host` header, with or without a port, is accepted. HTTP/1.0 has none."""
        if self._any or host is None:
            return True
        name = _without_port(host.strip().lower())
        return (
            name in self._names
            or name.endswith(".localhost")
            or (self._local_network and bool(name) and ("." not in name or _is_address(name)))
        )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class AuthMiddleware:
    """ASGI middleware that rejects requests with a foreign host name or without a required key.

    Args:
        app: The inner app.
        keys: The accepted keys.
        hosts: The accepted host names.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, hosts: AllowedHosts) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or reject it."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            hosts = headers.getlist("host")
            if len(hosts) > 1 or not self._hosts.accepts(hosts[0] if hosts else None):
                raise _unknown_host(hosts)
            if not is_open(scope["path"]) and not self._keys.accepts(headers):
                message = "Missing or invalid API key. Send `Authorization: Bearer <key>`."
                raise ProblemError(Problem(401, message, {"WWW-Authenticate": "Bearer"}, "unauthorized"))
        await self._app(scope, receive, send)


def _unknown_host(hosts: Sequence[str]) -> ProblemError:
    logger.warning("rejected a request to the host %r; see allowed_hosts", ", ".join(hosts)[:100])
    message = "the Host header is not accepted; add the name to allowed_hosts"
    return ProblemError(Problem(400, message, reason="host"))
