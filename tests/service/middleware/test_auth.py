"""With a key set, only the listed routes are open, and every way of sending a key works."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from qwen_rerank_plugins import ConfigurationError, RerankConfig
from qwen_rerank_plugins.service.app import create_app
from qwen_rerank_plugins.service.middleware import auth
from qwen_rerank_plugins.service.middleware.auth import AllowedHosts, KeyRing, is_open
from qwen_rerank_plugins.service.settings import ServiceSettings, read_keys
from tests.service.schemas.test_json_codec import assert_problem
from tests.service.servers import RunningService, running_service

KEYS = ("first-key", "second-key")
OPEN = {
    "/",
    "/docs",
    "/docs.css",
    "/favicon.ico",
    "/openapi.json",
    "/health",
    "/ping",
    "/ready",
    "/static/{name:path}",
    "/.well-known/live",
    "/.well-known/ready",
}


def routes() -> list[tuple[str, str]]:
    app = create_app(RerankConfig(backend="lexical"))
    found: list[Any] = list(app.routes)
    return [(method, route.path) for route in found for method in sorted(route.methods)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text("# clients\nfirst-key\n\nsecond-key\n", encoding="utf-8")
    with running_service(api_keys_file=str(file)) as running:
        yield running


@pytest.mark.loopback
@pytest.mark.parametrize(("method", "path"), routes(), ids=lambda value: str(value))
def test_an_address_is_closed_without_a_key_unless_it_is_listed(
    service: RunningService, method: str, path: str
) -> None:
    with service.client() as client:
        answer = client.request(method, path.replace("{name:path}", "nothing.css"))
    if path in OPEN:
        assert answer.status_code != 401
    elif method == "HEAD":
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    else:
        problem = assert_problem(answer, 401)
        assert problem["message"] == "Missing or invalid API key. Send `Authorization: Bearer <key>`."
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.loopback
@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/V1/rerank",
        "//info",
        "/static/../info",
        "/static/%2e%2e/info",
        "/health/../info",
        "/info/",
    ],
)
def test_no_spelling_of_an_address_goes_round_the_key(service: RunningService, path: str) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        status = raw.recv(4096).split(b" ")[1]
    assert status in {b"401", b"404"}


@pytest.mark.loopback
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer second-key"},
        {"Authorization": "BEARER  first-key"},
        {"Authorization": "first-key"},
        {"X-API-Key": "second-key"},
        {"api-key": "second-key"},
    ],
)
def test_a_key_is_accepted_however_clients_show_it(service: RunningService, headers: dict[str, str]) -> None:
    with service.client(headers=headers) as client:
        assert client.get("/info").status_code == 200
        assert client.post("/rerank", json={"query": "a", "documents": ["a"]}).status_code == 200


@pytest.mark.loopback
@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer first-ke",
        "Bearer first-key2",
        "Basic first-key",
        "first-key second-key",
    ],
)
def test_anything_else_is_no_key(service: RunningService, value: str) -> None:
    with service.client(headers={"Authorization": value}) as client:
        assert_problem(client.get("/info"), 401)


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(left)
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    ring = KeyRing([*KEYS, "third"])
    assert ring.key_id(Headers({"authorization": "Bearer first-key"}))
    assert compared == [hashlib.sha256(key.encode()).digest() for key in (*KEYS, "third")]


def test_a_key_in_another_encoding_is_wrong_and_no_fault() -> None:
    header = Headers(raw=[(b"authorization", b"Bearer \xff\xfe")])
    assert KeyRing(KEYS).key_id(header) == ""


def test_without_keys_everybody_is_let_in() -> None:
    assert not KeyRing(())
    assert KeyRing(()).key_id(Headers({"authorization": "Bearer first-key"})) == ""


def test_keys_come_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n# not this\n  two  \n", encoding="utf-8")
    settings = ServiceSettings(api_keys_file=str(file), api_keys_env="KEYS")
    assert read_keys(settings, env={"KEYS": "three, one,"}) == ("one", "two", "three")
    assert read_keys(ServiceSettings(), env={"KEYS": "three"}) == ()


@pytest.mark.parametrize("content", ["", "\n# nothing\n", "two words\n", "schl\u00fcssel\n"])
def test_a_place_without_a_usable_key_is_an_error_and_no_open_door(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="API key"):
        create_app(RerankConfig(backend="lexical", service={"api_keys_file": str(file)}))
    with pytest.raises(ConfigurationError, match="NOT_SET"):
        create_app(RerankConfig(backend="lexical", service={"api_keys_env": "NOT_SET"}))


def test_only_probes_and_pages_are_open() -> None:
    assert {path for _, path in routes() if is_open(path)} == OPEN


LOCAL = ServiceSettings()
PUBLIC = ServiceSettings(host="0.0.0.0")  # noqa: S104 (nothing is bound)


@pytest.mark.parametrize(
    ("settings", "has_keys", "host", "accepted"),
    [
        (LOCAL, False, "localhost:8501", True),
        (LOCAL, False, "127.0.0.1:8501", True),
        (LOCAL, False, "[::1]:8501", True),
        (LOCAL, False, "LocalHost", True),
        (LOCAL, False, "app.localhost", True),
        (LOCAL, False, None, True),
        (LOCAL, False, "evil.example", False),
        (LOCAL, False, "localhost.evil.example", False),
        (LOCAL, False, "evil.notlocalhost", False),
        (LOCAL, False, "192.0.2.7", False),
        (LOCAL, False, "", False),
        (LOCAL, True, "evil.example", True),
        (PUBLIC, False, "192.0.2.7:8501", True),
        (PUBLIC, False, "[2001:db8::1]:8501", True),
        (PUBLIC, False, "reranker:8501", True),
        (PUBLIC, False, "evil.example", False),
        (PUBLIC, False, "", False),
        (LOCAL, False, "host.docker.internal:8501", True),
        (LOCAL, False, "Rerank.Default.SVC.Cluster.Local.:8501", True),
        (LOCAL, False, "laptop.local", True),
        (LOCAL, False, "my_reranker:8501", True),
        (LOCAL, False, "LOCALHOST.:8501", True),
        (LOCAL, False, "localhost:", True),
        (LOCAL, False, "[::1].evil.example", False),
        (LOCAL, False, "[::1]evil.example", False),
        (LOCAL, False, "127.0.0.1:80:evil.example", False),
        (LOCAL, False, "localhost@evil.example", False),
        (LOCAL, False, "evil.example@localhost", False),
        (LOCAL, False, "localhost/evil.example", False),
        (LOCAL, False, "localhost:80 evil.example", False),
        (LOCAL, False, "localhost..", False),
        (LOCAL, False, "[localhost]", False),
        (LOCAL, False, "evil.example.", False),
        (LOCAL, False, "evil.internal.example", False),
        (LOCAL, False, "notlocal", True),
        (LOCAL, False, "evil.notlocal", False),
        (LOCAL, False, "localhost.localdomain", True),
        (LOCAL, False, "qwen-rerank.default.svc:8501", True),
        (LOCAL, False, "nas.lan", True),
        (LOCAL, False, "rerank.home.arpa:80", True),
        (LOCAL, False, "evil.arpa", False),
        (LOCAL, False, "evilsvc.example", False),
        (PUBLIC, False, "[::ffff:192.0.2.7]:8501", True),
        (PUBLIC, False, "192.0.2.7.evil.example", False),
        (ServiceSettings(allowed_hosts=("Rank.Example.",)), False, "rank.example", True),
        (ServiceSettings(allowed_hosts=("rank.example",)), False, "host.docker.internal", False),
        (ServiceSettings(allowed_hosts=("rank.example",)), False, "rank.example:443", True),
        (ServiceSettings(allowed_hosts=("rank.example",)), True, "evil.example", False),
        (ServiceSettings(host="0.0.0.0", allowed_hosts=("rank.example",)), False, "192.0.2.7", False),  # noqa: S104
        (ServiceSettings(allowed_hosts=("*",)), False, "evil.example", True),
    ],
)
def test_a_host_name_is_accepted_if_no_stranger_s_page_can_have_it(
    settings: ServiceSettings, has_keys: bool, host: str | None, accepted: bool
) -> None:
    assert AllowedHosts(settings, has_keys=has_keys).accepts(host) is accepted


@pytest.mark.loopback
def test_a_page_that_rebinds_its_name_to_this_machine_gets_nothing() -> None:
    with running_service() as running, running.client(headers={"Host": "evil.example"}) as client:
        for path in ("/", "/health", "/info"):
            problem = assert_problem(client.get(path), 400)
            message = (
                "the host 'evil.example' is not accepted; add it to allowed_hosts (serve --allowed-hosts)"
            )
            assert problem["message"] == message


@pytest.mark.loopback
def test_the_message_has_of_a_host_only_harmless_characters_and_not_too_many() -> None:
    with running_service() as running, running.client(headers={"Host": "<b>'\"" + "e" * 500}) as client:
        message = assert_problem(client.get("/"), 400)["message"]
    assert message.startswith("the host '?b???" + "e" * 90)
    assert len(message) < 200


@pytest.mark.loopback
def test_a_prefix_that_a_proxy_keeps_is_removed_and_goes_round_no_key(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys"
    file.write_text("first-key\n", encoding="utf-8")
    key = {"Authorization": "Bearer first-key"}
    with (
        running_service(root_path="/rerank-service/", api_keys_file=str(file)) as running,
        running.client() as client,
    ):
        for prefix in ("", "/rerank-service", "//rerank-service/"):
            assert client.get(f"{prefix}/ready").status_code == 200
            refused = client.get(f"{prefix}/info")
            assert refused.status_code == 401
            assert refused.json()["type"] == "/rerank-service/docs#error-unauthorized"
            assert client.get(f"{prefix}/info", headers=key).status_code == 200
        assert client.get("/rerank-service").headers["location"] == "/rerank-service/"
        assert client.get("/rerank-service/").headers["content-type"].startswith("text/html")
        assert 'id="error-unauthorized"' in client.get("/rerank-service/docs").text
        assert client.get("/rerank-services/ready", headers=key).status_code == 404
        assert client.get("/rerank-service/rerank-service/ready", headers=key).status_code == 404


def test_the_open_list_is_no_pattern() -> None:
    assert not is_open("/health2")
    assert not is_open("/static")
    assert auth.OPEN_FOLDER.endswith("/")
