"""The HTTP client: posts a body and returns the status and a bounded answer. Knows no dialect and does not retry.

Proxies and certificates are taken from the environment, except that a service on this machine is never reached
through a proxy, so that texts do not leave the machine.
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

__all__ = ["Answer", "Channel", "ChannelConfig", "UnusableAnswerError"]

_CONNECT_S = 10.0
_MAX_ERROR_BYTES = 65_536


class UnusableAnswerError(Exception):
    """An answer is too long or compressed. The message completes a sentence that begins with "it"."""


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """Address of a service and how to connect to it.

    Attributes:
        url: URL to post to.
        api_key: Key sent as a bearer token, or None.
        timeout_s: Upper bound of the connect timeout, in seconds.
        max_concurrency: Maximum number of concurrent calls.
        transport: Replaces the network in tests.
    """

    url: str
    api_key: SecretStr | None
    timeout_s: float
    max_concurrency: int
    transport: httpx.AsyncBaseTransport | None = None


class Answer(NamedTuple):
    """An HTTP answer.

    Attributes:
        status: The HTTP status.
        headers: The headers.
        body: The body; for an error status, its first bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300  # noqa: PLR2004 (RFC 9110)

    @property
    def is_redirect(self) -> bool:
        """Whether the status is 3xx."""
        return 300 <= self.status < 400  # noqa: PLR2004 (the same)


class Channel:
    """An HTTP client with a limited number of slots. It is created, used and closed on one event loop.

    Attributes:
        slots: Held during a call, so that at most `max_concurrency` run at once.
    """

    def __init__(self, config: ChannelConfig) -> None:
        """Create the client without opening a connection.

        Raises:
            ConfigurationError: The environment names a proxy that cannot be used.
        """
        self._url = config.url
        self.slots = asyncio.Semaphore(config.max_concurrency)
        try:
            self._client = _create_client(config)
        except (ImportError, ValueError) as error:  # an unknown scheme, or one that needs another package
            kind = type(error).__name__
            raise ConfigurationError(
                f"cannot use the proxy settings of the environment ({kind}); use http:// or https:// proxies"
            ) from error

    async def post(self, body: bytes, *, max_bytes: int, headers: Mapping[str, str]) -> Answer:
        """Post a JSON body and read the answer.

        Args:
            body: The request.
            max_bytes: Maximum size of a successful answer.
            headers: Additional headers.

        Raises:
            httpx.HTTPError: The answer is missing or incomplete.
            UnusableAnswerError: The answer is longer than `max_bytes`, or compressed although not requested.
        """
        async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
            is_good = response.is_success
            if is_good and response.headers.get("content-encoding", "identity").lower() != "identity":
                raise UnusableAnswerError("is compressed, although `Accept-Encoding` is identity")
            parts = bytearray()
            async for part in response.aiter_raw():
                parts += part
                if is_good and len(parts) > max_bytes:
                    raise UnusableAnswerError(f"is longer than {max_bytes} bytes")
                if not is_good and len(parts) > _MAX_ERROR_BYTES:
                    break
            return Answer(response.status_code, response.headers, bytes(parts))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _create_client(config: ChannelConfig) -> httpx.AsyncClient:
    host = urlsplit(config.url).hostname or ""
    bracketed = f"[{host}]" if ":" in host else host
    return httpx.AsyncClient(
        headers=_headers(config.api_key),
        timeout=httpx.Timeout(
            None, connect=min(_CONNECT_S, config.timeout_s)
        ),  # the caller bounds the whole call
        limits=httpx.Limits(
            max_connections=config.max_concurrency, max_keepalive_connections=config.max_concurrency
        ),
        follow_redirects=False,
        transport=config.transport,
        mounts={f"all://{bracketed}": None} if config.transport is None and _is_loopback(host) else None,
    )


def _headers(api_key: SecretStr | None) -> dict[str, str]:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",  # so that the size limit applies to what is parsed
        "Content-Type": "application/json",
        "User-Agent": f"qwen-rerank-plugins/{_version()}",
    }
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key.get_secret_value()}"
    return headers


def _version() -> str:
    try:
        return version("qwen-rerank-plugins")
    except PackageNotFoundError:  # run from a checkout without installing
        return "0"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
