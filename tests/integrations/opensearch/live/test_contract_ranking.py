"""Searches through a real cluster have the core's order and scores for the same texts."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from qwen_rerank_plugins import Reranker
from tests.integrations.opensearch.live.recipes import (
    WINDOW_SIZE,
    Connection,
    Kind,
    Recipe,
    by_configuration,
    every_kind,
    set_up,
)
from tests.integrations.opensearch.live.texts import (
    INDEX,
    PASSAGES,
    QUERIES,
    assert_ranked_as_by_the_core,
    hits_of,
    numbers_of,
)
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.faulty import FaultyService, answer_of
from tests.integrations.opensearch.nodes.services import RerankService

WORDS = [
    "whale",
    "fox",
    "paris",
    "harbour",
    "bread",
    "train",
    "water",
    "night",
    "鲸鱼",
    "首都",
    "动物",
    "largest",
    "capital",
    "forest",
]

Recipes = dict[Kind, Recipe]


@every_kind
@pytest.mark.parametrize("query", QUERIES)
def test_every_hit_has_the_cores_score(strict: Recipes, core: Reranker, kind: Kind, query: str) -> None:
    answer = strict[kind].search(INDEX, query, size=len(PASSAGES))
    assert_ranked_as_by_the_core(answer, core, query, PASSAGES)


@every_kind
@pytest.mark.parametrize("count", [100, 1000])
@pytest.mark.timeout(300)
def test_many_hits_are_ranked_in_one_request(
    strict: Recipes, ready: Cluster, service: RerankService, core: Reranker, kind: Kind, count: int
) -> None:
    """1,000 is the service's default limit per list; `ml_inference` alone takes ten seconds for them."""
    chance = random.Random(count)
    texts = [f"{' '.join(chance.choices(WORDS, k=4))} {number}" for number in range(count)]
    index = ready.unique("many")
    ready.load(index, [{"text": text} for text in texts])
    before = service.metric("rerank_answered_total")
    answer = strict[kind].search(index, "largest animal", size=count, params={"request_timeout": 250})
    assert service.metric("rerank_answered_total") == before + 1
    assert_ranked_as_by_the_core(answer, core, "largest animal", texts)


@pytest.mark.parametrize("kind", ["simple", "native"])
def test_more_hits_than_the_services_limit_keep_the_first_stages_order(
    lenient: Recipes, ready: Cluster, kind: Kind
) -> None:
    index = ready.unique("too-many")
    ready.load(index, [{"text": f"fox {number}"} for number in range(1001)])
    answer = lenient[kind].search(index, "fox", size=1001)
    assert numbers_of(answer) == list(range(1001))
    assert {score for _, score in hits_of(answer)} == {1.0}


@every_kind
def test_concurrent_searches_do_not_mix(strict: Recipes, core: Reranker, kind: Kind) -> None:
    queries = [f"{query} {number}" for query in QUERIES for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: strict[kind].search(INDEX, one, size=len(PASSAGES)), queries))
    for query, answer in zip(queries, answers, strict=True):
        assert_ranked_as_by_the_core(answer, core, query, PASSAGES)


@every_kind
def test_a_page_is_ranked_separately(strict: Recipes, core: Reranker, kind: Kind) -> None:
    """Only the hits between a search's `from` and `size` are reranked."""
    answer = strict[kind].search(INDEX, "largest animal", size=4, from_=2)
    assert set(numbers_of(answer)) == {2, 3, 4, 5}
    scores = core.score("largest animal", PASSAGES[2:6])
    assert dict(hits_of(answer)) == pytest.approx(dict(enumerate(scores, start=2)), abs=1e-5)
    assert answer["hits"]["total"]["value"] == len(PASSAGES)


@every_kind
def test_a_window_is_wider_than_the_page(
    ready: Cluster, service: RerankService, core: Reranker, kind: Kind
) -> None:
    if kind != "native" and not ready.can_oversample:
        pytest.skip("the module with oversample and truncate_hits is not published for this version")
    recipe = set_up(ready, kind, Connection(service.rerank_url, window=8))
    answer = recipe.search(INDEX, "世界上最大的动物", size=WINDOW_SIZE)
    best = core.rank("世界上最大的动物", PASSAGES[:8], top_n=WINDOW_SIZE)
    assert numbers_of(answer) == [one.index for one in best.results]


@pytest.mark.parametrize("kind", ["rich", "native"])
def test_the_first_stages_score_is_kept(strict: Recipes, ready: Cluster, kind: Kind) -> None:
    """In the source with `rich`, in the requested fields with `native`; `simple` loses it."""
    query = {"match": {"text": "whale fox largest"}}
    first = ready.client.search(index=INDEX, body={"query": query})
    hits = strict[kind].search(INDEX, "a fox", query=query)["hits"]["hits"]
    kept = {
        int(hit["_id"]): hit["_source"]["previous_score"]
        if kind == "rich"
        else hit["fields"]["previous_score"][0]
        for hit in hits
    }
    assert kept == pytest.approx(dict(hits_of(first)), rel=1e-6)
    assert len(kept) >= 2
    assert not any("rerank_score" in hit["_source"] for hit in hits)


