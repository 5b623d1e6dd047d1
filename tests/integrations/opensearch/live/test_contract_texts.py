"""The texts of hits and queries that reach the service, and those that OpenSearch itself cannot send.

Failures in this file happen in the cluster, before or after the service. The tests record them, so that the documentation
can describe them and a fix in a newer version is noticed. `native` has none of them.
"""

from __future__ import annotations

from typing import Any

import pytest
from opensearchpy.exceptions import RequestError, TransportError

from qwen_rerank_plugins import Reranker
from tests.integrations.opensearch.live.recipes import (
    INSTRUCTION,
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
    assert_ranked_as_by_the_core,
    hits_of,
    numbers_of,
)
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.faulty import FaultyService
from tests.integrations.opensearch.nodes.services import RerankService

Recipes = dict[Kind, Recipe]
SKIP = {"skip_validating_missing_parameters": "true"}


def sent_documents(
    cluster: Cluster, double: FaultyService, kind: Kind, sources: list[dict[str, Any]], **connection: Any
) -> list[Any]:
    """Return the documents that a search sends to a service, in the order of the index's sources."""
    index = cluster.unique("sources")
    cluster.load(index, sources)
    recipe = set_up(cluster, kind, Connection(double.rerank_url, **connection))
    recipe.search(index, "query", size=len(sources))
    documents: list[Any] = double.seen[-1].body["documents"]
    return documents


@every_kind
def test_texts_arrive_unchanged(ready: Cluster, faulty_service: FaultyService, kind: Kind) -> None:
    sources = [{"text": text} for text in PASSAGES]
    assert sent_documents(ready, faulty_service, kind, sources) == list(PASSAGES)


QUERIES = (
    'say "hi"\n\\ / \t ok',
    "鲸鱼 🐳 ünï",
    "123",
    "true",
    "null",
    '"quoted"',
    "{a: 1} and more",
    "[draft]",
    "%24{x}",
)
JSON_QUERIES = ('{"a": 1}', '["blue"]')


@every_kind
def test_a_query_arrives_unchanged(ready: Cluster, faulty_service: FaultyService, kind: Kind) -> None:
    recipe = set_up(ready, kind, Connection(faulty_service.rerank_url))
    queries = (*QUERIES, *JSON_QUERIES, "${parameters.query}") if kind == "native" else QUERIES
    for query in queries:
        recipe.search(INDEX, query)
    assert [seen.body["query"] for seen in faulty_service.seen] == list(queries)
    assert {seen.body["instruction"] for seen in faulty_service.seen} == {INSTRUCTION}


@by_configuration
@pytest.mark.parametrize("query", JSON_QUERIES)
def test_a_query_that_is_json_fails_in_the_cluster(
    strict: Recipes, lenient: Recipes, kind: Kind, query: str
) -> None:
    """The cluster puts it into the request without escaping quotes, and the error message contains the request."""
    with pytest.raises(RequestError, match="Invalid payload") as failure:
        strict[kind].search(INDEX, query)
    assert PASSAGES[0] in str(failure.value)
    assert numbers_of(lenient[kind].search(INDEX, query)) == list(range(10))


@by_configuration
def test_a_blank_query_is_refused_by_the_service(strict: Recipes, lenient: Recipes, kind: Kind) -> None:
    with pytest.raises(TransportError, match="query is blank") as failure:
        strict[kind].search(INDEX, " ")
    assert failure.value.status_code == 422
    assert numbers_of(lenient[kind].search(INDEX, " ")) == list(range(10))


def test_a_blank_query_text_is_refused_by_the_native_processor(strict: Recipes, lenient: Recipes) -> None:
    """It is a wrong option, which fails the search whatever happens to failures."""
    for recipes in (strict, lenient):
        with pytest.raises(RequestError, match="query_text"):
            recipes["native"].search(INDEX, " ")


