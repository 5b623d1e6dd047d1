"""The native processor ranks hits as the core does, and cuts pages of one list."""

from __future__ import annotations

import random
from typing import Any

import pytest
from opensearchpy.exceptions import RequestError

from qwen_rerank_plugins import Reranker
from tests.integrations.opensearch.conftest import BOOT_TIMEOUT_S, NATIVE_KEY
from tests.integrations.opensearch.live.texts import (
    INDEX,
    PASSAGES,
    QUERIES,
    assert_ranked_as_by_the_core,
    hits_of,
    numbers_of,
)
from tests.integrations.opensearch.nodes.faulty import FaultyService, Reply, answer_of
from tests.integrations.opensearch.nodes.services import RerankService
from tests.integrations.opensearch.plugin.conftest import NUM_NUMBERS, Native, on_every_node
from tests.integrations.opensearch.test_client_docs import BLOCKS

pytestmark = [on_every_node, pytest.mark.timeout(BOOT_TIMEOUT_S)]

BEST_FIRST = list(range(19, -1, -1))
"""The numbers of the window, as the faulty service ranks them."""


def outcome_of(answer: Any) -> Any:
    """Return the mark of a response."""
    return answer["ext"]["qwen_rerank"]


def test_hits_have_the_cores_scores(native: Native, service: RerankService, core: Reranker) -> None:
    native.allow(service.url)
    pipeline = native.pipeline(service.url)
    for query in QUERIES:
        ext = {"qwen_rerank": {"query_text": query, "timeout": "60s"}}
        answer = native.search(pipeline, INDEX, query={"match_all": {}}, size=len(PASSAGES), ext=ext)
        assert outcome_of(answer)["status"] == "reranked"
        assert_ranked_as_by_the_core(answer, core, query, PASSAGES)


def test_the_instruction_of_a_search_is_used(native: Native, service: RerankService, core: Reranker) -> None:
    native.allow(service.url)
    pipeline = native.pipeline(service.url, instruction="Find animals")
    for instruction in (None, "Find the text with the most numbers"):
        options = {"query_text": QUERIES[0], "timeout": "60s"} | (
            {"instruction": instruction} if instruction else {}
        )
        answer = native.search(
            pipeline, INDEX, query={"match_all": {}}, size=len(PASSAGES), ext={"qwen_rerank": options}
        )
        used = instruction or "Find animals"
        assert_ranked_as_by_the_core(answer, core, QUERIES[0], PASSAGES, instruction=used)


def test_pages_are_slices_of_one_list(native: Native, faulty: FaultyService) -> None:
    """The window is reranked, the hits behind it keep their order and have no score."""
    pipeline = native.pipeline(faulty.url)
    whole = hits_of(native.search(pipeline, size=NUM_NUMBERS))
    assert [number for number, _ in whole] == BEST_FIRST + list(range(20, NUM_NUMBERS))
    assert [score for _, score in whole[:20]] == pytest.approx([number / 100 for number in BEST_FIRST])
    assert {score for _, score in whole[20:]} == {None}
    chance = random.Random(3)
    for _ in range(200):
        start, size = chance.randrange(NUM_NUMBERS), chance.randrange(1, 30)
        answer = native.search(pipeline, from_=start, size=size)
        assert hits_of(answer) == whole[start : start + size]
        assert answer["hits"]["total"]["value"] == NUM_NUMBERS
    assert all(len(seen.body["documents"]) == 20 for seen in faulty.seen)


def test_the_key_is_sent_in_a_header(native: Native, faulty: FaultyService) -> None:
    native.search(native.pipeline(faulty.url))
    assert faulty.seen[0].headers["authorization"] == f"Bearer {NATIVE_KEY}"
    assert NATIVE_KEY not in str(native.cluster.request("GET", "/_nodes/settings"))


def test_connections_are_kept_open(native: Native, faulty: FaultyService) -> None:
    pipeline = native.pipeline(faulty.url)
    for _ in range(20):
        native.search(pipeline)
    assert len(faulty.seen) == 20
    assert faulty.connections <= 2


