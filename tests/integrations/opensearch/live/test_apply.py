"""The four commands on real clusters: what they change, what they leave, and how hits are ranked in between."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opensearch_qwen_rerank import ForeignObjectError, OpenSearchSettings, VerificationError
from opensearch_qwen_rerank.cluster import OpenSearchCluster
from opensearch_qwen_rerank.destroy import plan_destroy
from opensearch_qwen_rerank.lock import LOCK_INDEX, locked
from opensearch_qwen_rerank.plan import plan_apply
from opensearch_qwen_rerank.verification import verify

from qwen_rerank_plugins import Reranker
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.services import RerankService

QUERY = "how to remove limescale from a kettle"
SOURCES: list[dict[str, Any]] = [
    {"title": "Kettle drums", "body": "The lesson for the kettle drum begins at ten."},
    {"title": "Limescale", "body": "Vinegar removes the limescale from a kettle in half an hour."},
    {"title": "How to travel", "body": "Night trains to the coast leave from platform one."},
    {"body": "How to remove a stain from a carpet."},
    {"title": "A kettle without a text"},
]
TOLERANCE = 1e-5
"""Hits have a 32-bit float, and batches of the demo model may round differently."""


class Interrupted(Exception):  # noqa: N818 (it stands for a killed process)
    """Stands for the end of the process."""


class KilledLater(OpenSearchCluster):
    """A cluster that kills its caller after a number of writes."""

    left = 10**9

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        answer = super().request(method, path, body, params)
        if method in {"PUT", "DELETE"} or (method == "POST" and "_search" not in path):
            self.left -= 1
            if self.left <= 0:
                raise Interrupted
        return answer


def settings(cluster: Cluster, service: RerankService, **changes: Any) -> OpenSearchSettings:
    return OpenSearchSettings(
        **{
            "cluster": cluster.url,
            "service": service.url,
            "pipeline": "books",
            "fields": ("title", "body"),
            "oversample": 5 if cluster.can_oversample else 1,
            **changes,
        }
    )


def apply(cluster: Cluster, chosen: OpenSearchSettings, **options: Any) -> list[str]:
    there = OpenSearchCluster(cluster.client)
    return [str(step) for step, _ in plan_apply(there, chosen, **options).run(there)]


def destroy(cluster: Cluster, chosen: OpenSearchSettings) -> list[str]:
    there = OpenSearchCluster(cluster.client)
    return [str(step) for step, _ in plan_destroy(there, chosen).run(there)]


def text_of(source: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Return the text of a hit that the service ranks with the recipe `rich`."""
    if len(fields) == 1:
        return str(source.get(fields[0], ""))
    return "\n".join(f"{name}: {source[name]}" for name in fields if source.get(name))


