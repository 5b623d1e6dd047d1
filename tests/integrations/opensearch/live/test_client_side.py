"""Reranking on the client side of real clusters' responses, compared with the core on the same texts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opensearch_qwen_rerank.client import (
    AsyncClientSideReranker,
    ClientSideReranker,
    LinearFusion,
    RankFusion,
)
from opensearchpy import AsyncOpenSearch

from qwen_rerank_plugins import Reranker
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.services import RerankService

QUERY = "How do I remove limescale from a kettle?"
DOCUMENTS: list[dict[str, Any]] = [
    {"title": "Trains", "text": "How the night trains to the coast are made up", "n": 1, "group": "a"},
    {"title": "Limescale", "text": "Boil vinegar in the kettle to remove limescale", "n": 2, "group": "a"},
    {"title": "Kettles", "text": "A kettle of steel lasts longer than one of glass", "n": 3, "group": "b"},
    {"title": "水壶", "text": "用醋可以去除水壶里的水垢 😀", "n": 4, "group": "b"},
    {"title": "Empty", "text": "", "n": 5, "group": "c"},
    {"text": "Do I have to remove the kettle?", "n": 6, "group": "c"},
    {"title": "Nothing to read", "n": 7, "group": "c"},
]
MAPPINGS = {"properties": {"n": {"type": "integer"}, "group": {"type": "keyword"}}}
ALL = {"query": {"match_all": {}}, "sort": ["n"], "size": 20}
MATCH = {"query": {"match": {"text": {"query": QUERY}}}}
FIELDS = ["title", "text"]


@pytest.fixture(scope="module")
def index(cluster: Cluster) -> Iterator[str]:
    name = cluster.unique("client-side")
    cluster.load(name, DOCUMENTS, **MAPPINGS)
    yield name
    cluster.client.indices.delete(index=name, ignore_unavailable=True)


def text_of(document: dict[str, Any]) -> str:
    return "\n\n".join(filter(None, [document.get("title"), document.get("text")]))


def expected(core: Reranker, numbers: list[int]) -> dict[str, float]:
    """Return the documents' ids and probabilities in the core's order."""
    found = core.rank(QUERY, [text_of(DOCUMENTS[number]) for number in numbers])
    return {str(numbers[one.index]): one.relevance_score or 0.0 for one in found.results}


def scores_by_id(response: dict[str, Any]) -> dict[str, Any]:
    return {one["_id"]: one["_score"] for one in response["hits"]["hits"]}


def test_hits_have_the_cores_order_and_scores(cluster: Cluster, core: Reranker, index: str) -> None:
    reranker = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS)
    answer = reranker.search(ALL, index=index, query=QUERY)
    wanted = expected(core, list(range(7)))
    assert list(scores_by_id(answer)) == list(wanted)
    assert scores_by_id(answer) == pytest.approx(wanted, abs=1e-6)
    assert answer["hits"]["max_score"] == max(scores_by_id(answer).values())
    assert answer["hits"]["total"]["value"] == 7
    assert answer["rerank"]["status"] == "ranked"


def test_a_service_scores_as_the_core_does(
    cluster: Cluster, core: Reranker, index: str, service: RerankService
) -> None:
    with ClientSideReranker(
        cluster.client, backend="remote", base_url=service.url, fields=FIELDS
    ) as reranker:
        answer = reranker.search(ALL, index=index, query=QUERY)
    assert scores_by_id(answer) == pytest.approx(expected(core, list(range(7))), abs=1e-4)


def test_an_asynchronous_client_returns_the_same(cluster: Cluster, core: Reranker, index: str) -> None:
    async def search() -> dict[str, Any]:
        async with AsyncOpenSearch(cluster.url) as client:
            reranker = AsyncClientSideReranker(client, reranker=core, fields=FIELDS)
            return await reranker.search(ALL, index=index, query=QUERY)

    blocking = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS).search(
        ALL, index=index, query=QUERY
    )
    assert asyncio.run(search())["hits"] == blocking["hits"]


def test_pages_are_cut_from_one_window_with_the_other_hits_behind(
    cluster: Cluster, core: Reranker, index: str
) -> None:
    reranker = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS, window=4)
    pages = [
        scores_by_id(reranker.search({**ALL, "from": start, "size": 3}, index=index, query=QUERY))
        for start in (0, 3, 6)
    ]
    ids = [name for page in pages for name in page]
    assert ids == [*expected(core, [0, 1, 2, 3]), "4", "5", "6"]
    assert list(pages[1].values())[1:] == [None, None]


def test_the_query_and_the_first_stages_score_are_those_of_the_search(
    cluster: Cluster, core: Reranker, index: str
) -> None:
    plain = cluster.client.search(index=index, body=MATCH)
    reranker = ClientSideReranker(
        cluster.client, reranker=core, fields=FIELDS, query_path="query.match.text.query"
    )
    answer = reranker.search(MATCH, index=index)
    kept = {one["_id"]: one["rerank"]["first_stage_score"] for one in answer["hits"]["hits"]}
    assert kept == pytest.approx({one["_id"]: one["_score"] for one in plain["hits"]["hits"]})
    numbers = [int(one["_id"]) for one in plain["hits"]["hits"]]
    assert list(scores_by_id(answer)) == list(expected(core, numbers))


def test_a_search_for_either_pipeline_runs_unchanged(cluster: Cluster, core: Reranker, index: str) -> None:
    """The cluster does not need to know `ext.rerank`, which is not sent."""
    reranker = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS)
    simple = {"rerank": {"query_context": {"query_text": QUERY}}}
    rich = {"ml_inference": {"query_text": QUERY, "instruction": "Find the remedy"}}
    wanted = list(expected(core, list(range(7))))
    assert list(scores_by_id(reranker.search({**ALL, "ext": simple}, index=index))) == wanted
    assert set(scores_by_id(reranker.search({**ALL, "ext": rich}, index=index))) == set(wanted)


def test_everything_else_a_search_requests_is_returned(cluster: Cluster, core: Reranker, index: str) -> None:
    reranker = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS)
    body = {
        **MATCH,
        "size": 2,
        "aggs": {"groups": {"terms": {"field": "group"}}},
        "highlight": {"fields": {"text": {}}},
        "track_total_hits": False,
    }
    plain = cluster.client.search(index=index, body=body)
    answer = reranker.search(body, index=index, query=QUERY)
    assert answer["aggregations"] == plain["aggregations"]
    assert "total" not in answer["hits"]
    assert len(answer["hits"]["hits"]) == 2
    assert all("highlight" in one for one in answer["hits"]["hits"])


def test_groups_are_reranked_by_their_best_hits(cluster: Cluster, core: Reranker, index: str) -> None:
    reranker = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS)
    answer = reranker.search({**ALL, "collapse": {"field": "group"}}, index=index, query=QUERY)
    assert list(scores_by_id(answer)) == list(expected(core, [0, 2, 4]))
    assert [one["fields"]["group"] for one in answer["hits"]["hits"]]


def test_requested_fields_are_read_without_the_source(cluster: Cluster, core: Reranker, index: str) -> None:
    reranker = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS)
    answer = reranker.search({**ALL, "_source": False, "fields": FIELDS}, index=index, query=QUERY)
    assert list(scores_by_id(answer)) == list(expected(core, list(range(7))))
    without = reranker.search({**ALL, "_source": False}, index=index, query=QUERY)
    assert (without["rerank"]["status"], without["rerank"]["num_without_text"]) == ("skipped", 7)


def test_cursors_reach_every_hit_once(cluster: Cluster, core: Reranker, index: str) -> None:
    reranker = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS)
    made = cluster.client.create_pit(index=index, params={"keep_alive": "1m"})
    body: dict[str, Any] = {"query": {"match_all": {}}, "sort": ["n"], "size": 3}
    seen: list[str] = []
    try:
        while True:
            answer = reranker.search({**body, "pit": {"id": made["pit_id"]}}, query=QUERY)
            if not answer["hits"]["hits"]:
                break
            seen += scores_by_id(answer)
            body["search_after"] = answer["rerank"]["next_search_after"]
    finally:
        cluster.client.delete_pit(body={"pit_id": [made["pit_id"]]})
    assert sorted(seen) == [str(number) for number in range(7)]
    assert seen == [*expected(core, [0, 1, 2]), *expected(core, [3, 4, 5]), "6"]


def test_pages_of_a_scroll_are_reranked_separately(cluster: Cluster, core: Reranker, index: str) -> None:
    reranker = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS)
    first = reranker.search({**ALL, "size": 4}, index=index, query=QUERY, params={"scroll": "1m"})
    second = reranker.rerank(cluster.client.scroll(body={"scroll_id": first["_scroll_id"]}), QUERY)
    assert list(scores_by_id(first)) == list(expected(core, [0, 1, 2, 3]))
    assert list(scores_by_id(second)) == list(expected(core, [4, 5, 6]))


def test_a_document_has_the_score_of_its_best_passage(cluster: Cluster, core: Reranker) -> None:
    index = cluster.unique("passages")
    texts = [["A red fox", "Trains to the coast"], ["A kettle", DOCUMENTS[1]["text"]], ["Remove it"]]
    documents = [
        {"title": str(n), "passages": [{"text": text} for text in one]} for n, one in enumerate(texts)
    ]
    cluster.load(index, documents, properties={"passages": {"type": "nested"}})
    inner = {"name": "best", "size": 10}
    body = {"query": {"nested": {"path": "passages", "query": {"match_all": {}}, "inner_hits": inner}}}
    answer = ClientSideReranker(cluster.client, reranker=core, fields=["inner_hits.best.text"]).search(
        body, index=index, query=QUERY
    )
    best = {str(n): max(core.score(QUERY, one)) for n, one in enumerate(texts)}
    assert scores_by_id(answer) == pytest.approx(best, abs=1e-6)
    assert list(scores_by_id(answer)) == sorted(best, key=lambda name: -best[name])
    top = answer["hits"]["hits"][0]
    found = top["inner_hits"]["best"]["hits"]["hits"][top["rerank"]["inner_hit"]]
    assert found["_source"]["text"] == max(
        texts[int(top["_id"])], key=lambda text: core.score(QUERY, [text])[0]
    )
    cluster.client.indices.delete(index=index)


@pytest.mark.parametrize("fusion", [LinearFusion(weight=0.5), RankFusion()])
def test_fusion_combines_both_orders(
    cluster: Cluster, core: Reranker, index: str, fusion: LinearFusion | RankFusion
) -> None:
    plain = cluster.client.search(index=index, body=MATCH)["hits"]["hits"]
    first = [one["_score"] for one in plain]
    model = core.score(QUERY, [text_of(one["_source"]) for one in plain])
    if isinstance(fusion, LinearFusion):
        fused = fusion.fuse(first, model)
    else:
        ranks = [sorted(range(len(model)), key=lambda n: -model[n]).index(n) + 1 for n in range(len(model))]
        fused = fusion.fuse(range(1, len(first) + 1), ranks)
    reranker = ClientSideReranker(cluster.client, reranker=core, fields=FIELDS, fusion=fusion)
    answer = scores_by_id(reranker.search(MATCH, index=index, query=QUERY))
    assert answer == pytest.approx({one["_id"]: score for one, score in zip(plain, fused, strict=True)})


def test_an_unreachable_service_keeps_the_clusters_response(cluster: Cluster, index: str) -> None:
    with ClientSideReranker(
        cluster.client,
        backend="remote",
        base_url="http://127.0.0.1:9",  # no service listens there
        retries=0,
        on_error="keep_order",
        fields=FIELDS,
    ) as reranker:
        answer = reranker.search({**MATCH, "size": 2}, index=index, query=QUERY)
    plain = cluster.client.search(index=index, body={**MATCH, "size": 2})
    assert answer["hits"] == plain["hits"]
    assert answer["rerank"]["status"] == "failed"
    assert "RemoteConnectionError" in answer["rerank"]["error"]