QUERY_FORMS: tuple[dict[str, Any], ...] = (
    {"match": {"text": "whales"}},
    {"multi_match": {"query": "whales", "fields": ["text"]}},
    {"query_string": {"query": "whales"}},
    {"bool": {"filter": [{"range": {"number": {"gte": 0}}}], "must": [{"match": {"text": "whales"}}]}},
)


@pytest.mark.parametrize("query", QUERY_FORMS, ids=str)
def test_the_text_is_read_from_the_query(
    native: Native, faulty: FaultyService, query: dict[str, Any]
) -> None:
    answer = native.search(native.pipeline(faulty.url), query=query)
    assert numbers_of(answer) == BEST_FIRST[:10]
    assert [seen.body["query"] for seen in faulty.seen] == ["whales"]


def test_a_search_without_a_text_says_so(native: Native, faulty: FaultyService) -> None:
    query: dict[str, Any] = {"match_all": {}}
    assert "query_text" in outcome_of(native.search(native.pipeline(faulty.url), query=query))["reason"]
    with pytest.raises(RequestError, match=r"ext\.qwen_rerank\.query_text"):
        native.search(native.pipeline(faulty.url, on_failure="fail"), query=query)
    assert faulty.seen == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"sort": ["number"]}, "sorts"),
        ({"size": 0}, "size 0"),
        ({"collapse": {"field": "number"}}, "collapses"),
        ({"from_": 20}, "behind the window"),
        ({"query": {"match": {"text": "nothing"}}}, "no hits"),
        ({"ext": {"qwen_rerank": {"fields": ["missing"]}}}, "no hit has a text"),
    ],
    ids=str,
)
def test_some_searches_are_skipped(
    native: Native, faulty: FaultyService, body: dict[str, Any], reason: str
) -> None:
    answer = native.search(native.pipeline(faulty.url), **body)
    plain = native.search("_none", **{name: value for name, value in body.items() if name != "ext"})
    assert outcome_of(answer)["status"] == "skipped"
    assert reason in outcome_of(answer)["reason"]
    assert numbers_of(answer) == numbers_of(plain)
    assert faulty.seen == []


@pytest.mark.parametrize("source", [False, "title", {"excludes": ["te*", "number"]}, ["num*"]], ids=str)
def test_source_filtering_leaves_the_text(native: Native, faulty: FaultyService, source: Any) -> None:
    for request in ({"window": 20}, {"window": 20, "fields": ["text"]}):
        answer = native.search(native.pipeline(faulty.url, request=request), _source=source)
        plain = native.search("_none", _source=source, size=NUM_NUMBERS)
        assert numbers_of(answer) == BEST_FIRST[:10]
        expected = {hit["_id"]: hit.get("_source") for hit in plain["hits"]["hits"]}
        assert all(hit.get("_source") == expected[hit["_id"]] for hit in answer["hits"]["hits"])


def test_a_nested_document_is_ranked_by_its_best_part(native: Native, faulty: FaultyService) -> None:
    index = native.cluster.unique("nested")
    parts = [["0.1 a", "0.9 b"], ["0.5 c"], ["0.2 d", "0.3 e"]]
    documents = [{"parts": [{"text": text} for text in texts]} for texts in parts]
    native.cluster.load(index, documents, properties={"parts": {"type": "nested"}})
    nested = {"path": "parts", "query": {"match_all": {}}, "inner_hits": {"name": "p"}}
    pipeline = native.pipeline(faulty.url, fields=["inner_hits.p.text"], highlight=True)
    ext = {"qwen_rerank": {"query_text": "letters"}}
    answer = native.search(pipeline, index, query={"nested": nested}, ext=ext, _source=False)
    assert numbers_of(answer) == [0, 1, 2]
    assert [score for _, score in hits_of(answer)] == pytest.approx([0.9, 0.5, 0.3])
    assert answer["hits"]["hits"][0]["highlight"] == {"inner_hits.p.text": ["0.9 b"]}
    assert sorted(faulty.seen[0].body["documents"]) == sorted(text for texts in parts for text in texts)


