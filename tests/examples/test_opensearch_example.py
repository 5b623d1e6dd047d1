"""The example with recorded responses, on a real node, and through a pipeline that the command created there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from opensearch_qwen_rerank import ClientSideReranker, OpenSearchSettings

from examples import opensearch_rerank as example
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.integrations.opensearch.nodes.cluster import Cluster, running_cluster
from tests.integrations.opensearch.nodes.native_plugin import build_plugin
from tests.integrations.opensearch.nodes.releases import RELEASES
from tests.integrations.opensearch.nodes.services import running_rerank_service
from tests.laws.sources import ROOT, plain_environment

VERSION = "3.6.0"
COMPOSE = ROOT / "examples" / "opensearch" / "compose.yaml"


@pytest.fixture(scope="module")
def node() -> Iterator[Cluster]:
    with running_cluster(VERSION, plugins=[build_plugin(VERSION)]) as cluster:
        yield cluster


def recorded() -> dict[str, Any]:
    responses: dict[str, Any] = json.loads(example.RECORDED.read_text(encoding="utf-8"))
    return responses


def ids(response: dict[str, Any]) -> list[str]:
    return [hit["_id"] for hit in response["hits"]["hits"]]


def test_the_corpus_is_bilingual_and_has_every_answer() -> None:
    corpus = example.load_corpus()
    chinese = [one for one in corpus if any("\u4e00" <= letter <= "\u9fff" for letter in one["text"])]
    assert len(corpus) == 24
    assert 8 <= len(chinese) <= 16
    assert set(example.QUESTIONS.values()) <= {one["id"] for one in corpus}


@pytest.mark.parametrize("question", example.QUESTIONS)
def test_reranking_puts_the_answer_first(question: str) -> None:
    reranker = ClientSideReranker(example.RecordedResponses(), fields=example.FIELDS, model="demo")
    found = reranker.search(example.search_body(question), index=example.INDEX)
    assert ids(found)[0] == example.QUESTIONS[question]
    assert len(ids(found)) == example.SHOWN


def test_some_answers_are_not_first_without_reranking() -> None:
    before = {question: ids(answer)[0] for question, answer in recorded().items()}
    assert before.keys() == example.QUESTIONS.keys()
    assert sum(before[question] != answer for question, answer in example.QUESTIONS.items()) == 2


def test_without_a_cluster_it_says_that_responses_are_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    example.main([])
    output = capsys.readouterr().out
    assert "recorded" in output
    assert "client side" in output
    with pytest.raises(SystemExit):
        example.main(["--pipeline", "p"])


@pytest.mark.loopback
@pytest.mark.timeout(1800)
def test_the_recorded_responses_are_those_of_a_node(node: Cluster, tmp_path: Path) -> None:
    with example.indexed_corpus(node.client, keep=False):
        example.record(node.client, tmp_path / "answers.json")
    fresh = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    for question, answer in recorded().items():
        scores = {hit["_id"]: pytest.approx(hit["_score"], rel=1e-5) for hit in answer["hits"]["hits"]}
        assert {hit["_id"]: hit["_score"] for hit in fresh[question]["hits"]["hits"]} == scores
    assert not node.client.indices.exists(index=example.INDEX)


def command(*arguments: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "opensearch_qwen_rerank", *arguments],
        cwd=ROOT,
        env=plain_environment() | {"NO_COLOR": "1"},
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.loopback
@pytest.mark.timeout(1800)
def test_pipelines_and_client_side_are_compared(
    node: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_rerank_service(tmp_path) as service:
        at = ["--cluster", node.url]
        to = ["--service", service.url, "--fields", ",".join(example.FIELDS)]
        native = ["--pipeline", "qwen-native"]
        command("apply", *at, *to)
        command("apply", *at, *to, *native, "--recipe", "native", "--read-timeout-s", "60")
        example.main([*at, "--pipeline", "qwen-rerank", "--native", "qwen-native", "--base-url", service.url])
        command("destroy", *at)
        command("destroy", *at, *native)
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert len(blocks) == len(example.QUESTIONS)
    for block in blocks:
        _, names, first, *_ = block.splitlines()
        assert [name.strip() for name in names.split("|")] == [
            "before",
            "client side",
            "pipeline qwen-rerank",
            "native qwen-native",
        ]
        _, *reranked = (cell.strip() for cell in first.split("|"))
        assert all(cell.startswith("*") for cell in reranked)


def test_the_compose_file_has_the_names_and_ports_of_the_code() -> None:
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    assert compose.keys() == {"services", "volumes"}
    search, reranker = compose["services"]["opensearch"], compose["services"]["reranker"]
    image, _, version = search["image"].partition(":")
    assert (image, version in RELEASES) == ("opensearchproject/opensearch", True)
    settings = OpenSearchSettings()
    assert search["ports"] == ["127.0.0.1:9200:9200"]
    assert settings.cluster.endswith(":9200")
    port = ServiceSettings().port
    assert reranker["ports"] == [f"127.0.0.1:{port}:{port}"]
    environment = reranker["environment"]
    prefix = "QWEN_RERANK_SERVICE_"
    names = {name.removeprefix(prefix).lower() for name in environment if name.startswith(prefix)}
    assert names <= ServiceSettings.model_fields.keys()
    assert environment["QWEN_RERANK_SERVICE_PORT"] == str(port)
    assert "reranker" in environment["QWEN_RERANK_SERVICE_ALLOWED_HOSTS"].split(",")
    assert OpenSearchSettings(service=f"http://reranker:{port}").is_private
    used = {volume.partition(":")[0] for one in (search, reranker) for volume in one["volumes"]}
    assert {name for name in used if not name.startswith(".")} == compose["volumes"].keys()
    assert (COMPOSE.parent / "../.." / "constraints.txt").is_file()
