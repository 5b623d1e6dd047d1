"""The service speaks TLS with a certificate, and reports an invalid one before it listens."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from qwen_rerank_plugins import ConfigurationError, RerankConfig
from qwen_rerank_plugins.service.server.server import make_server
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.service.servers import running_service, wait_for


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A self-signed certificate for localhost, and its key."""
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    command = ("openssl", "req", "-x509", *kind, "-days", "2", *subject, "-out", cert, "-keyout", key)
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.mark.loopback
def test_a_request_over_tls_is_ranked_and_plain_http_is_not(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    trusted = ssl.create_default_context(cafile=cert)
    with running_service(tls_cert=cert, tls_key=key, wait=False) as running:
        wait_for(lambda: running.service.is_ready)
        with httpx.Client(verify=trusted, trust_env=False) as client:
            url = running.base_url.replace("http:", "https:")
            answer = client.post(f"{url}/rerank", json={"query": "fox", "documents": ["a", "a fox"]})
            assert answer.json()["results"][0]["index"] == 1
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{running.base_url}/health", trust_env=False)


def test_an_unusable_certificate_is_a_configuration_error(
    certificate: tuple[str, str], tmp_path: Path
) -> None:
    cert, key = certificate
    for settings in (
        ServiceSettings(tls_cert=str(tmp_path / "none.pem")),
        ServiceSettings(tls_cert=cert),
        ServiceSettings(tls_cert=key, tls_key=cert),
    ):
        with pytest.raises(ConfigurationError, match="certificate in tls_cert"):
            make_server(RerankConfig(backend="lexical"), settings, configure_logging=False)