def test_fusion_threshold_and_first_score(native: Native, faulty: FaultyService) -> None:
    fused = native.pipeline(faulty.url, fusion={"method": "rrf"}, keep_first_score="first")
    answer = native.search(fused, size=20)
    first = {hit["_id"]: hit["_score"] for hit in native.search("_none", size=20)["hits"]["hits"]}
    expected = {number: 1 / (61 + number) + 1 / (80 - number) for number in range(20)}
    assert dict(hits_of(answer)) == pytest.approx(expected, rel=1e-6)
    assert {hit["_id"]: hit["fields"]["first"][0] for hit in answer["hits"]["hits"]} == pytest.approx(first)
    answer = native.search(native.pipeline(faulty.url, min_score=0.165), size=20)
    assert numbers_of(answer) == [19, 18, 17]


def test_a_passage_is_highlighted(native: Native, faulty: FaultyService) -> None:
    results = answer_of(["0.5"] * 20)
    faulty.always = lambda service, body: type(results)(
        200, results.body.replace(b"0.5}", b'0.5, "span": [5, 11]}')
    )
    answer = native.search(native.pipeline(faulty.url, highlight=True), size=1)
    assert answer["hits"]["hits"][0]["highlight"] == {"text": ["whales"]}


def test_without_the_request_half_the_page_is_reranked(native: Native, faulty: FaultyService) -> None:
    name = native.cluster.unique("half")
    processor = {"qwen_rerank": {"endpoint": faulty.url, "fields": ["text"], "timeout": "20s"}}
    native.cluster.request("PUT", f"/_search/pipeline/{name}", {"response_processors": [processor]})
    assert numbers_of(native.search(name, from_=5, size=3)) == [7, 6, 5]


def test_aggregations_and_the_rest_are_kept(native: Native, faulty: FaultyService) -> None:
    aggs = {"top": {"max": {"field": "number"}}}
    answer = native.search(native.pipeline(faulty.url), aggs=aggs, profile=True)
    assert answer["aggregations"]["top"]["value"] == NUM_NUMBERS - 1
    assert answer["profile"]["shards"]
    assert answer["hits"]["max_score"] == pytest.approx(0.19)
    assert outcome_of(answer).keys() == {"status", "took_ms"}


def test_the_search_in_the_documentation_has_the_outcome_shown_there(
    native: Native, faulty: FaultyService
) -> None:
    shown = {name: body for kind, name, body in BLOCKS if kind == "native"}
    index = native.cluster.unique("documented")
    native.cluster.load(
        index, [{"body": "limescale 0.5", "language": "en"}], properties={"language": {"type": "keyword"}}
    )
    faulty.always = lambda service, body: Reply(
        200, b'{"model": "m", "results": [{"index": 0, "relevance_score": 0.5}]}'
    )
    pipeline = native.pipeline(faulty.url, fields=["body"])
    search = shown["search"]
    search["ext"]["qwen_rerank"]["timeout"] = "20s"
    answer = native.search(pipeline, index, **search)
    assert numbers_of(answer) == [0]
    assert outcome_of(answer).keys() == shown["outcome"].keys()
    assert faulty.seen[0].body["query"] == search["ext"]["qwen_rerank"]["query_text"]


def test_wrong_options_are_refused(native: Native, faulty: FaultyService) -> None:
    with pytest.raises(RequestError, match="colour"):
        native.pipeline(faulty.url, colour="red")
    with pytest.raises(RequestError, match="windows"):
        native.pipeline(faulty.url, request={"windows": 3})
    with pytest.raises(RequestError, match="min_score"):
        native.search(native.pipeline(faulty.url), ext={"qwen_rerank": {"min_score": 7}})