@by_configuration
def test_the_cluster_replaces_a_placeholder_in_a_document(
    ready: Cluster, faulty_service: FaultyService, kind: Kind
) -> None:
    """A known name is replaced; an unknown one is kept if the connector skips the validation."""
    texts = ["use ${parameters.query} here", "and ${parameters.nothing} there", "a price of $5 {net}"]
    sources = [{"text": text} for text in texts]
    sent = sent_documents(ready, faulty_service, kind, sources, parameters=SKIP)
    assert sent == ["use query here", texts[1], texts[2]]


@by_configuration
def test_an_unknown_placeholder_fails_in_the_cluster(
    ready: Cluster, lenient: Recipes, strict: Recipes, kind: Kind
) -> None:
    index = ready.unique("placeholder")
    ready.load(index, [{"text": "and ${parameters.nothing} there"}, {"text": "blue whale"}])
    with pytest.raises(RequestError, match="placeholder not filled in payload: nothing"):
        strict[kind].search(index, "blue whale")
    assert numbers_of(lenient[kind].search(index, "blue whale")) == [0, 1]


@by_configuration
def test_a_placeholder_for_the_documents_themselves_fails_in_the_cluster(
    ready: Cluster, service: RerankService, lenient: Recipes, kind: Kind
) -> None:
    """No setting of the service or the connector avoids it, only `ignore_failure`."""
    index = ready.unique("loop")
    ready.load(index, [{"text": "use ${parameters.documents} here"}, {"text": "blue whale"}])
    recipe = set_up(ready, kind, Connection(service.rerank_url, parameters=SKIP))
    with pytest.raises(TransportError, match="Infinite loop in property interpolation"):
        recipe.search(index, "blue whale")
    assert numbers_of(lenient[kind].search(index, "blue whale")) == [0, 1]


def test_the_native_processor_sends_placeholders_unchanged(
    ready: Cluster, faulty_service: FaultyService
) -> None:
    texts = [f"use ${{parameters.{name}}} here" for name in ("query", "nothing", "documents")]
    assert sent_documents(ready, faulty_service, "native", [{"text": text} for text in texts]) == texts


def test_a_placeholder_in_a_query_reads_the_connectors_parameters(
    ready: Cluster, faulty_service: FaultyService
) -> None:
    """Parameters must not contain secrets; credentials are in headers only and cannot be read."""
    connection = Connection(faulty_service.rerank_url, parameters={"note": "inner", **SKIP}, key="secret")
    recipe = set_up(ready, "simple", connection)
    recipe.search(INDEX, "tell ${parameters.note} and ${credential.api_key}")
    (seen,) = faulty_service.seen
    assert seen.body["query"] == "tell inner and ${credential.api_key}"
    assert seen.headers["authorization"] == "Bearer secret"


def test_the_simple_recipe_reads_a_missing_field_as_an_empty_text(
    ready: Cluster, faulty_service: FaultyService, strict: Recipes, core: Reranker
) -> None:
    sources: list[dict[str, Any]] = [{"text": "blue whale"}, {"title": "no text"}, {"text": ""}]
    assert sent_documents(ready, faulty_service, "simple", sources) == ["blue whale", "", ""]
    index = ready.unique("sparse")
    ready.load(index, sources)
    answer = strict["simple"].search(index, "blue whale")
    scores = core.score("blue whale", ["blue whale", "", ""])
    assert dict(hits_of(answer)) == pytest.approx(dict(enumerate(scores)), abs=1e-5)
    assert numbers_of(answer) == [0, 1, 2]


def test_the_native_processor_ranks_hits_without_a_text_last(
    ready: Cluster, faulty_service: FaultyService, strict: Recipes
) -> None:
    sources: list[dict[str, Any]] = [{"title": "no text"}, {"text": ""}, {"text": "blue whale"}]
    assert sent_documents(ready, faulty_service, "native", sources) == ["blue whale"]
    index = ready.unique("sparse")
    ready.load(index, sources)
    hits = hits_of(strict["native"].search(index, "blue whale"))
    assert [number for number, _ in hits] == [2, 0, 1]
    assert [score for _, score in hits[1:]] == [None, None]


