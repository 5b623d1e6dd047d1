"""Routes, headers, pages and the OpenAPI description."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins import RerankConfig
from qwen_rerank_plugins.recipe import REPAIRED_TEXT
from qwen_rerank_plugins.service import ui
from qwen_rerank_plugins.service.api.docs_page import docs_page
from qwen_rerank_plugins.service.api.routes import RANKING_PATHS
from qwen_rerank_plugins.service.app import create_app
from qwen_rerank_plugins.service.errors import STATUSES, Problem
from qwen_rerank_plugins.service.jobs.openapi import JOB_STATUSES
from qwen_rerank_plugins.service.schemas.dialect import Route
from qwen_rerank_plugins.service.ui import MEDIA_TYPES, PAGE_HEADERS, PageFiles
from tests.service.doubles import SteeredScorer
from tests.service.schemas.test_json_codec import assert_problem
from tests.service.servers import RunningService, running_service

RERANK = {"query": "blue whale", "documents": ["a red fox", "the blue whale"]}
DASHSCOPE = {"model": "m", "input": RERANK}
SCORE = {"text_1": "blue whale", "text_2": ["a red fox", "the blue whale"]}
BODIES = {Route.RERANK: RERANK, Route.SCORE: SCORE, Route.DASHSCOPE: DASHSCOPE}
RANKING = [(path, BODIES[route]) for route, paths in RANKING_PATHS.items() for path in paths]
UI = Path(ui.__file__).parent
PLAIN = ("/info", "/v1/models", "/api/v1/models", "/health", "/ping", "/ready", "/metrics", "/meta")


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service() as running:
        yield running


@pytest.mark.loopback
@pytest.mark.parametrize(("path", "body"), RANKING, ids=[path for path, _ in RANKING])
def test_every_ranking_address_ranks(service: RunningService, path: str, body: dict[str, Any]) -> None:
    with service.client() as client:
        for spelling in (path, f"/{path}", f"{path}/"):
            answer = client.post(f"{service.base_url}{spelling}", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "application/json"
            assert answer.text.isascii()
        assert client.get(path).status_code == 405


@pytest.mark.loopback
def test_the_best_document_comes_first(service: RunningService) -> None:
    answer = service.rank("blue whale", ["a red fox", "the blue whale", "whale"]).json()
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9
    assert scores[2] < 0.1


@pytest.mark.loopback
@pytest.mark.parametrize(
    "path", [*PLAIN, "/", "/docs", "/openapi.json", "/nothing", "/static/nothing.js", "/rerank"]
)
def test_every_answer_carries_the_headers_of_safety_and_an_id(service: RunningService, path: str) -> None:
    with service.client() as client:
        for method in ("GET", "HEAD"):
            answer = client.request(method, path, headers={"X-Request-Id": "my.id-1"})
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "access-control-allow-origin" not in answer.headers
            assert "server" not in answer.headers
            assert answer.headers["x-request-id"] == "my.id-1"


@pytest.mark.loopback
@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "id\tid", "<script>", "\u00e9"])
def test_an_indecent_request_id_is_replaced(service: RunningService, given: str) -> None:
    with service.client() as client:
        answer = client.get("/health", headers=[(b"X-Request-Id", given.encode("latin-1"))])
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.loopback
def test_unknown_addresses_and_methods_are_answered_in_the_usual_form(service: RunningService) -> None:
    with service.client() as client:
        problem = assert_problem(client.get("/nothing"), 404)
        assert problem["message"] == "not found: no such address; see /docs for all addresses"
        assert_problem(client.post("/v3/rerank", json=RERANK), 404)
        answer = client.delete("/rerank")
        assert assert_problem(answer, 405)["message"] == "method not allowed: DELETE; use POST"
        assert answer.headers["allow"] == "POST"
        answer = client.options("/rerank")
        assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
        head = client.head("/health")
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.loopback
def test_info_has_the_fields_that_dify_reads_and_no_folder(service: RunningService) -> None:
    with service.client() as client:
        info = client.get("/info").json()
        assert client.get("/v1/models").json()["data"][0]["id"] == "lexical"
        assert client.get("/meta").json()["model"] == "lexical"
        assert client.get("/.well-known/ready").status_code == 204
        assert client.get("/.well-known/live").status_code == 204
        assert client.get("/ready").json() == {"status": "ready", "model": "lexical", "demo": False}
    assert list(info["model_type"]) == ["reranker"]
    assert info["max_input_length"] == 8192
    assert (info["ready"], info["state"], info["is_demo"], info["device"]) == (True, "ready", False, "cpu")
    assert info["limits"]["max_documents"] == 1000


@pytest.mark.loopback
def test_info_shows_the_reason_of_a_self_check_without_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that raised has no `max_abs_diff`; the service is ready all the same."""
    check = {"passed": False, "max_abs_diff": None, "reason": "RuntimeError"}
    scorer = SteeredScorer()
    monkeypatch.setattr(scorer, "info", lambda: {"model": "steered", "device": "cpu", "self_check": check})
    with running_service(scorer=scorer) as running, running.client() as client:
        assert client.get("/info").json()["self_check"] == check
        assert client.get("/ready").status_code == 200


