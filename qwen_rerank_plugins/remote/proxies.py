"""Finds the proxy of a URL in the environment. Opens no connection, and knows no HTTP client.

httpx builds a transport for every proxy of the environment, those of other schemes and of excluded hosts included, so
that one unusable variable fails every client. Here the one proxy that a URL needs is looked up, with its variable.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies

__all__ = ["EnvironmentProxy", "find_proxy"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_ENTRY = re.compile(
    r"(\[.+\]|[^:]+|.*:.*:.*?)(?::(\d+))?"
)  # the third form is an IPv6 address without brackets
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class EnvironmentProxy:
    """A proxy of the environment.

    Attributes:
        url: Its address, which may contain credentials.
        variable: Name of the variable that holds the address.
    """

    url: str
    variable: str

    @property
    def scheme(self) -> str:
        """Scheme of the address, in lower case."""
        return self.url.partition("://")[0].lower()


def find_proxy(url: str) -> EnvironmentProxy | None:
    """Return the proxy for a URL, or None for a direct connection.

    `HTTPS_PROXY` or `HTTP_PROXY`, by the scheme of the URL, comes before `ALL_PROXY`; a name in lower case comes
    before the same name in upper case. A host on this machine or in `NO_PROXY` is reached directly.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    proxies = getproxies()
    name = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    if name is None or _is_this_machine(host) or _is_excluded(host, port, proxies.get("no", "")):
        return None
    address = proxies[name] if "://" in proxies[name] else f"http://{proxies[name]}"
    names = sorted((key for key in os.environ if key.lower() == f"{name}_proxy"), reverse=True)
    return EnvironmentProxy(address, names[0] if names else "proxy settings of the system")


def _is_excluded(host: str, port: int, entries: str) -> bool:
    """Whether `NO_PROXY` lists a host: as `*`, a domain above it, an address or a network, without or with its port."""
    for entry in re.split(r"[\s,]+", entries.lower()):
        match = _ENTRY.fullmatch(entry)
        if entry == "*" or (match and match[2] in {None, str(port)} and _matches(host, match[1].strip("[]"))):
            return True
    return False


def _matches(host: str, name: str) -> bool:
    address = _parse_address(host)
    if address is None:
        domain = name.removeprefix("*").strip(".")
        return domain != "" and f".{host}".endswith(f".{domain}")
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _parse_address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _parse_address(host: str) -> _Address | None:
    """Return a host as an IP address, as the operating system reads it (`127.1`, `::ffff:127.0.0.1`), or None."""
    try:
        if ":" not in host:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        six = ipaddress.IPv6Address(host)
    except (OSError, ValueError):
        return None
    return six.ipv4_mapped or six
