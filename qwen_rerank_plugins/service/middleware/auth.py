"""Access control: API keys, host names, and the public paths.

If any key is configured, every path requires one, except those listed here. It knows neither bodies nor scores.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from qwen_rerank_plugins.service.errors import Problem, ProblemError
from qwen_rerank_plugins.service.middleware.request_context import context_of
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
LOCAL_SUFFIXES = (
    # Reserved: RFC 6761, RFC 6762, ICANN, RFC 8375.
    *(".localhost", ".local", ".internal", ".test", ".home.arpa"),
    # Used in private networks: RFC 6762, appendix G; Kubernetes; Linux distributions.
    *(".intranet", ".private", ".corp", ".home", ".lan", ".svc", ".localdomain"),
)
"""Ends of names that nobody can register on the internet."""

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([\w.-]*?)\.?)(?::\d*)?", re.ASCII)
_UNSAFE = re.compile(r"[^\w.:\[\]@-]", re.ASCII)
SHOWN_CHARS = 100
KEY_ID_DIGITS = 8


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

    def owner(self, headers: Headers) -> str:
        """Return an id of the key of a request, from which the key cannot be derived.

        The id is empty if no keys are configured.
        """
        if not self._digests:
            return ""
        return hashlib.sha256(b"owner of jobs\0" + (self._found(headers) or _digest(""))).hexdigest()

    def key_id(self, headers: Headers) -> str:
        """Return the start of the SHA-256 of the key of a request, for logs and metrics; empty without a valid key.

        A key comes as `Authorization: Bearer KEY`, `Authorization: KEY`, `X-API-Key: KEY` or `api-key: KEY`.
        """
        return (self._found(headers) or b"").hex()[:KEY_ID_DIGITS]

    def _found(self, headers: Headers) -> bytes | None:
        """Return the digest of the first valid key of a request."""
        if not self._digests:
            return None
        digests = [_digest(key) for key in _keys_in(headers)]
        matching = [digest for digest in digests if self._matches(digest)]  # constant time: no early exit
        return matching[0] if matching else None

    def _matches(self, digest: bytes) -> bool:
        """Compare with every key, in constant time."""
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

    A rebinding page cannot use an IP address, a name without a dot or a name that nobody can register, so these are
    accepted unless `allowed_hosts` is set; addresses only if the service listens on a public one. Such a page has no
    API key either, so with keys every name is accepted.

    Args:
        settings: `allowed_hosts`, and the host to listen on.
        has_keys: Whether requests require a key.
    """

    def __init__(self, settings: ServiceSettings, *, has_keys: bool) -> None:
        given = settings.allowed_hosts
        names = (*(given or ()), settings.host, *LOOPBACK_NAMES)
        self._names = {_host_name(name) or name.lower() for name in names}
        self._any = "*" in self._names or (given is None and has_keys)
        self._local = given is None
        self._addresses = given is None and settings.is_public

    def accepts(self, host: str | None) -> bool:
        """Return whether a `Host` header, with or without a port, is accepted. HTTP/1.0 has none."""
        if self._any or host is None:
            return True
        name = _host_name(host)
        if name in self._names or name.endswith(".localhost"):
            return True
        if _is_address(name):
            return self._addresses
        return self._local and bool(name) and ("." not in name or name.endswith(LOCAL_SUFFIXES))


@lru_cache(maxsize=64)
def _host_name(host: str) -> str:
    """Return the lower-case name or address in a `Host` header; empty if the header is malformed."""
    match = _HOST.fullmatch(host.strip().lower())
    if match is None or (match[1] and not _is_address(match[1])):
        return ""
    return match[1] or match[2]


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
            key_id = context_of(scope).key_id = self._keys.key_id(headers)
            if not key_id and self._keys and not is_open(scope["path"]):
                message = "Missing or invalid API key. Send `Authorization: Bearer <key>`."
                raise ProblemError(Problem(401, message, {"WWW-Authenticate": "Bearer"}, "unauthorized"))
        await self._app(scope, receive, send)


def _unknown_host(hosts: Sequence[str]) -> ProblemError:
    shown = _UNSAFE.sub("?", ", ".join(hosts))[:SHOWN_CHARS]
    logger.warning("rejected a request to the host %r; see allowed_hosts", shown)
    message = f"the host {shown!r} is not accepted; add it to allowed_hosts (serve --allowed-hosts)"
    return ProblemError(Problem(400, message, reason="host"))