@pytest.mark.loopback
def test_information_about_the_machine_is_not_public(tmp_path: Path) -> None:
    scorer = SteeredScorer()
    scorer.model = str(tmp_path / "my-model")
    with running_service(scorer=scorer) as running, running.client() as client:
        for path in PLAIN:
            answer = client.get(path)
            assert "secret" not in answer.text
            assert str(tmp_path) not in answer.text
        assert client.get("/info").json()["model"] == "my-model"


@pytest.mark.loopback
def test_info_says_what_was_loaded_without_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = SteeredScorer()
    adapters = [
        {"model": str(tmp_path / "law"), "revision": None, "weight": 0.5, "base": str(tmp_path)},
        {"model": "org/medicine", "revision": "0a0a", "weight": 1.0, "base": "org/base"},
    ]
    loaded = {"model": "steered", "device": "cpu", "weight_format": "GGUF Q8_0", "adapters": adapters}
    monkeypatch.setattr(scorer, "info", lambda: loaded)
    with running_service(scorer=scorer) as running, running.client() as client:
        answer = client.get("/info")
    assert answer.json()["weight_format"] == "GGUF Q8_0"
    assert answer.json()["adapters"] == [
        {"model": "law", "weight": 0.5},
        {"model": "org/medicine", "weight": 1.0},
    ]
    assert str(tmp_path) not in answer.text


@pytest.mark.loopback
def test_a_strict_service_knows_only_its_own_model() -> None:
    with running_service(strict_model=True, model_name="served") as running:
        for model in (None, "served"):
            assert running.rank(model=model).json()["model"] == "served"
        assert "'served'" in assert_problem(running.rank(model="rerank-v3.5"), 404)["message"]


@pytest.mark.loopback
@pytest.mark.parametrize(
    ("header", "priority"),
    [
        (None, "interactive"),
        ("u=7", "background"),
        ("i, u=7", "background"),
        ("u=7, i", "background"),
        ("u=7;x=1", "background"),
        ("u=1", "interactive"),
        ("u=77", "interactive"),
        ("nu=7", "interactive"),
        ("7", "interactive"),
    ],
)
def test_the_standard_header_puts_a_request_behind_all_others(header: str | None, priority: str) -> None:
    body = {"query": "fox", "documents": ["fox"]}
    for honored in (True, False):
        scorer = SteeredScorer()
        with running_service(scorer=scorer, honor_priority=honored) as running, running.client() as client:
            answer = client.post("/rerank", json=body, headers={} if header is None else {"Priority": header})
        assert answer.status_code == 200
        assert scorer.priorities[-1] == (priority if honored else "interactive")


@pytest.mark.loopback
def test_any_other_service_takes_every_name_and_answers_with_its_own(service: RunningService) -> None:
    assert service.rank(model="rerank-v3.5").json()["model"] == "lexical"


@pytest.mark.loopback
def test_a_document_that_would_be_cut_is_named_if_the_client_wants_that() -> None:
    body = {"query": "fox", "texts": ["fox", "a very long story of a fox"], "truncate": False}
    with running_service(scorer=SteeredScorer(max_chars=10)) as running, running.client() as client:
        problem = assert_problem(client.post("/rerank", json=body), 422)
        assert "document 1" in problem["message"]
        assert "story" not in problem["message"]
        assert client.post("/rerank", json={**body, "truncate": True}).status_code == 200


