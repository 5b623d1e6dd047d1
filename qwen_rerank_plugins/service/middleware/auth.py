"""Who may call: keys, host names, and the addresses that are open to everybody.

Once there is a key, everything needs one except what is listed here. It knows neither bodies nor scores.
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

__all__ = ["AuthMiddleware", "HostNames", "KeyRing", "is_open"]

logger = logging.getLogger(__name__)

PROBES = ("/health", "/ready", "/ping", "/.well-known/ready", "/.well-known/live")
PAGES = ("/", "/favicon.ico", "/docs", "/docs.css", "/openapi.json")  # a link to one carries no key
OPEN_PATHS = frozenset([*PROBES, *PAGES])
OPEN_FOLDER = "/static/"
LOOPBACK_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])


def is_open(path: str) -> bool:
    """Whether an address needs no key: the probes, and the pages, which hold no data."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


class KeyRing:
    """The keys that are accepted; only their digests are kept.

    Args:
        keys: The keys; none lets everybody in.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, headers: Headers) -> bool:
        """Whether a request carries a key: `Authorization: Bearer KEY`, a bare KEY there, or `X-API-Key: KEY`."""
        if not self._digests:
            return True
        return any([self._knows(key) for key in _presented(headers)])  # noqa: C419 (all, whichever fits)

    def owner(self, headers: Headers) -> str:
        """Give a name for whose request it is, the same for the same key, from which the key cannot be had.

        Empty where there are no keys: then everybody is one.
        """
        if not self._digests:
            return ""
        known = next((key for key in _presented(headers) if self._knows(key)), "")
        return hashlib.sha256(b"owner of jobs\0" + _digest(known)).hexdigest()

    def _knows(self, key: str) -> bool:
        """Compare with every key, and take the same time whichever fits and wherever it differs."""
        digest = _digest(key)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _presented(headers: Headers) -> list[str]:
    values = headers.getlist("authorization") + headers.getlist("x-api-key") + headers.getlist("api-key")
    keys = []
    for value in values:
        scheme, _, rest = value.strip().partition(" ")
        keys.append(rest.strip() if scheme.lower() == "bearer" and rest.strip() else value.strip())
    return keys


class HostNames:
    """The names by which the service may be called, against web pages that rebind a name of theirs to this address.

    Such a page can name neither an IP address nor a name without a dot; so where the service listens for other
    machines, these are accepted too. Where a key is asked for, such a page does not have it, and every name is accepted.

    Args:
        settings: Its `allowed_hosts`, and the host that it listens on.
        has_keys: Whether requests need a key.
    """

    def __init__(self, settings: ServiceSettings, *, has_keys: bool) -> None:
        given = settings.allowed_hosts
        self._names = {name.lower() for name in given or ()} | LOOPBACK_NAMES | {settings.host.lower()}
        self._any = "*" in self._names or (given is None and has_keys)
        self._local_network = given is None and settings.is_public

    def accepts(self, host: str | None) -> bool:
        """Whether a `Host` header, with or without a port, names this service. HTTP/1.0 knows none."""
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
    """ASGI middleware that lets nobody past without a name and, where there are keys, without a key.

    Args:
        app: What is behind it.
        keys: The keys.
        hosts: The names.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, hosts: HostNames) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            self._check_host(headers.getlist("host"))
            if not is_open(scope["path"]) and not self._keys.accepts(headers):
                raise ProblemError(_unauthorized())
        await self._app(scope, receive, send)

    def _check_host(self, hosts: Sequence[str]) -> None:
        if len(hosts) <= 1 and self._hosts.accepts(hosts[0] if hosts else None):
            return
        logger.warning("refused a request to the host %r: see allowed_hosts", ", ".join(hosts)[:100])
        message = "the Host header is not one of this service's names; allowed: those in allowed_hosts"
        raise ProblemError(Problem(400, message, reason="host"))


def _unauthorized() -> Problem:
    message = "no valid key; allowed: the header 'Authorization: Bearer KEY'"
    return Problem(401, message, {"WWW-Authenticate": "Bearer"}, "unauthorized")
