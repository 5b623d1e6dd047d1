"""The example's own parts: each generator, the retriever, and the figure at the end. tests/examples runs it as it stands."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from llama_index.core.schema import QueryBundle

import qwen_rerank_plugins
from tests.integrations.llama_index.nodes import some_nodes
from tests.laws.sources import ROOT

DEMO_FOLDER = Path(qwen_rerank_plugins.__file__).parent / "demo" / "checkpoint"
PROMPT = "Context:\n---------------------\ntitle: Kettle\n\nUse vinegar.\nTwice.\n\ntitle: Train\n\nTo Vienna.\n---------------------\n?"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it imports what stands beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    spec = importlib.util.spec_from_file_location("llama_index_rag", ROOT / "examples" / "llama_index_rag.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # pydantic looks its annotations up there
    spec.loader.exec_module(module)
    return module


def test_the_echo_repeats_the_first_passage_and_says_that_it_is_one(example: ModuleType) -> None:
    assert example.echo(PROMPT) == "(echo; no language model was asked) Use vinegar."
    assert example.echo("anything") == "(echo; no language model was asked) "


@pytest.mark.loopback
def test_an_endpoint_is_asked_for_a_chat_completion(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None, Any]] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers["Authorization"], body))
            answer = json.dumps(
                {"choices": [{"message": {"role": "assistant", "content": "With vinegar."}}]}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
            """Stay silent."""

    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert (
            example.endpoint(f"http://127.0.0.1:{server.server_port}/v1/", "qwen3")("How?") == "With vinegar."
        )
        thread.join(5)
    ((path, key, body),) = seen
    assert (path, key) == ("/v1/chat/completions", "Bearer k")
    assert (body["model"], body["messages"]) == ("qwen3", [{"role": "user", "content": "How?"}])


def test_a_folder_is_run_in_the_process(example: ModuleType, tmp_path: Path) -> None:
    """With the demo checkpoint, which is not a generator: the test is that only new text is returned."""
    folder = tmp_path / "model"
    shutil.copytree(DEMO_FOLDER, folder)
    template = "{% for one in messages %}{{ one.content }}{% endfor %}{{ enable_thinking }}"
    (folder / "chat_template.jinja").write_text(template)
    answer = example.local_model(str(folder), max_new_tokens=8)("How is a kettle descaled?")
    assert isinstance(answer, str)
    assert "How is a kettle descaled?" not in answer


def test_the_retriever_gives_passages_by_similarity(example: ModuleType) -> None:
    passages = [
        {"id": "a", "title": "Trains", "text": "trains to the coast"},
        {"id": "b", "title": "Cats", "text": "the cat sleeps"},
    ]
    nodes = example.FirstStageRetriever(passages, 5).retrieve(QueryBundle("railway"))
    assert [one.node_id for one in nodes] == ["a", "b"]
    assert nodes[0].score > nodes[1].score
    assert nodes[0].metadata == {"title": "Trains"}


def test_the_figure_is_the_reciprocal_of_the_answers_rank(example: ModuleType) -> None:
    nodes = some_nodes("x", "y", "z")
    assert [example.reciprocal_rank(nodes, one) for one in ("n0", "n2", "n9")] == [1.0, 1 / 3, 0.0]


def test_own_questions_are_answered(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the first passages of the corpus instead of a search, which tests/examples runs."""

    class InOrder:
        def __init__(self, texts: list[str]) -> None:
            """Nothing is embedded."""

        def search(self, query: str, k: int) -> list[tuple[int, float]]:
            return [(index, 1 - index / 100) for index in range(k)]

    monkeypatch.setattr(example, "FirstStage", InOrder)
    example.main(["--query", "How often does bus line 3 run?", "--candidates", "10", "--top-n", "2"])
    printed = capsys.readouterr().out
    assert "bundled demo checkpoint" in printed
    before, after = printed.split("after, by demo")
    assert before.count("\n    2  ") == after.count("\n    2  ") == 1
    assert "\n    3  " not in printed
    assert "(echo; no language model was asked)" in after
    assert "mean reciprocal rank" not in printed