@pytest.mark.loopback
def test_web_pages_of_others_are_let_in_only_by_name() -> None:
    preflight = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    with running_service(cors_origins=("https://a.example",)) as running, running.client() as client:
        answer = client.options("/rerank", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        answer = client.options("/rerank", headers={**preflight, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in answer.headers


# Pages and files.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    for name in ("index.html", "parts/a.js", "b.css", ".hidden.js", "_private.js", "notes.py", "c.unknown"):
        (tmp_path / name).write_text(f"content of {name}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", ["index.html", "parts/a.js", "b.css"])
def test_a_file_of_a_known_kind_is_served(folder: Path, name: str) -> None:
    full_path, status = PageFiles(folder).lookup_path(name)
    assert (full_path, status is not None) == (str(folder / name), True)


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.js",
        "_private.js",
        "notes.py",
        "c.unknown",
        "parts",
        "../outside.css",
        "parts/../../outside.css",
    ],
)
def test_hidden_files_other_kinds_and_files_outside_the_folder_are_not_served(
    folder: Path, name: str
) -> None:
    (folder.parent / "outside.css").touch()
    assert PageFiles(folder).lookup_path(name) == ("", None)


def test_a_folder_whose_files_are_links_is_served(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Some installers link a package's files to a cache."""
    installed = tmp_path_factory.mktemp("installed")
    (installed / "b.css").symlink_to(folder / "b.css")
    assert PageFiles(installed).lookup_path("b.css")[1] is not None


@pytest.mark.loopback
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "index.html"),
        ("/favicon.ico", "favicon.svg"),
        ("/docs.css", "docs.css"),
        *((f"/static/{file.name}", file.name) for file in sorted(UI.iterdir()) if file.suffix in MEDIA_TYPES),
    ],
)
def test_each_file_of_the_workbench_has_its_type_and_is_sent_again_only_if_it_changed(
    service: RunningService, path: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type does not depend on the machine. A 304 carries the policy too, since browsers update stored headers."""
    monkeypatch.setattr("starlette.responses.guess_type", lambda *_: ("application/octet-stream", None))
    with service.client() as client:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.content == (UI / name).read_bytes()
        assert answer.headers["content-type"] == MEDIA_TYPES[Path(name).suffix]
        again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for one in (answer, again):
            assert {key: one.headers[key] for key in PAGE_HEADERS} == PAGE_HEADERS


@pytest.mark.loopback
@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/hostname", "parts", ""])
def test_nothing_outside_the_folder_is_reached(service: RunningService, name: str) -> None:
    with service.client() as client:
        assert client.get(f"/static/{name}").status_code == 404


# The description.


def document() -> dict[str, Any]:
    return create_app(RerankConfig(backend="lexical")).openapi()


def test_the_description_names_every_address_but_pages() -> None:
    found: list[Any] = list(create_app(RerankConfig(backend="lexical")).routes)
    pages = {"/", "/favicon.ico", "/static/{name:path}", "/docs", "/docs.css", "/openapi.json"}
    paths = {route.path.replace("{id:path}", "{id}") for route in found}
    assert paths - set(document()["paths"]) == pages


def test_the_description_has_every_status_of_every_ranking_address() -> None:
    described = document()
    for path, _ in RANKING:
        operation = described["paths"][path]["post"]
        assert {int(status) for status in operation["responses"]} == {200, *STATUSES} - {*JOB_STATUSES}
        assert operation["requestBody"]["required"]
    ids = [
        operation["operationId"] for methods in described["paths"].values() for operation in methods.values()
    ]
    assert len(set(ids)) == len(ids)


def test_every_reference_of_the_description_leads_somewhere() -> None:
    described = document()
    targets = set(re.findall(r"'#/([\w/]+)'", str(described)))
    assert len(targets) > len(STATUSES)
    for target in targets:
        found: Any = described
        for key in target.split("/"):
            found = found[key]


def test_a_service_with_keys_says_that_it_wants_one(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("k", encoding="utf-8")
    app = create_app(RerankConfig(backend="lexical", service={"api_keys_file": str(tmp_path / "keys")}))
    assert app.openapi()["security"] == [{"key": []}]
    assert document()["security"] == [{}, {"key": []}]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in {"href", "src"} and value]


@pytest.mark.loopback
def test_the_documentation_page_needs_nothing_from_elsewhere(service: RunningService) -> None:
    with service.client() as client:
        page = client.get("/docs")
        parser = _Links()
        parser.feed(page.text)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert not parser.tags & {"style", "iframe", "img"}
        assert (
            page.text.count("<script") == page.text.count('<script type="module" src="static/docs.js">') == 1
        )
        assert not [link for link in parser.links if ":" in link or link.startswith("//")]
        for link in {link for link in parser.links if not link.startswith(("#", "./"))}:
            assert client.get(f"/{link}").status_code == 200, link
        for path, _ in RANKING:
            assert path in page.text


@pytest.mark.parametrize("status", STATUSES)
def test_the_type_of_an_error_is_the_address_of_its_row_in_the_documentation_page(status: int) -> None:
    page = docs_page(document())
    anchor = Problem(status, "what was wrong").body("id-1")["type"].removeprefix("/docs#")
    assert page.count(f'id="{anchor}"') == 1
    row = page.partition(f'<tr id="{anchor}">')[2].partition("</tr>")[0]
    texts = [html.unescape(re.sub("<.*?>", "", cell)) for cell in row.split("</td>")]
    known = STATUSES[status]
    assert texts[:4] == [str(status), known.code, *(text.replace("`", "") for text in known[2:])]


class _Commands(HTMLParser):
    """The commands of a page's examples, as words."""

    def __init__(self) -> None:
        super().__init__()
        self.is_command = False
        self.commands: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.is_command = tag == "pre"

    def handle_data(self, data: str) -> None:
        if self.is_command and data.startswith("curl"):
            self.commands.append(shlex.split(data))


def commands_of(page: str) -> list[list[str]]:
    parser = _Commands()
    parser.feed(page)
    return parser.commands


@pytest.mark.loopback
def test_every_command_of_the_documentation_page_works(service: RunningService) -> None:
    with service.client() as client:
        commands = commands_of(client.get("/docs").text)
        dialects = 0
        for command in commands:
            url = command[2].replace("http://localhost:8501", service.base_url)
            if "--data-binary" in command:
                assert client.post(url, content=b"a file").is_success, command
                continue
            if "-d" not in command:
                assert client.get(url).is_success, command
                continue
            dialects += 1
            headers = {"Content-Type": command[command.index("-H") + 1].removeprefix("Content-Type: ")}
            answer = client.post(url, content=command[command.index("-d") + 1], headers=headers)
            assert answer.status_code == 200, (command, answer.text)
        paths = {command[2].removeprefix("http://localhost:8501") for command in commands}
        assert paths == {path.replace("{id}", "ID") for path in document()["paths"]}
        # Each of the eight rerank addresses takes seven dialects.
        assert dialects == 10 * 7 + 4 + 1


def test_commands_name_the_key_that_a_service_requires_and_the_file_of_a_job(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("k", encoding="utf-8")
    settings = {"api_keys_file": str(tmp_path / "keys"), "jobs_folder": str(tmp_path / "jobs")}
    app = create_app(RerankConfig(backend="lexical", service=settings))
    commands = {command[2].partition("8501")[2]: command for command in commands_of(docs_page(app.openapi()))}
    assert "Authorization: Bearer $API_KEY" in commands["/v1/rerank"]
    assert "Authorization: Bearer $API_KEY" not in commands["/health"]
    assert commands["/v1/jobs/ID"][3:5] == ["-X", "DELETE"]
    app.state.service.close()


def test_tracing_wraps_the_app_and_asks_for_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen_rerank_plugins import MissingDependencyError

    config = RerankConfig(backend="lexical", service={"tracing": True})
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.instrumentation.asgi", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'qwen-rerank-plugins\[otel\]'"):
        create_app(config)


@pytest.mark.loopback
def test_a_traced_request_is_a_span_without_its_text() -> None:
    """In a process of its own: a tracer provider is set once and for all."""
    from tests.laws.sources import run_fresh

    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.service.servers import running_service

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
with running_service(tracing=True) as running:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with running.client(headers={"traceparent": parent}) as client:
        assert client.post("/v1/rerank", json={"query": "sesame", "documents": ["sesame"]}).status_code == 200
(span,) = spans.get_finished_spans()
assert format(span.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c", span
assert "/v1/rerank" in span.to_json() and "sesame" not in span.to_json(), span.to_json()
print("good")
"""
    ran = run_fresh(code)
    assert ran.stdout.strip() == "good", ran.stderr


@pytest.mark.loopback
def test_traces_go_to_the_collector_that_the_environment_names() -> None:
    from tests.laws.sources import run_fresh

    code = """
import os, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

received = []

class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *rest):
        pass

collector = HTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=collector.serve_forever, daemon=True).start()
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.server_address[1]}"
os.environ["NO_PROXY"] = "*"
from opentelemetry import trace
from tests.service.servers import running_service

