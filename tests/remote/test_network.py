"""How a service is reached: through which proxy, and with which certificates."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from qwen_rerank_plugins import ConfigurationError, RemoteConnectionError, RerankConfig, ScoreRequest
from qwen_rerank_plugins.remote import RemoteScorer
from qwen_rerank_plugins.remote.proxies import EnvironmentProxy, find_proxy
from tests.remote import servers
from tests.remote.servers import serving

ELSEWHERE = "http://service.test:8501"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "socksio", None)  # as without the extra


def call(base_url: str, **settings: Any) -> float:
    values = {"backend": "remote", "base_url": base_url, "retries": 0, **settings}
    scorer = RemoteScorer(RerankConfig.model_validate(values))
    try:
        return scorer.score([ScoreRequest("q", "0.5")])[0].relevance_score
    finally:
        scorer.close()


def refusal(base_url: str, **settings: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        call(base_url, **settings)
    assert caught.value.__cause__ is None, "a cause may show a password"
    return str(caught.value)


# Proxies.


@pytest.mark.loopback
@pytest.mark.parametrize(
    "address",
    [
        "{proxy}",
        "socks5://127.0.0.1:9",
        "socks5h://127.0.0.1:9",
        "socks://127.0.0.1:9",
        "socks4://127.0.0.1:9",
        "ftp://proxy.test",
        "http://[bad",
        "127.0.0.1:9",
    ],
)
@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY"])
def test_a_service_on_this_machine_is_never_asked_through_a_proxy_usable_or_not(
    monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    with serving("qwen") as proxy, serving("qwen") as service:
        monkeypatch.setenv(name, address.format(proxy=proxy.url))
        assert call(service.url) == 0.5
        assert (len(proxy.seen), len(service.seen)) == (0, 1)


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("localhost.", True),
        ("api.localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("127.1", True),
        ("0.0.0.0", True),  # noqa: S104 (an address to connect to)
        ("[::1]", True),
        ("[0:0:0:0:0:0:0:1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("[::]", True),
        ("service.test", False),
        ("localhost.example.test", False),
        ("notlocalhost", False),
        ("127.0.0.1.example.test", False),
        ("10.0.0.1", False),
        ("[::2]", False),
        ("[fd00::1]", False),
    ],
)
def test_this_machine_is_known_by_its_names_and_addresses(
    monkeypatch: pytest.MonkeyPatch, host: str, here: bool
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.test")
    assert (find_proxy(f"http://{host}:8501/rerank") is None) is here


@pytest.mark.parametrize(
    ("variables", "url", "used"),
    [
        ({"HTTP_PROXY": "http://a"}, "http://h", "HTTP_PROXY"),
        ({"HTTP_PROXY": "http://a"}, "https://h", None),
        ({"HTTPS_PROXY": "http://a", "HTTP_PROXY": "http://b"}, "https://h", "HTTPS_PROXY"),
        ({"ALL_PROXY": "http://a", "HTTP_PROXY": "http://b"}, "http://h", "HTTP_PROXY"),
        ({"ALL_PROXY": "http://a", "HTTP_PROXY": "http://b"}, "https://h", "ALL_PROXY"),
        ({"http_proxy": "http://a", "HTTP_PROXY": "http://b"}, "http://h", "http_proxy"),
        ({"HTTP_PROXY": ""}, "http://h", None),
        ({"HTTPS_PROXY": "http://a", "NO_PROXY": "h:443"}, "https://h", None),
        ({"HTTPS_PROXY": "http://a", "NO_PROXY": "h:80"}, "https://h", "HTTPS_PROXY"),
        ({}, "http://h", None),
    ],
)
def test_the_variable_of_the_scheme_comes_before_the_one_for_all(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, used: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    wanted = None if used is None else EnvironmentProxy(variables[used], used)
    assert find_proxy(url) == wanted


@pytest.mark.parametrize(
    ("no_proxy", "host", "excluded"),
    [
        ("service.test", "service.test", True),
        ("SERVICE.test", "Service.Test", True),
        ("service.test.", "service.test", True),
        ("test", "service.test", True),
        (".test", "service.test", True),
        ("*.test", "service.test", True),
        ("*", "service.test", True),
        ("other.test, *", "service.test", True),
        ("other.test service.test", "service.test", True),
        ("service.test:8501", "service.test", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.9.9.9/8", "10.1.2.3", True),
        ("fd00::/8", "[fd00::1]", True),
        ("fd00::1", "[fd00::1]", True),
        ("[fd00::1]:8501", "[fd00::1]", True),
        ("ervice.test", "service.test", False),
        ("api.service.test", "service.test", False),
        ("service.test:80", "service.test", False),
        ("[fd00::1]:80", "[fd00::1]", False),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "[fd00::1]", False),
        ("10.0.0", "10.0.0.1", False),
        ("1", "10.0.0.1", False),
        (" , ,.", "service.test", False),
    ],
)
def test_hosts_in_no_proxy_are_reached_directly(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, excluded: bool
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.test")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (find_proxy(f"http://{host}:8501/rerank") is None) is excluded


@pytest.mark.loopback
@pytest.mark.parametrize("with_scheme", [True, False])
def test_a_service_elsewhere_is_asked_through_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, with_scheme: bool
) -> None:
    """A proxy for another scheme does not matter, even one that cannot be used."""
    with serving("qwen") as proxy:
        proxy.always = servers.content(b'{"results": [{"index": 0, "relevance_score": 0.5}]}')
        monkeypatch.setenv("http_proxy", proxy.url if with_scheme else proxy.url.removeprefix("http://"))
        monkeypatch.setenv("https_proxy", "socks5://proxy.test")
        monkeypatch.setenv("all_proxy", "socks5://proxy.test")
        assert call(ELSEWHERE) == 0.5
        assert [seen.path for seen in proxy.seen] == [f"{ELSEWHERE}/rerank"]


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS5"])
def test_without_the_extra_a_socks_proxy_is_refused_with_its_variable_and_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    monkeypatch.setenv(name, f"{scheme}://user:s3cret@proxy.test:1080")
    assert refusal(ELSEWHERE) == (
        f"the proxy in {name} needs another package: socks5{'h' * scheme.endswith('h')}://...; "
        "run `pip install 'httpx[socks]'`, or add the service's host to NO_PROXY"
    )


@pytest.mark.parametrize(
    "address", ["ftp://u:s3cret@proxy.test", "socks4://s3cret", "http://s3cret:port", "://s3cret"]
)
def test_a_proxy_that_cannot_be_used_is_refused_with_its_variable_and_without_its_address(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("http_proxy", address)
    message = refusal(ELSEWHERE)
    assert "the proxy in http_proxy is not a valid http, https, socks5 or socks5h address" in message
    assert "s3cret" not in message


# Certificates.


class Authority:
    """A certificate authority of a company, and the context of a server with a certificate from it."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name("A company's authority")
        certificate = self._sign(self._name, self._key.public_key())
        self.file = folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key = ec.generate_private_key(ec.SECP256R1())
        served = self._sign(_name("service"), key.public_key(), host)
        files = folder / "cert.pem", folder / "key.pem"
        files[0].write_bytes(served.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        plain = serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(*files)

    def _sign(self, name: x509.Name, key: Any, host: str | None = None) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        day = dt.timedelta(days=1)
        builder = x509.CertificateBuilder(
            self._name, name, key, x509.random_serial_number(), now - day, now + day
        )
        constraints = x509.BasicConstraints(ca=host is None, path_length=None)
        builder = builder.add_extension(constraints, critical=True)
        if host is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.loopback
@pytest.mark.parametrize("by_environment", [False, True])
def test_a_service_with_a_certificate_of_a_company_s_own_authority_is_reached(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    with serving("qwen", tls=authority.server) as service:
        if by_environment:
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
            assert call(service.url) == 0.5
        else:
            monkeypatch.setenv("SSL_CERT_FILE", "/none.pem")  # the setting replaces it
            assert call(service.url, ca_file=authority.file) == 0.5


@pytest.mark.loopback
def test_a_certificate_is_verified_unless_its_authority_is_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "127.0.0.2")
    with serving("qwen", tls=authority.server) as service:
        for settings in ({}, {"ca_file": other.file}):
            with pytest.raises(RemoteConnectionError, match="; set ca_file to the PEM file of the authority"):
                call(service.url, **settings)
        assert service.seen == [], "nothing was sent"
    with serving("qwen", tls=other.server) as service:
        with pytest.raises(RemoteConnectionError, match=r"certificate is not valid for '127\.0\.0\.1'"):
            call(service.url, ca_file=other.file)
        assert service.seen == [], "nothing was sent"


@pytest.mark.loopback
def test_the_certificate_of_an_https_proxy_is_verified_in_the_same_way(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving("qwen", tls=authority.server) as proxy:
        proxy.always = servers.content(b'{"results": [{"index": 0, "relevance_score": 0.5}]}')
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(RemoteConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            call(ELSEWHERE)
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(RemoteConnectionError, match="ProxyError: 501 Unsupported method"):
            call("https://service.test", ca_file=authority.file)  # the double takes no CONNECT
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        assert call(ELSEWHERE) == 0.5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "it holds no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it holds no PEM certificate"),
        (b"\x30\x82\x00", "it holds no PEM certificate"),
    ],
)
@pytest.mark.parametrize("by_environment", [False, True])
def test_a_file_of_certificates_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str, by_environment: bool
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    settings: dict[str, Any] = {} if by_environment else {"ca_file": path}
    if by_environment:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    place = f"{'SSL_CERT_FILE' if by_environment else 'ca_file'}: {str(path)!r}"
    assert refusal("https://service.test", **settings) == (
        f"cannot read the trusted certificates of {place}: {reason}"
    )


def test_a_folder_is_no_file_of_certificates(tmp_path: Path) -> None:
    assert "cannot read the trusted certificates of ca_file: " in refusal(
        ELSEWHERE.replace("http", "https"), ca_file=tmp_path
    )
