"""Clients that already exist reach the service by a changed URL: order and scores are right, not only a status.

Their versions contradict each other and the project's own, so each set has a separate environment, made from
a `*.txt` beside this file under `.test-results/clients`, and runs as a script against the running service.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins import RerankConfig, Reranker
from tests.service.servers import running_service

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
ENVIRONMENTS = ROOT / ".test-results" / "clients"

QUERY = "How do I remove limescale from a kettle?"
DOCUMENTS = [
    "Night trains run from Berlin to Vienna every evening.",
    "Boil equal parts of vinegar and water in the kettle to remove limescale.",
    "A kettle heats water with an element at its bottom.",
    "怎样清除电热水壶里的水垢？加入柠檬酸煮沸。",
    "",
]

CALLS = {
    "cohere5": (
        *("cohere_v1", "cohere_v1_objects", "cohere_v2", "cohere_v2_under_api"),
        *("langchain_cohere", "voyageai_client", "infinity"),
    ),
    "llama_index": ("llama_index_cohere", "llama_index_jina", "llama_index_tei"),
    "newest": (
        *("cohere_v1", "cohere_v2", "cohere_v2_relevant_spans", "litellm_cohere", "litellm_jina"),
        *("litellm_hosted_vllm", "litellm_huggingface", "litellm_voyage"),
    ),
}
CUT = {"cohere_v1_objects": 2, "voyageai_client": 3, "litellm_huggingface": 3, "litellm_voyage": 3}
"""Calls that ask for fewer documents than there are; cohere 7's `cohere_v2` is one more."""

Answer = list[list[float]]

pytestmark = [pytest.mark.loopback, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with running_service(RerankConfig(model="demo")) as running:
        yield running.base_url


@pytest.fixture(scope="module")
def right() -> list[tuple[int, float]]:
    """Return the results of the core, best first."""
    with Reranker(model="demo") as reranker:
        result = reranker.rank(QUERY, DOCUMENTS)
    return [(ranked.index, ranked.relevance_score or 0.0) for ranked in result.results]


@pytest.fixture(scope="module")
def answers(base_url: str) -> dict[str, dict[str, Any]]:
    """The output of every call, by environment and call."""
    return {name: run_calls(name, base_url) for name in CALLS}


def run_calls(name: str, base_url: str) -> dict[str, Any]:
    python = environment(name)
    question = json.dumps({"base_url": base_url, "query": QUERY, "documents": DOCUMENTS})
    ran = subprocess.run(
        [str(python), str(HERE / f"with_{name}.py")],
        input=question,
        env=plain() | {"NO_PROXY": "127.0.0.1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        check=True,
        text=True,
        timeout=240,
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    return {line["call"]: line for line in lines}


def environment(name: str) -> Path:
    """The interpreter of an environment with the packages of `NAME.txt`, created if it does not exist."""
    wanted = HERE / f"{name}.txt"
    folder = ENVIRONMENTS / name
    stamp, digest = folder / ".made-from", hashlib.sha256(wanted.read_bytes()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != digest:
        uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        assert uv, "uv is missing: start.sh and test.sh bring it"
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True
        )
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(wanted)], check=True
        )
        stamp.write_text(digest)
    return python


def plain() -> dict[str, str]:
    """Return the environment without coverage, settings and keys."""
    dropped = ("COVERAGE_", "COHERE_", "CO_API", "JINA_", "VOYAGE_", "PYTHON", "QWEN_RERANK_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, calls in CALLS.items() for call in calls])
def test_a_client_gets_the_right_order_and_the_right_scores(
    name: str, call: str, answers: dict[str, dict[str, Any]], right: list[tuple[int, float]]
) -> None:
    line = answers[name][call]
    assert "error" not in line, line["error"]
    count = 2 if (name, call) == ("newest", "cohere_v2") else CUT.get(call, len(DOCUMENTS))
    assert [index for index, _ in line["answer"]] == [index for index, _ in right[:count]]
    assert [score for _, score in line["answer"]] == pytest.approx(
        [score for _, score in right[:count]], rel=1e-10
    )


def test_no_client_needs_torch() -> None:
    listed = {path.stem: path.read_text().splitlines() for path in HERE.glob("*.txt")}
    assert listed.keys() == CALLS.keys()
    assert not [line for lines in listed.values() for line in lines if line.startswith(("torch==", "vllm=="))]