def test_the_rich_recipe_fails_on_a_missing_field(strict: Recipes, lenient: Recipes, ready: Cluster) -> None:
    """One hit without the field is enough; an empty field is not missing."""
    index = ready.unique("sparse")
    ready.load(index, [{"text": "a fox"}, {"title": "no text"}, {"text": "blue whale"}])
    with pytest.raises(RequestError, match="cannot find all required input fields"):
        strict["rich"].search(index, "blue whale")
    assert numbers_of(lenient["rich"].search(index, "blue whale")) == [0, 1, 2]
    empty = ready.unique("empty")
    ready.load(empty, [{"text": ""}, {"text": "blue whale"}])
    assert numbers_of(strict["rich"].search(empty, "blue whale")) == [1, 0]


def test_a_search_without_source_is_ranked_by_empty_texts(strict: Recipes, lenient: Recipes) -> None:
    """With `simple`, every hit silently has the score of an empty text; `rich` fails."""
    answer = strict["simple"].search(INDEX, "whale", _source=False)
    assert len({score for _, score in hits_of(answer)}) == 1
    with pytest.raises(RequestError, match="cannot find all required input fields"):
        strict["rich"].search(INDEX, "whale", _source=False)
    assert {score for _, score in hits_of(lenient["rich"].search(INDEX, "whale", _source=False))} == {1.0}


def test_the_simple_recipe_reads_a_dotted_field_from_version_3_6_on(
    ready: Cluster, faulty_service: FaultyService
) -> None:
    """Older versions send empty texts and say so in the node's log only."""
    sources = [{"text": {"body": "fox"}}, {"text": {"body": "blue whale"}}]
    sent = sent_documents(ready, faulty_service, "simple", sources, fields=("text.body",))
    assert sent == (["fox", "blue whale"] if ready.major >= 3 else ["", ""])


@pytest.mark.parametrize("kind", ["rich", "native"])
def test_the_other_recipes_read_a_dotted_field(
    ready: Cluster, faulty_service: FaultyService, kind: Kind
) -> None:
    sources = [{"text": {"body": "fox"}}, {"text": {"body": "blue whale"}}]
    sent = sent_documents(ready, faulty_service, kind, sources, fields=("text.body",))
    assert sent == ["fox", "blue whale"]


@pytest.mark.parametrize(("kind", "separator"), [("simple", ""), ("native", "\n\n")])
def test_several_fields_are_joined(
    ready: Cluster, faulty_service: FaultyService, kind: Kind, separator: str
) -> None:
    sources = [{"title": "Whales", "body": "are large."}, {"body": "Foxes."}]
    sent = sent_documents(ready, faulty_service, kind, sources, fields=("title", "body"))
    assert sent == [f"Whales{separator}are large.", "Foxes."]


@pytest.mark.parametrize("kind", ["simple", "native"])
def test_a_search_can_build_its_own_text(ready: Cluster, faulty_service: FaultyService, kind: Kind) -> None:
    """Computed fields take precedence over the source."""
    index = ready.unique("built")
    ready.load(index, [{"title": "Whales", "body": "are large."}])
    recipe = set_up(ready, kind, Connection(faulty_service.rerank_url, fields=("rerank_text",)))
    script = "params._source.title + (char) 10 + params._source.body"
    answer = recipe.search(index, "whales", script_fields={"rerank_text": {"script": script}}, _source=True)
    assert faulty_service.seen[-1].body["documents"] == ["Whales\nare large."]
    assert answer["hits"]["hits"][0]["_source"]["title"] == "Whales"


LISTS: dict[Kind, list[Any]] = {
    "simple": ["[one, two]", "[three]", "3", "4"],
    "rich": [["one", "two"], ["three"], 3, 4],
    "native": ["one\ntwo", "three", "3", "4"],
}


