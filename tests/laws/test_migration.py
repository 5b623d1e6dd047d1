"""docs/migration.md: every name in its tables exists, and its requests are answered by the service."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable

import pytest
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_qwen_rerank import QwenRerank as LangChainRerank
from llama_index.core.postprocessor import SentenceTransformerRerank
from llama_index.postprocessor.qwen_rerank import QwenRerank as LlamaIndexRerank
from opensearch_qwen_rerank.cli import app as opensearch_app
from typer.main import get_command

from qwen_rerank_plugins import RerankConfig
from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.service.schemas.cohere import CohereRequest
from qwen_rerank_plugins.service.schemas.tei import TEIRequest
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.laws.sources import ROOT
from tests.service.servers import running_service

PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
TABLE = re.compile(r"<!-- migration: (?P<name>\w+) -->\n(?P<rows>(?:\|.*\n)+)")
NAME = re.compile(r"`([^`]+)`")
REQUEST = re.compile(r"curl -s http://localhost:8501(?P<path>\S+) -H '[^']*' -d '(?P<body>[^']*)'")
REQUESTS = [match.groupdict() for match in REQUEST.finditer(PAGE)]


def columns(rows: str) -> list[tuple[list[str], list[str]]]:
    """The names in the first two cells of each row below the header."""
    cells = [line.strip("|\n ").split("|") for line in rows.splitlines()[2:]]
    return [(NAME.findall(theirs), NAME.findall(here)) for theirs, here, *_ in cells]


TABLES = {match["name"]: columns(match["rows"]) for match in TABLE.finditer(PAGE)}


def options_of(program: object, command: str) -> set[str]:
    """The long options of one command."""
    found = get_command(program).commands[command]  # type: ignore[arg-type, attr-defined]
    return {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}


def request_fields(request: type[CohereRequest | TEIRequest]) -> set[str]:
    return {field.alias or name for name, field in request.model_fields.items()}


def serve_names() -> set[str]:
    return options_of(app, "serve") | set(RerankConfig.model_fields) | set(ServiceSettings.model_fields)


def wrapper_names(wrapper: type) -> set[str]:
    return set(RerankConfig.model_fields) | set(wrapper.model_fields)  # type: ignore[attr-defined]


HERE: dict[str, Callable[[], set[str]]] = {
    "langchain_cohere": lambda: wrapper_names(LangChainRerank),
    "langchain_classic": lambda: wrapper_names(LangChainRerank),
    "langchain_jina": lambda: wrapper_names(LangChainRerank),
    "llama_index_sentence_transformers": lambda: wrapper_names(LlamaIndexRerank),
    "llama_index_flag_embedding": lambda: wrapper_names(LlamaIndexRerank),
    "tei": lambda: request_fields(TEIRequest),
    "tei_server": serve_names,
    "vllm": lambda: request_fields(CohereRequest),
    "vllm_server": serve_names,
    "opensearch": lambda: options_of(opensearch_app, "apply"),
}
THEIRS: dict[str, set[str]] = {
    "langchain_classic": set(CrossEncoderReranker.model_fields),
    "llama_index_sentence_transformers": set(inspect.signature(SentenceTransformerRerank.__init__).parameters)
    - {"self"},
}


def test_every_table_is_checked() -> None:
    assert sorted(TABLES) == sorted(HERE)
    assert all(here or theirs for table in TABLES.values() for theirs, here in table)


@pytest.mark.parametrize("name", sorted(HERE))
def test_every_name_of_this_project_exists(name: str) -> None:
    mentioned = {one for _, here in TABLES[name] for one in here}
    assert mentioned - HERE[name]() == set()


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_the_first_column_has_all_parameters_of_an_installed_class(name: str) -> None:
    assert {one for theirs, _ in TABLES[name] for one in theirs} == THEIRS[name]


def test_a_wrong_name_is_noticed() -> None:
    rows = "| a | here | |\n| - | - | - |\n| `top_k` | `top_nn` | |\n"
    assert columns(rows) == [(["top_k"], ["top_nn"])]
    assert "top_nn" not in wrapper_names(LangChainRerank)


@pytest.mark.loopback
def test_the_requests_of_the_page_are_answered_as_it_says() -> None:
    """TEI's request with a bare list of both texts, vLLM's with the best document alone; scores are probabilities."""
    with running_service(RerankConfig(model="demo")) as service, service.client() as client:
        answers = {
            one["path"]: client.post(one["path"], json=json.loads(one["body"])).raise_for_status().json()
            for one in REQUESTS
        }
    assert sorted(answers) == ["/rerank", "/v1/rerank"]
    ranked = answers["/rerank"]
    assert sorted(entry["text"] for entry in ranked) == ["blue", "red"]
    assert 1 >= ranked[0]["score"] >= ranked[1]["score"] >= 0
    assert [sorted(entry["document"]) for entry in answers["/v1/rerank"]["results"]] == [["text"]]
