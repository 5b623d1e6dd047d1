"""The modules that importing it loads, and the claims of its README about tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_qwen_rerank import testing as contract_suite

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
    program = f"{code}\nimport sys\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_importing_it_loads_nothing_heavy() -> None:
    assert _fresh("import langchain_qwen_rerank") == []


def test_a_remote_user_never_loads_torch() -> None:
    assert _fresh(REMOTE_CALL) == []


def test_the_check_for_heavy_modules_sees_one_that_is_loaded() -> None:
    assert _fresh("import pytest") == ["pytest"]


def test_the_contract_suite_names_what_it_offers() -> None:
    assert contract_suite.__all__


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