@every_kind
def test_lists_and_numbers_as_values(ready: Cluster, faulty_service: FaultyService, kind: Kind) -> None:
    """`simple` writes lists and numbers in Java's form, `rich` sends them as JSON, `native` as text."""
    sources = [{"text": ["one", "two"]}, {"text": ["three"]}]
    sent = sent_documents(ready, faulty_service, kind, sources)
    sent += sent_documents(ready, faulty_service, kind, [{"text": 3}, {"text": 4}])
    assert sent == LISTS[kind]


EMPTY_SEARCHES: dict[str, dict[str, Any]] = {
    "no hits are asked for": {"size": 0, "aggs": {"most": {"max": {"field": "number"}}}},
    "the page is past the end": {"from": 99},
}


@by_configuration
@pytest.mark.parametrize("why", EMPTY_SEARCHES)
def test_a_search_that_matches_but_returns_no_hits_fails_unless_failures_are_ignored(
    strict: Recipes, lenient: Recipes, kind: Kind, why: str
) -> None:
    body = EMPTY_SEARCHES[why]
    message = "No text documents were provided" if kind == "simple" else "Index 0 out of bounds for length 0"
    with pytest.raises(TransportError, match=message):
        strict[kind].search(INDEX, "whale", **body)
    answer = lenient[kind].search(INDEX, "whale", **body)
    assert answer["hits"]["hits"] == []
    assert answer["hits"]["total"]["value"] == len(PASSAGES)
    if "aggs" in body:
        assert answer["aggregations"]["most"]["value"] == len(PASSAGES) - 1


@every_kind
def test_a_search_without_matches_succeeds(strict: Recipes, kind: Kind) -> None:
    answer = strict[kind].search(INDEX, "whale", query={"match_none": {}})
    assert answer["hits"]["hits"] == []


@pytest.mark.parametrize("why", EMPTY_SEARCHES)
def test_the_native_processor_skips_a_search_that_returns_no_hits(strict: Recipes, why: str) -> None:
    answer = strict["native"].search(INDEX, "whale", **EMPTY_SEARCHES[why])
    assert answer["hits"]["hits"] == []
    assert answer["hits"]["total"]["value"] == len(PASSAGES)
    assert answer["ext"]["qwen_rerank"]["status"] == "skipped"


def test_the_native_processor_ranks_a_search_that_does_not_count_its_hits(
    strict: Recipes, core: Reranker
) -> None:
    answer = strict["native"].search(INDEX, "whale", size=len(PASSAGES), track_total_hits=False)
    assert_ranked_as_by_the_core(answer, core, "whale", PASSAGES)
    assert "total" not in answer["hits"]


@by_configuration
def test_a_search_that_does_not_count_its_hits_fails_in_the_cluster(
    strict: Recipes, lenient: Recipes, kind: Kind
) -> None:
    """With failures ignored, `rich` keeps the scores in the hits, but not the order."""
    with pytest.raises(TransportError, match="getTotalHits") as failure:
        strict[kind].search(INDEX, "whale", track_total_hits=False)
    assert failure.value.status_code == 500
    answer = lenient[kind].search(INDEX, "whale", track_total_hits=False)
    assert numbers_of(answer) == list(range(10))
    left = {"rerank_score" in hit["_source"] for hit in answer["hits"]["hits"]}
    assert left == {kind == "rich"}


NO_QUERY: dict[Kind, str] = {
    "simple": "RerankSearchExtBuilder",
    "rich": "Missing required input field in query body",
    "native": r"Set ext\.qwen_rerank\.query_text",
}


@every_kind
def test_a_search_without_a_query_for_the_model_fails_unless_failures_are_ignored(
    strict: Recipes, lenient: Recipes, kind: Kind
) -> None:
    with pytest.raises(TransportError, match=NO_QUERY[kind]):
        strict[kind].search(INDEX, None)
    assert hits_of(lenient[kind].search(INDEX, None)) == [(number, 1.0) for number in range(10)]
