"""The shipped examples run, and `bash start.sh` chooses its model; test_start.py tests that it serves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from examples import rank_documents
from qwen_rerank_plugins import LexicalScorer, Reranker
from qwen_rerank_plugins.config import DEFAULT_MODEL
from scripts import first_run
from tests.core.hub_server import HubState, serve_hub
from tests.laws.sources import ROOT, plain_environment

EXAMPLES = sorted({*(ROOT / "examples").glob("[!_]*.py")} - {ROOT / "examples" / "context_compression.py"})
"""The other one has a test of its own, which reads its last line."""

pytestmark = pytest.mark.timeout(400)


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=plain_environment() | environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_as_it_stands(path: Path) -> None:
    ran = run_script(str(path))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples" / "data").glob("*.jsonl")), ids=lambda path: path.name
)
def test_the_documents_of_an_example_have_text_title_and_their_own_id(path: Path) -> None:
    documents = rank_documents.read_documents(path)
    assert len({document["id"] for document in documents}) == len(documents) >= 5
    assert all(document["text"] and document["title"] for document in documents)


@pytest.mark.parametrize(("query", "path"), rank_documents.SHIPPED)
def test_word_overlap_already_puts_the_answer_first(query: str, path: Path) -> None:
    """The shipped lists have one right answer, so that a first ranking makes sense to the reader."""
    ranked = Reranker(scorer=LexicalScorer()).rank(query, rank_documents.read_documents(path)).results
    assert str(ranked[0].index) == "0"


def test_start_asks_a_silent_hub_no_longer_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    import huggingface_hub

    answered = threading.Event()

    def answer_late(*_: object, **__: object) -> SimpleNamespace:
        answered.wait(20)
        return SimpleNamespace(size=1)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(first_run, "HUB_TIMEOUT_S", 0.05)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer_late)
    assert first_run.hub_size_bytes("huggingface", "some/model") is None
    answered.set()


@pytest.mark.parametrize(
    ("cached", "answering", "hub"),
    [
        ((), first_run.HUBS, "huggingface"),
        ((), ("modelscope",), "modelscope"),
        (("modelscope",), ("huggingface",), "modelscope"),
        (first_run.HUBS, (), "huggingface"),
    ],
)
def test_start_takes_the_default_model_from_a_hub_that_has_it_and_says_which(
    cached: tuple[str, ...],
    answering: tuple[str, ...],
    hub: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = dict.fromkeys(answering, 1_200_000_000)
    monkeypatch.setattr(first_run, "in_local_cache", lambda hub, model: hub in cached)
    monkeypatch.setattr(first_run, "hub_size_bytes", lambda hub, model: sizes.get(hub))
    assert first_run.choose_model(first_run.HUBS) == ["--model", DEFAULT_MODEL, "--hub", hub]
    expected = f"is in the local cache of {hub}" if cached else f"will be downloaded from {hub}: 1.2 GB"
    assert capsys.readouterr().err == f"==> {DEFAULT_MODEL} {expected}\n"


def test_start_takes_the_demo_where_no_hub_that_may_be_asked_has_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(first_run, "in_local_cache", lambda hub, model: hub == "huggingface")
    monkeypatch.setattr(first_run, "hub_size_bytes", lambda hub, model: None)
    assert first_run.choose_model(["modelscope"]) == ["--model", "demo"]
    assert "The DEMO checkpoint is going to rank" in capsys.readouterr().err


def test_start_takes_the_default_model_from_the_local_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    held = {"config.json", "tokenizer.json", "model.safetensors"}
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda model, name: f"cache/{name}" if name in held else None,
    )
    assert first_run.in_local_cache("huggingface", DEFAULT_MODEL)
    held.remove("model.safetensors")
    assert not first_run.in_local_cache("huggingface", DEFAULT_MODEL)


@pytest.mark.loopback
def test_start_asks_modelscope_and_looks_into_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from modelscope.hub.snapshot_download import snapshot_download

    files = dict.fromkeys(["config.json", "tokenizer.json", "model.safetensors"], b"0123")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("modelscope_hub.config._default_config", None)
    with serve_hub(HubState("some/model", files)) as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        assert not first_run.in_local_cache("modelscope", "some/model")
        assert first_run.hub_size_bytes("modelscope", "some/model") == 4
        assert first_run.hub_size_bytes("modelscope", "other/model") is None
        snapshot_download("some/model")
    assert first_run.in_local_cache("modelscope", "some/model")
    monkeypatch.setattr(first_run, "find_spec", lambda name: None)
    assert first_run.hub_size_bytes("modelscope", "some/model") is None
    assert (
        "its package is not installed: pip install 'qwen-rerank-plugins[modelscope]'"
        in capsys.readouterr().err
    )


def test_an_own_question_needs_own_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rank_documents.main(["--query", "alone"])
    assert "go together" in capsys.readouterr().err


def test_own_documents_are_ranked(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("red fox", "blue whale")) + "\n\n")
    ran = run_script("examples/rank_documents.py", "--query", "whale", "--file", str(path), "--model", "demo")
    assert ran.returncode == 0, ran.stderr
    assert "blue whale" in ran.stdout


def test_compression_saves_tokens_and_keeps_the_answers() -> None:
    ran = run_script("examples/context_compression.py")
    assert ran.returncode == 0, ran.stderr
    counts = re.fullmatch(
        r"(\d+) → (\d+) tokens in all; answers in the prompt: 9 → 9 of 9", ran.stdout.splitlines()[-1]
    )
    assert counts is not None, ran.stdout
    assert int(counts[2]) < 0.5 * int(counts[1])