with running_service(tracing=True) as running:
    assert running.rank("sesame", ["sesame"]).status_code == 200
    trace.get_tracer_provider().force_flush()
(path, body), = received
assert path == "/v1/traces" and b"/v1/rerank" in body and b"qwen-rerank" in body and b"sesame" not in body
print("good")
"""
    ran = run_fresh(code)
    assert ran.stdout.strip() == "good", ran.stderr


@pytest.mark.loopback
def test_half_an_emoji_is_repaired_and_the_answer_says_so(service: RunningService) -> None:
    body = b'{"query":"fox","documents":["ok","a fox \\ud83d"]}'
    headers = {"Content-Type": "application/json"}
    with service.client() as client:
        answer = client.post("/rerank", content=body, headers=headers)
        many = client.post(
            "/rerank", content=body.replace(b'"query":"fox"', b'"queries":["fox"]'), headers=headers
        )
        plain = client.post("/rerank", json={"query": "fox", "documents": ["ok"]})
        metrics = client.get("/metrics").text
    assert answer.status_code == many.status_code == 200
    assert answer.json()["results"][0]["index"] == 1
    assert answer.json()["meta"]["warnings"] == many.json()["warnings"] == [REPAIRED_TEXT]
    assert answer.headers["x-rerank-warnings"] == REPAIRED_TEXT
    assert "warnings" not in plain.json()["meta"]
    assert "x-rerank-warnings" not in plain.headers
    assert f'rerank_text_warnings_total{{warning="{REPAIRED_TEXT}"}}' in metrics