def check_order(
    hits: list[Any], texts: Sequence[str], score: str = "relevance_score", **options: Any
) -> None:
    """Assert that hits have the core's order and scores."""
    with Reranker(model="demo") as reranker:
        ranked = reranker.rank(QUERY, list(texts), **options).results
    expected = {str(one.index): getattr(one, score) for one in ranked}
    assert {hit["_id"] for hit in hits} == set(expected)
    for hit in hits:
        assert hit["_score"] == pytest.approx(expected[hit["_id"]], rel=TOLERANCE, abs=TOLERANCE)
    scores = [hit["_score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1


def search(cluster: Cluster, index: str, body: Mapping[str, Any], **params: str) -> Any:
    return cluster.request("POST", f"/{index}/_search", body, **params)["hits"]["hits"]


def test_apply_twice_verify_and_destroy_leave_the_cluster_unchanged(
    clean_cluster: Cluster, service: RerankService
) -> None:
    clean_cluster.load("books", SOURCES)
    clean_cluster.request(
        "PUT",
        "/_cluster/settings",
        {"persistent": {"plugins.ml_commons.trusted_connector_endpoints_regex": ["^https://only/.*$"]}},
    )
    found = clean_cluster.inventory()
    chosen = settings(clean_cluster, service, default_for=("books",))
    assert apply(clean_cluster, chosen)
    applied = clean_cluster.inventory()
    assert applied != found
    assert apply(clean_cluster, chosen) == []
    report = verify(OpenSearchCluster(clean_cluster.client), chosen)
    assert [stage.name for stage in report.stages if "rerank" in stage.name]
    assert all(stage.took_ms is not None and 0 <= stage.took_ms < 60_000 for stage in report.stages)
    assert clean_cluster.inventory() == applied, "verify left something"
    destroy(clean_cluster, chosen)
    assert clean_cluster.inventory() == found


@pytest.mark.timeout(600)  # a dozen rounds, each of which undeploys a model twice
def test_apply_and_destroy_interrupted_after_any_request_can_be_repeated(
    clean_cluster: Cluster, service: RerankService
) -> None:
    """A kill after each request of one apply, then after each request of one destroy."""
    clean_cluster.load("books", SOURCES)
    found = clean_cluster.inventory()
    chosen = settings(clean_cluster, service, default_for=("books",), recipe="simple", fields=("body",))
    there = KilledLater(clean_cluster.client)
    for count in range(1, 50):
        there.left = count
        try:
            for _ in plan_apply(there, chosen).run(there):
                pass
        except Interrupted:
            apply(clean_cluster, chosen)
            assert {kind: len(there_now) for kind, there_now in objects(clean_cluster).items()} == {
                "connectors": 1,
                "models": 1,
                "model_groups": 1,
            }
            assert apply(clean_cluster, chosen) == []
            there.left = count
            try:
                for _ in plan_destroy(there, chosen).run(there):
                    pass
            except Interrupted:
                there.left = 10**9
                destroy(clean_cluster, chosen)
            assert clean_cluster.inventory() == found, count
        else:
            assert count > 7
            break
    destroy(clean_cluster, chosen)
    assert clean_cluster.inventory() == found


def objects(cluster: Cluster) -> dict[str, list[Any]]:
    """Return the objects of ML Commons."""
    body = {"query": {"match_all": {}}, "size": 100}
    return {
        kind: cluster.request("POST", f"/_plugins/_ml/{kind}/_search", body)["hits"]["hits"]
        for kind in ("connectors", "models", "model_groups")
    }


@pytest.mark.parametrize("score", ["probability", "log_odds"])
def test_rich_ranks_several_fields_as_the_core_does_and_keeps_the_first_stages_score(
    clean_cluster: Cluster, service: RerankService, score: str
) -> None:
    chosen = settings(clean_cluster, service, score=score)
    clean_cluster.load("books", SOURCES)
    apply(clean_cluster, chosen)
    asked: dict[str, str] = {"query_text": QUERY}
    body = {"query": {"match_all": {}}, "ext": {"ml_inference": asked}}
    hits = search(clean_cluster, "books", body, search_pipeline="books")
    texts = [text_of(source, chosen.fields) for source in SOURCES]
    check_order(hits, texts, "log_odds" if score == "log_odds" else "relevance_score")
    assert all(hit["_source"]["previous_score"] == 1.0 for hit in hits)
    assert not any("qwen_rerank_score" in hit["_source"] for hit in hits)

    asked["instruction"] = "Find the text about trains."
    hits = search(clean_cluster, "books", body, search_pipeline="books")
    name = "log_odds" if score == "log_odds" else "relevance_score"
    check_order(hits, texts, name, instruction="Find the text about trains.")


def test_simple_ranks_as_the_core_does(clean_cluster: Cluster, service: RerankService) -> None:
    clean_cluster.load("books", SOURCES)
    apply(clean_cluster, settings(clean_cluster, service, recipe="simple", fields=("body",)))
    body = {
        "query": {"match_all": {}},
        "ext": {"rerank": {"query_context": {"query_text": QUERY}}},
    }
    hits = search(clean_cluster, "books", body, search_pipeline="books")
    check_order(hits, [text_of(source, ("body",)) for source in SOURCES])


def test_a_default_pipeline_reranks_searches_without_a_change(
    clean_cluster: Cluster, service: RerankService
) -> None:
    """Including a query that looks like JSON, no matches, size 0, and a search without a query to rank by."""
    clean_cluster.load("books", SOURCES)
    chosen = settings(
        clean_cluster, service, default_for=("books",), query_path="query.match.body.query", fields=("body",)
    )
    apply(clean_cluster, chosen)
    hits = search(clean_cluster, "books", {"query": {"match": {"body": QUERY}}})
    assert len(hits) >= 3
    with Reranker(model="demo") as reranker:
        ranked = reranker.rank(QUERY, [hit["_source"]["body"] for hit in hits])
    assert [one.index for one in ranked.results] == list(range(len(hits)))
    assert all("previous_score" in hit["_source"] for hit in hits)

    (draft, *_) = search(clean_cluster, "books", {"query": {"match": {"body": "[limescale]"}}})
    assert "previous_score" in draft["_source"], "a query that looks like JSON was not reranked"
    assert search(clean_cluster, "books", {"query": {"match": {"body": "nothing-of-it"}}}) == []
    assert search(clean_cluster, "books", {"query": {"match": {"body": QUERY}}, "size": 0}) == []
    others = search(clean_cluster, "books", {"query": {"match_all": {}}})
    assert [hit["_id"] for hit in others] == ["0", "1", "2", "3", "4"], "first-stage order"


def test_dotted_fields_are_ranked_in_both_forms_of_a_document(
    clean_cluster: Cluster, service: RerankService
) -> None:
    bodies = [source.get("body", "") for source in SOURCES]
    written = [{"page": {"body": bodies[0]}}, *({"page.body": body} for body in bodies[1:])]
    clean_cluster.load("pages", written)
    apply(clean_cluster, settings(clean_cluster, service, fields=("page.body",)))
    body = {"query": {"match_all": {}}, "ext": {"ml_inference": {"query_text": QUERY}}}
    hits = search(clean_cluster, "pages", body, search_pipeline="books")
    check_order(hits, bodies)


def test_two_pipelines_exist_side_by_side(clean_cluster: Cluster, service: RerankService) -> None:
    clean_cluster.load("books", SOURCES)
    found = clean_cluster.inventory()
    first, second = (settings(clean_cluster, service, pipeline=name) for name in ("books", "papers"))
    apply(clean_cluster, first)
    apply(clean_cluster, second)
    destroy(clean_cluster, first)
    assert apply(clean_cluster, second) == []
    verify(OpenSearchCluster(clean_cluster.client), second)
    destroy(clean_cluster, second)
    assert clean_cluster.inventory() == found


@pytest.mark.timeout(600)  # three applies beside searches without a pause
def test_every_search_is_reranked_while_changes_are_applied(
    clean_cluster: Cluster, service: RerankService
) -> None:
    """Searches without a pause; each answer has the scores of the settings before or after the change, never neither."""
    clean_cluster.load("books", SOURCES)
    found = clean_cluster.inventory()
    first = settings(clean_cluster, service, default_for=("books",))
    changed = settings(clean_cluster, service, default_for=("books",), score="log_odds")
    apply(clean_cluster, first)
    before = {kind: [one["_id"] for one in there] for kind, there in objects(clean_cluster).items()}
    body = {"query": {"match_all": {}}, "ext": {"ml_inference": {"query_text": QUERY}}}
    with Reranker(model="demo") as reranker:
        ranked = reranker.rank(QUERY, [text_of(source, first.fields) for source in SOURCES]).results
    wanted: dict[str, dict[str, Any]] = {
        score: {
            str(one.index): pytest.approx(getattr(one, score), rel=TOLERANCE, abs=TOLERANCE) for one in ranked
        }
        for score in ("relevance_score", "log_odds")
    }
    seen: list[str] = []
    stop = threading.Event()

    def search_on() -> None:
        while not stop.is_set():
            scores = {hit["_id"]: hit["_score"] for hit in search(clean_cluster, "books", body)}
            names = [name for name, expected in wanted.items() if scores == expected]
            seen.append(names[0] if names else f"first stage: {scores}")

    with ThreadPoolExecutor(2) as pool:
        searches = [pool.submit(search_on) for _ in range(2)]
        try:
            for chosen in (changed, first):
                assert "verify model qwen_rerank_books" in apply(clean_cluster, chosen)
        finally:
            stop.set()
        for one in searches:
            one.result()
    assert set(seen) == set(wanted), set(seen) - set(wanted)
    after = {kind: [one["_id"] for one in there] for kind, there in objects(clean_cluster).items()}
    assert [len(there) for there in after.values()] == [1, 1, 1]
    assert after["models"] != before["models"]
    assert after["model_groups"] == before["model_groups"]
    assert apply(clean_cluster, first) == []
    destroy(clean_cluster, first)
    assert clean_cluster.inventory() == found


def test_a_change_to_a_service_that_does_not_answer_changes_no_search(
    clean_cluster: Cluster, service: RerankService
) -> None:
    clean_cluster.load("books", SOURCES)
    found = clean_cluster.inventory()
    chosen = settings(clean_cluster, service)
    apply(clean_cluster, chosen)
    with pytest.raises(VerificationError, match="keeps its present one"):
        apply(clean_cluster, chosen.model_copy(update={"service": "http://127.0.0.1:1"}))
    body = {"query": {"match_all": {}}, "ext": {"ml_inference": {"query_text": QUERY}}}
    hits = search(clean_cluster, "books", body, search_pipeline="books")
    check_order(hits, [text_of(source, chosen.fields) for source in SOURCES])
    apply(clean_cluster, chosen)
    verify(OpenSearchCluster(clean_cluster.client), chosen)
    destroy(clean_cluster, chosen)
    assert clean_cluster.inventory() == found


def test_a_foreign_default_pipeline_is_replaced_only_with_force_and_restored(
    clean_cluster: Cluster, service: RerankService
) -> None:
    clean_cluster.load("books", SOURCES)
    clean_cluster.request("PUT", "/_search/pipeline/theirs", {"response_processors": []})
    clean_cluster.request("PUT", "/books/_settings", {"index.search.default_pipeline": "theirs"})
    found = clean_cluster.inventory()
    chosen = settings(clean_cluster, service, default_for=("books",))
    with pytest.raises(ForeignObjectError, match="'theirs'"):
        apply(clean_cluster, chosen)
    assert clean_cluster.inventory() == found
    apply(clean_cluster, chosen, force=True)
    destroy(clean_cluster, chosen)
    assert clean_cluster.inventory() == found


def test_the_command_reads_a_configuration_file_and_has_exit_codes(
    clean_cluster: Cluster, service: RerankService, tmp_path: Path
) -> None:
    clean_cluster.load("books", SOURCES)
    found = clean_cluster.inventory()
    chosen = settings(clean_cluster, service)
    section = {name: getattr(chosen, name) for name in ("cluster", "service", "pipeline", "oversample")}
    (tmp_path / "rerank.yaml").write_text(
        json.dumps({"opensearch": {**section, "fields": "title,body"}}), encoding="utf-8"
    )
    (tmp_path / "search.json").write_text(
        json.dumps({"query": {"match_all": {}}, "ext": {"ml_inference": {"query_text": QUERY}}}),
        encoding="utf-8",
    )

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "opensearch_qwen_rerank", *arguments, "--config", "rerank.yaml"],
            cwd=tmp_path,
            capture_output=True,
            check=False,
            text=True,
        )

    planned = command("plan", "--format", "json")
    assert (planned.returncode, json.loads(planned.stdout)["changes"]) == (3, True)
    assert clean_cluster.inventory() == found
    applied = command("apply")
    assert (applied.returncode, applied.stdout) == (0, "done: 7 steps\n"), applied.stderr
    assert command("plan").returncode == 0
    verified = command("verify", "--index", "books", "--search", "search.json", "--format", "json")
    assert verified.returncode == 0, verified.stderr
    report = json.loads(verified.stdout)
    assert sorted(report["first_stage"]) == sorted(report["reranked"])
    assert report["first_stage"] != report["reranked"]
    with locked(OpenSearchCluster(clean_cluster.client)):
        refused = command("destroy")
    assert (refused.returncode, "another command is changing the cluster" in refused.stderr) == (1, True)
    assert command("destroy").returncode == 0
    assert clean_cluster.inventory() == found
    assert not clean_cluster.client.indices.exists(index=LOCK_INDEX)
    again = command("verify")
    assert (again.returncode, "was not applied" in again.stderr) == (1, True)
