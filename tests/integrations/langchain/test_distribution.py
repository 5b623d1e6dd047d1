"""What is installed: light, typed, of the project's version, and described as it is."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import zipfile
from importlib.metadata import metadata, requires, version
from pathlib import Path

import langchain_qwen_rerank
import pytest

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent.parent / "integrations" / "langchain"
README = (HOME / "README.md").read_text(encoding="utf-8")
HEAVY = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "langchain_classic",
    "pytest",
)
REMOTE_CALL = """
import asyncio, json, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from langchain_core.documents import Document
from langchain_qwen_rerank import QwenCrossEncoder, QwenRerank, init_reranker

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        results = [{"index": n, "relevance_score": len(d) / 100} for n, d in enumerate(asked["documents"])]
        body = json.dumps({"model": "served", "results": results}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass

server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
documents = [Document("a"), Document("longer"), Document("longest of all")]
with QwenRerank(backend="remote", base_url=url, dialect="cohere", top_n=2) as rerank:
    blocking = [d.page_content for d in rerank.compress_documents(documents, "q")]
    awaited = [d.page_content for d in asyncio.run(rerank.acompress_documents(documents, "q"))]
assert blocking == awaited == ["longest of all", "longer"], (blocking, awaited)
with init_reranker("cohere:m", base_url=url) as rerank:
    assert rerank.as_runnable().invoke({"query": "q", "documents": documents})[0].page_content == "longest of all"
encoder = QwenCrossEncoder(backend="remote", base_url=url, dialect="cohere")
assert encoder.score([("q", "abc")]) == [0.03]
encoder.close()
"""


def _fresh(code: str) -> list[str]:
    """Heavy modules that are loaded after code ran in a new interpreter."""
    told = f"{code}\nimport sys\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, check=False, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_importing_it_loads_nothing_heavy() -> None:
    assert _fresh("import langchain_qwen_rerank") == []


def test_a_remote_user_never_loads_torch() -> None:
    assert _fresh(REMOTE_CALL) == []


def test_the_check_for_heavy_modules_sees_one_that_is_loaded() -> None:
    assert _fresh("import pytest") == ["pytest"]


def test_it_depends_on_the_core_and_the_base_package_alone() -> None:
    needed = [
        re.split(r"[<>=!\[; ]", one)[0]
        for one in requires("langchain-qwen-rerank") or []
        if "extra" not in one
    ]
    assert sorted(needed) == ["langchain-core", "qwen-rerank-plugins"]


def test_it_has_the_version_of_the_base_package() -> None:
    versions = {
        langchain_qwen_rerank.__version__,
        version("langchain-qwen-rerank"),
        version("qwen-rerank-plugins"),
    }
    assert len(versions) == 1


def test_it_says_that_it_is_typed_and_under_which_licence() -> None:
    assert (HOME / "langchain_qwen_rerank" / "py.typed").is_file()
    assert metadata("langchain-qwen-rerank")["License-Expression"] == "Apache-2.0"


def test_the_wheel_holds_the_package_its_types_and_its_licence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=HOME, check=True, capture_output=True, timeout=60)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    shipped = {name for name in names if ".dist-info/" not in name}
    sources = (HOME / "langchain_qwen_rerank").rglob("*")
    kept = {
        str(path.relative_to(HOME)) for path in sources if path.suffix == ".py" or path.name == "py.typed"
    }
    assert shipped == kept
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_public_names_exist_and_are_sorted() -> None:
    assert sorted(langchain_qwen_rerank.__all__) == sorted(set(langchain_qwen_rerank.__all__))
    assert all(hasattr(langchain_qwen_rerank, name) for name in langchain_qwen_rerank.__all__)
    assert importlib.import_module("langchain_qwen_rerank.testing").__all__


def _named_tests() -> list[tuple[str, str]]:
    return re.findall(r"`(test_\w+\.py|contract)::(test_\w+)`", README)


def test_the_feature_table_names_tests() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| **")]
    assert len(rows) >= 20
    assert [row for row in rows if not re.search(r"`(test_\w+\.py|contract)::test_\w+`", row)] == []


@pytest.mark.parametrize(("module", "name"), _named_tests())
def test_every_test_that_the_readme_names_exists(module: str, name: str) -> None:
    path = HOME / "langchain_qwen_rerank" / "testing.py" if module == "contract" else HERE / module
    assert re.search(rf"^ *def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE)
