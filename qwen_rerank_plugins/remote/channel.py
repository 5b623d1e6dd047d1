"""The HTTP client: posts a body and returns the status and a bounded answer. Knows no dialect and does not retry.

Proxies are taken from the environment. A service on this machine is never reached through one, so that texts do not
leave the machine. TLS certificates are always verified.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import httpx
from pydantic import SecretStr

from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.remote.proxies import EnvironmentProxy, find_proxy

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
        ca_file: PEM file of the trusted certificate authorities; None for those of the environment, or certifi's.
        transport: Replaces the network in tests.
    """

    url: str
    api_key: SecretStr | None
    timeout_s: float
    max_concurrency: int
    ca_file: str | None = None
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
            ConfigurationError: The proxy of the environment cannot be used, or the certificates cannot be read.
        """
        self._url = config.url
        self.slots = asyncio.Semaphore(config.max_concurrency)
        self._client = _create_client(config)

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
    context = _create_ssl_context(config.ca_file)
    found = None if config.transport is not None else find_proxy(config.url)
    proxy_context = context if found is not None and found.scheme == "https" else None
    connect_s = min(_CONNECT_S, config.timeout_s)
    slots = config.max_concurrency
    try:
        return httpx.AsyncClient(
            headers=_headers(config.api_key),
            verify=context,
            timeout=httpx.Timeout(None, connect=connect_s),  # the caller bounds the whole call
            limits=httpx.Limits(max_connections=slots, max_keepalive_connections=slots),
            follow_redirects=False,
            transport=config.transport,
            proxy=None if found is None else httpx.Proxy(found.url, ssl_context=proxy_context),
            trust_env=False,  # a proxy for another host or scheme must not make this client fail
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        if found is None:
            raise
        raise ConfigurationError(_unusable_proxy(found, error)) from None


def _unusable_proxy(proxy: EnvironmentProxy, error: Exception) -> str:
    """Return why a proxy cannot be used. The address is not shown, because it may contain a password."""
    if isinstance(error, ImportError):
        reason = f"needs another package: {proxy.scheme}://"
        advice = "run `pip install 'httpx[socks]'`"
    else:
        reason = f"is not a valid http, https, socks5 or socks5h address: {proxy.scheme}://"
        advice = "correct it"
    return f"the proxy in {proxy.variable} {reason}...; {advice}, or add the service's host to NO_PROXY"


def _create_ssl_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context() if ca_file is None else ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # SSLError is one
        name = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "certifi")
        place = f"{name}: {os.environ.get(name)!r}" if ca_file is None else f"ca_file: {ca_file!r}"
        reason = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigurationError(f"cannot read the trusted certificates of {place}: {reason}") from None


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