def test_a_sorted_search_has_no_first_stage_score(strict: Recipes, core: Reranker) -> None:
    """Reranking replaces the sort; the first stage's score, which a sort omits, becomes the text `NaN` with `rich`.

    `native` does not rerank such a search.
    """
    answer = strict["rich"].search(INDEX, "a fox", size=len(PASSAGES), sort=[{"number": "desc"}])
    assert {hit["_source"]["previous_score"] for hit in answer["hits"]["hits"]} == {"NaN"}
    scores = core.score("a fox", PASSAGES)
    assert dict(hits_of(answer)) == pytest.approx(dict(enumerate(scores)), abs=1e-5)
    kept = strict["native"].search(INDEX, "a fox", size=len(PASSAGES), sort=[{"number": "desc"}])
    assert numbers_of(kept) == list(range(len(PASSAGES)))[::-1]
    assert kept["ext"]["qwen_rerank"]["status"] == "skipped"


@pytest.mark.parametrize("kind", ["rich", "native"])
def test_an_instruction_can_be_set_with_each_search(strict: Recipes, core: Reranker, kind: Kind) -> None:
    answers = []
    for instruction in ("Find a passage about food", '找到关于城市的段落 "quoted"'):
        answer = strict[kind].search(INDEX, "animal", size=len(PASSAGES), instruction=instruction)
        assert_ranked_as_by_the_core(answer, core, "animal", PASSAGES, instruction=instruction)
        answers.append(dict(hits_of(answer)))
    assert answers[0] != pytest.approx(answers[1], abs=1e-5)


def test_the_rich_recipe_reads_scores_in_the_order_of_the_documents(
    ready: Cluster, faulty_service: FaultyService
) -> None:
    """The service's `results` may have any order: the hits get `scores` by position."""
    places = list(range(len(PASSAGES)))
    literals = [f"0.{place:02}" for place in places]
    faulty_service.always = lambda service, body: answer_of(literals, order=places[::-1])
    recipe = set_up(ready, "rich", Connection(faulty_service.rerank_url))
    answer = recipe.search(INDEX, "anything", size=len(PASSAGES))
    assert dict(hits_of(answer)) == pytest.approx({place: place / 100 for place in places})


@pytest.mark.parametrize("kind", ["simple", "native"])
def test_scores_are_read_by_index(ready: Cluster, faulty_service: FaultyService, kind: Kind) -> None:
    places = list(range(len(PASSAGES)))
    literals = [f"0.{place:02}" for place in places]
    faulty_service.always = lambda service, body: answer_of(literals, order=places[::-1])
    recipe = set_up(ready, kind, Connection(faulty_service.rerank_url))
    answer = recipe.search(INDEX, "anything", size=len(PASSAGES))
    assert dict(hits_of(answer)) == pytest.approx({place: place / 100 for place in places})


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"match": {"text": {"query": "largest animal"}}}, "query.match.text.query"),
        ({"match": {"text": "largest animal"}}, "query.match.text.query"),
        ({"multi_match": {"query": "largest animal", "fields": ["text"]}}, "query.multi_match.query"),
        (
            {"bool": {"must": [{"match": {"text": {"query": "largest animal"}}}]}},
            "query.bool.must.0.match.text.query",
        ),
    ],
)
def test_the_simple_recipe_reads_the_query_from_the_search(
    strict: Recipes, ready: Cluster, core: Reranker, query: dict[str, object], path: str
) -> None:
    """The path refers to the search's full form, which OpenSearch also uses for a short `match`."""
    answer = strict["simple"].search(
        INDEX, None, query=query, ext={"rerank": {"query_context": {"query_text_path": path}}}
    )
    found = numbers_of(ready.client.search(index=INDEX, body={"query": query}))
    scores = core.score("largest animal", [PASSAGES[number] for number in found])
    assert found
    assert dict(hits_of(answer)) == pytest.approx(dict(zip(found, scores, strict=True)), abs=1e-5)


@every_kind
def test_a_pipeline_can_be_the_default_of_an_index(
    strict: Recipes, ready: Cluster, core: Reranker, kind: Kind
) -> None:
    index = ready.unique("own")
    ready.load(index, [{"text": text} for text in PASSAGES])
    ready.request("PUT", f"/{index}/_settings", {"index.search.default_pipeline": strict[kind].name})
    body = {
        "query": {"match_all": {}},
        "size": len(PASSAGES),
        "ext": strict[kind].ext(
            "capital", "Given a web search query, retrieve relevant passages that answer the query"
        ),
    }
    assert_ranked_as_by_the_core(ready.client.search(index=index, body=body), core, "capital", PASSAGES)


@by_configuration
def test_a_failed_reranking_is_visible_with_verbose_pipeline(lenient: Recipes, kind: Kind) -> None:
    """By configuration, `verbose_pipeline` is the only way to see in a response that hits were not reranked."""
    verbose = {"verbose_pipeline": "true"}
    good = lenient[kind].search(INDEX, "a fox", params=verbose)
    bad = lenient[kind].search(INDEX, '{"json": 1}', params=verbose)
    assert {one["status"] for one in good["processor_results"]} == {"success"}
    assert "fail" in {one["status"] for one in bad["processor_results"]}
    assert "processor_results" not in lenient[kind].search(INDEX, '{"json": 1}')
