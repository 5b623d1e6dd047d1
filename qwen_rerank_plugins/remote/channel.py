"""One HTTP client: a body goes out, a status and a bounded answer come back. Knows no dialect and tries once.

The environment's proxies and certificates are honoured, as by other HTTP clients, but a service on this machine is
never asked through a proxy: the texts would leave the machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from qwen_rerank_plugins.errors import ConfigurationError

__all__ = ["Answer", "Channel", "Link", "OversizedError"]

_CONNECT_S = 10.0
_MAX_ERROR_BYTES = 65_536


class OversizedError(Exception):
    """An answer is longer than any honest one."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where a service is and how to reach it.

    Attributes:
        url: The address to post to.
        api_key: The key that is sent as a bearer token, or None.
        timeout_s: No single wait for a connection is longer.
        max_concurrency: Calls at the same time.
        transport: What carries requests in place of the network, for tests.
    """

    url: str
    api_key: SecretStr | None
    timeout_s: float
    max_concurrency: int
    transport: httpx.AsyncBaseTransport | None = None


class Answer(NamedTuple):
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: Its headers.
        body: Its bytes; of an error status, the first of them.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300  # noqa: PLR2004 (RFC 9110)

    @property
    def is_redirect(self) -> bool:
        """Whether the status sends the client elsewhere."""
        return 300 <= self.status < 400  # noqa: PLR2004 (the same)


class Channel:
    """A client and its places. It belongs to one event loop, and is made and closed there."""

    def __init__(self, link: Link) -> None:
        """Create the client; no connection is opened yet.

        Raises:
            ConfigurationError: The environment names a proxy that cannot be used.
        """
        self._url = link.url
        self.places = asyncio.Semaphore(link.max_concurrency)
        try:
            self._client = _make_client(link)
        except (ImportError, ValueError) as error:  # a proxy of an unknown kind, or one that needs a package
            kind = type(error).__name__
            raise ConfigurationError(
                f"the environment's proxy settings cannot be used ({kind}); allowed: http:// and https:// proxies"
            ) from error

    async def post(self, body: bytes, *, max_bytes: int) -> Answer:
        """Send a JSON body and read the answer.

        Args:
            body: The request.
            max_bytes: Bytes of a good answer at most.

        Raises:
            httpx.HTTPError: There was no answer, or not all of it.
            OversizedError: The answer is longer, or compressed, which nobody asked for.
        """
        async with self._client.stream("POST", self._url, content=body) as response:
            is_good = response.is_success
            if is_good and response.headers.get("content-encoding", "identity").lower() != "identity":
                raise OversizedError("is compressed, which was not asked for")
            parts = bytearray()
            async for part in response.aiter_raw():
                parts += part
                if is_good and len(parts) > max_bytes:
                    raise OversizedError(f"is longer than {max_bytes} bytes")
                if not is_good and len(parts) > _MAX_ERROR_BYTES:
                    break
            return Answer(response.status_code, response.headers, bytes(parts))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _make_client(link: Link) -> httpx.AsyncClient:
    host = urlsplit(link.url).hostname or ""
    bracketed = f"[{host}]" if ":" in host else host
    return httpx.AsyncClient(
        headers=_headers(link.api_key),
        timeout=httpx.Timeout(None, connect=min(_CONNECT_S, link.timeout_s)),  # the caller bounds the whole
        limits=httpx.Limits(
            max_connections=link.max_concurrency, max_keepalive_connections=link.max_concurrency
        ),
        follow_redirects=False,
        transport=link.transport,
        mounts={f"all://{bracketed}": None} if link.transport is None and _is_here(host) else None,
    )


def _headers(api_key: SecretStr | None) -> dict[str, str]:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",  # so that the bytes that are counted are the bytes that are parsed
        "Content-Type": "application/json",
        "User-Agent": f"qwen-rerank-plugins/{_version()}",
    }
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key.get_secret_value()}"
    return headers


def _version() -> str:
    try:
        return version("qwen-rerank-plugins")
    except PackageNotFoundError:  # run from a folder that was not installed
        return "0"


def _is_here(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
