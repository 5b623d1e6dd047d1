"""The example's chain on its corpus: real embeddings, a real index, the demo model, an echo as the language model.

Needs torch and the embedding model's package, as test_local_engine.py needs torch.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_qwen_rerank import QwenRerank

from examples import langchain_rag
from examples._first_stage import FirstStage, load_corpus, load_questions
from examples.langchain_rag import HandbookRetriever, ask_endpoint, build_chain, echo


@pytest.fixture(scope="module")
def retriever() -> HandbookRetriever:
    corpus = load_corpus()
    return HandbookRetriever(stage=FirstStage([one["text"] for one in corpus]), corpus=corpus)


def test_the_corpus_is_large_enough_for_a_first_stage_to_choose_from() -> None:
    corpus = load_corpus()
    assert len(corpus) >= 120
    assert len({one["text"] for one in corpus}) == len(corpus)
    assert {question.answer_id for question in load_questions()} <= {one["id"] for one in corpus}


def test_the_first_stage_gives_the_nearest_first_and_no_more_than_there_are() -> None:
    stage = FirstStage(["the cat sleeps", "trains to the coast"])
    found = stage.search("railway", 5)
    assert [index for index, _ in found] == [1, 0]
    assert found[0][1] > found[1][1]
    assert stage.search("railway", 1) == found[:1]


@pytest.mark.parametrize("question", load_questions(), ids=lambda one: one.answer_id)
def test_reranking_finds_what_the_first_stage_does_not_put_first(
    retriever: HandbookRetriever, question: Any
) -> None:
    compressor = QwenRerank(model="demo", top_n=5, metadata_fields=["title"])
    reranked = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
    candidates = [one.id for one in retriever.invoke(question.text)]
    assert len(candidates) == 100
    assert candidates.index(question.answer_id) > 0
    outcome = build_chain(reranked, echo).invoke(question.text)
    assert outcome["question"] == question.text
    assert [one.id for one in outcome["documents"]].index(question.answer_id) == 0
    assert len(outcome["documents"]) == 5
    assert outcome["documents"][0].page_content in outcome["answer"]
    assert "no language model" in outcome["answer"]


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[Any]]]:
    """A chat endpoint that answers with the length of its prompt."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            text = f"{len(asked[-1][1]['messages'][0]['content'])} characters"
            body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
            """Stay silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.loopback
def test_an_endpoint_can_stand_in_for_the_echo(endpoint: tuple[str, list[Any]]) -> None:
    url, asked = endpoint
    assert ask_endpoint(url, "qwen3")("four") == "4 characters"
    path, body = asked[0]
    assert (path, body["model"]) == ("/v1/chat/completions", "qwen3")


def test_a_language_model_in_a_folder_can_stand_in_for_the_echo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo checkpoint is a causal language model too, once it has a chat template; its text is meaningless."""
    from qwen_rerank_plugins.demo import CHECKPOINT_DIR

    folder = shutil.copytree(CHECKPOINT_DIR, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{% for one in messages %}{{ one['content'] }}{% endfor %}")
    monkeypatch.setattr(langchain_rag, "MAX_NEW_TOKENS", 5)
    answer = langchain_rag.run_folder(str(folder))("some prompt")
    assert isinstance(answer, str)
    assert "some prompt" not in answer


def test_own_questions_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    langchain_rag.main(["--query", "Which bus line has a rack for bicycles?"])
    printed = capsys.readouterr().out
    assert "Bus line 6" in printed
    assert "reranked" in printed
