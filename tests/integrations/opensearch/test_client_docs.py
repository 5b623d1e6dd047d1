"""The pages about OpenSearch show what the code sends and reads: bodies, searches, options, keys of responses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from opensearch_qwen_rerank import ClientSideReranker, OpenSearchSettings
from opensearch_qwen_rerank.cli import app
from opensearch_qwen_rerank.client import ClientSettings
from opensearch_qwen_rerank.client.search_request import find_instruction, find_query
from opensearch_qwen_rerank.cluster_version import RECIPE_MIN_VERSIONS, ClusterVersion
from opensearch_qwen_rerank.request_bodies import connector_body, pipeline_body
from typer.main import get_command

from qwen_rerank_plugins import PairScore, SpanOptions
from tests.doubles import FakeScorer
from tests.integrations.opensearch.client_doubles import FakeClient, client_side, hits_with_scores

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("opensearch-*.md"))}
MARKED = re.compile(r"<!-- (\w+): (.+?) -->\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (kind, name, json.loads(text)) for page in PAGES.values() for kind, name, text in MARKED.findall(page)
]
SHOWN = OpenSearchSettings(service="http://reranker:8501", fields=("title", "body"))
MANAGED = OpenSearchSettings(
    service="https://rerank.example.com",
    fields=("title", "body"),
    secret_arn="arn:aws:secretsmanager:eu-central-1:111122223333:secret:rerank",
    secret_role_arn="arn:aws:iam::111122223333:role/read-rerank-secret",
)
VERSION = ClusterVersion(3, 6)


def blocks(kind: str) -> list[tuple[str, Any]]:
    return [(name, body) for its_kind, name, body in BLOCKS if its_kind == kind]


def test_there_is_a_page_for_each_audience_and_every_json_block_is_marked() -> None:
    audiences = ("administration", "managed", "native", "search")
    assert list(PAGES) == [f"opensearch-{name}.md" for name in audiences]
    assert sum(page.count("```json") for page in PAGES.values()) == len(BLOCKS) == 9


def test_the_bodies_shown_are_those_that_are_sent() -> None:
    managed = connector_body(MANAGED, VERSION)
    authorization = {"Authorization": managed["actions"][0]["headers"]["Authorization"]}
    assert dict(blocks("body")) == {
        "pipeline rich 3.6.0": pipeline_body(SHOWN, VERSION, model_id="<the model's id>"),
        "connector rich 3.6.0": connector_body(SHOWN, VERSION),
        "managed credential": managed["credential"],
        "managed header": authorization,
    }
    assert not MANAGED.is_private


@pytest.mark.parametrize(("name", "body"), blocks("request"))
def test_a_search_shown_has_its_query_where_its_recipe_reads_it(name: str, body: dict[str, Any]) -> None:
    assert set(body["ext"]) == {"rich": {"ml_inference"}, "simple": {"rerank"}}[name]
    assert find_query(body, None, None).startswith("How do I remove limescale")
    if name == "rich":
        assert find_instruction(body)
    assert find_query(body, None, "query.match.body.query")


def test_every_option_mentioned_exists() -> None:
    command: Any = get_command(app)
    known = {
        option for one in command.commands.values() for parameter in one.params for option in parameter.opts
    }
    known |= {option for one in command.commands.values() for p in one.params for option in p.secondary_opts}
    named = {option for page in PAGES.values() for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)}
    assert len(named) > 15
    assert named - known == set()
    verbs = {verb for page in PAGES.values() for verb in re.findall(r"opensearch-qwen-rerank (\w+) ", page)}
    assert verbs == {"plan", "apply", "verify", "destroy"} == command.commands.keys()


def test_the_versions_are_those_of_the_code() -> None:
    simple, rich = (".".join(map(str, RECIPE_MIN_VERSIONS[recipe][:2])) for recipe in ("simple", "rich"))
    table = PAGES["opensearch-administration.md"]
    assert f"| before {simple} | no | no |" in table
    assert f"| {rich} and newer | yes | yes |" in table


def test_all_keywords_of_the_client_side_are_documented() -> None:
    page = PAGES["opensearch-search.md"]
    table = page[page.index("| keyword |") : page.index("**Inner hits.**")]
    assert [name for name in ClientSettings.model_fields if f"`{name}`" not in table] == []
    assert f"{ClientSettings.model_fields['window'].default} by default" in table


def test_all_keys_of_a_response_are_documented() -> None:
    def score(request: Any) -> PairScore:
        return PairScore(
            float(request.document), log_odds=1.0, truncated=True, query_truncated=True, span=(0, 2)
        )

    page = PAGES["opensearch-search.md"]
    reranker: ClientSideReranker = client_side(
        FakeClient(hits_with_scores([0.1, 0.2])), FakeScorer(score), highlight=SpanOptions()
    )
    response = reranker.search({}, query="q")
    keys = {
        *response["rerank"],
        *response["hits"]["hits"][0]["rerank"],
        *response["hits"]["hits"][0]["rerank"]["spans"][0],
        "inner_hit",
        "error",
        "highlight_error",
        "next_search_after",
    }
    assert len(keys) > 20
    assert [name for name in keys if not re.search(rf"[`.\"]{name}\b", page)] == []
