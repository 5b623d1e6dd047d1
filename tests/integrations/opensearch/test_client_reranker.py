"""Both rerankers with fake clients: order, scores, pages, metadata, failures."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from opensearch_qwen_rerank.client import AsyncClientSideReranker, ClientSideReranker, LinearFusion

from qwen_rerank_plugins import (
    ClosedError,
    ConfigurationError,
    EngineError,
    InputError,
    InputTypeError,
    PairScore,
    RerankConfig,
    Reranker,
)
from tests.doubles import FakeScorer
from tests.integrations.opensearch.client_doubles import (
    FakeAsyncClient,
    FakeClient,
    client_side,
    hit,
    hits_with_scores,
    ids,
    response_of,
    scores,
    words_scorer,
)

BODY = {"query": {"match": {"body": {"query": "whales"}}}}
FIVE = hits_with_scores([0.1, 0.5, 0.9, 0.3, 0.7])


def test_hits_are_sorted_by_the_models_probability_which_is_their_score() -> None:
    found = client_side(FakeClient(FIVE)).search(BODY, index="docs", query="q")
    assert ids(found) == ["2", "4", "1", "3", "0"]
    assert scores(found) == [0.9, 0.7, 0.5, 0.3, 0.1]
    assert found["hits"]["max_score"] == 0.9
    assert found["hits"]["total"] == {"value": 5, "relation": "eq"}
    assert (found["took"], found["_shards"]["successful"]) == (3, 1)


def test_a_hit_keeps_score_and_rank_of_the_first_stage() -> None:
    found = client_side(FakeClient(FIVE)).search(BODY, query="q")
    mark = found["hits"]["hits"][0]["rerank"]
    assert mark == {"relevance_score": 0.9, "first_stage_score": 98.0, "first_stage_rank": 3}
    assert found["hits"]["hits"][0]["_source"] == {"body": "0.9"}


def test_a_response_has_status_counts_and_durations() -> None:
    found = client_side(FakeClient(FIVE), window=3).search(BODY, query="q")
    mark = found["rerank"]
    assert mark.pop("took_ms") >= 0.0
    assert mark.pop("search_ms") >= 0.0
    assert mark == {
        "status": "ranked",
        "model": "fake",
        "window": 3,
        "num_scored": 3,
        "num_without_text": 0,
        "num_below_min_score": 0,
    }


def test_an_integer_score_of_the_first_stage_becomes_a_float() -> None:
    found = client_side().rerank(response_of([hit("a", "0.5", 3)]), "q")
    assert isinstance(found["hits"]["hits"][0]["rerank"]["first_stage_score"], float)


def test_the_window_does_not_depend_on_the_size() -> None:
    client = FakeClient(hits_with_scores([0.1] * 30 + [0.9]))
    found = client_side(client, window=50).search({"size": 1}, query="q")
    assert ids(found) == ["30"]
    assert client.sent[0]["body"] == {"from": 0, "size": 50}


def test_pages_are_cut_from_one_order_with_the_other_hits_behind_the_window() -> None:
    client = FakeClient(hits_with_scores([0.1, 0.2, 0.3, 0.9, 0.8, 0.7]))
    reranker = client_side(client, window=3)
    pages = [reranker.search({"from": start, "size": 2}, query="q") for start in (0, 2, 4, 6)]
    assert [ids(page) for page in pages] == [["2", "1"], ["0", "3"], ["4", "5"], []]
    assert [scores(page) for page in pages] == [[0.3, 0.2], [0.1, None], [None, None], []]
    assert [page["hits"]["max_score"] for page in pages] == [0.3, 0.3, None, None]
    assert [page["rerank"]["status"] for page in pages] == ["ranked", "ranked", "skipped", "skipped"]
    past = pages[2]["hits"]["hits"][0]["rerank"]
    assert past == {"relevance_score": None, "first_stage_score": 96.0, "first_stage_rank": 5}


def test_an_existing_response_is_cut_to_a_page_too() -> None:
    found = client_side(window=3).rerank(response_of(FIVE), "q", from_=1, size=3)
    assert ids(found) == ["1", "0", "3"]
    with pytest.raises(InputError, match="from_ is too small"):
        client_side().rerank(response_of(FIVE), "q", from_=-1)
    with pytest.raises(InputTypeError, match="size has the wrong type"):
        client_side().rerank(response_of(FIVE), "q", size="3")  # type: ignore[arg-type]


def test_ties_keep_the_first_stages_order() -> None:
    assert ids(client_side().rerank(response_of(hits_with_scores([0.5, 0.7, 0.5, 0.7])), "q")) == [
        "1",
        "3",
        "0",
        "2",
    ]


def test_arguments_are_not_changed() -> None:
    response, body, params = response_of(FIVE), {"size": 2, **BODY}, {"routing": "r"}
    before = copy.deepcopy((response, body, params))
    client = FakeClient(FIVE)
    client_side(fusion=LinearFusion(), config={"min_score": 0.2}).rerank(response, "q")
    client_side(client).search(body, query="q", params=params)
    assert (response, body, params) == before


def test_index_parameters_and_headers_reach_the_client() -> None:
    client = FakeClient(FIVE)
    client_side(client).search(BODY, index=["a", "b"], query="q", params={"routing": "r"}, headers={"x": "y"})
    sent = client.sent[0]
    assert (sent["index"], sent["params"], sent["headers"]) == (["a", "b"], {"routing": "r"}, {"x": "y"})


def test_the_query_is_read_from_the_search() -> None:
    scorer = FakeScorer()
    client_side(FakeClient(FIVE), scorer, query_path="query.match.body.query").search(BODY)
    client_side(FakeClient(FIVE), scorer).search(
        {**BODY, "ext": {"rerank": {"query_context": {"query_text": "of the extension"}}}}
    )
    assert [call[0][0].query for call in scorer.calls] == ["whales", "of the extension"]


def test_a_search_without_a_query_is_not_sent() -> None:
    client = FakeClient(FIVE)
    with pytest.raises(InputError, match="the search has no query"):
        client_side(client).search(BODY)
    assert client.sent == []


def test_instruction_and_deadline_apply_to_one_call() -> None:
    scorer = FakeScorer()
    reranker = client_side(scorer=scorer, config={"instruction": "the configuration's"})
    reranker.rerank(response_of(FIVE), "q", instruction="the call's", deadline_s=5.0)
    reranker.rerank(response_of(FIVE), "q")
    assert [call[0][0].instruction for call in scorer.calls] == ["the call's", "the configuration's"]
    assert scorer.calls[0][1] == 5.0


def test_query_and_instruction_of_a_search_for_a_pipeline_are_used() -> None:
    scorer, client = FakeScorer(), FakeClient(FIVE)
    body = {**BODY, "ext": {"ml_inference": {"query_text": "theirs", "instruction": "the search's"}}}
    client_side(client, scorer).search(body)
    client_side(client, scorer).search(body, instruction="the call's")
    asked = [(call[0][0].query, call[0][0].instruction) for call in scorer.calls]
    assert asked == [("theirs", "the search's"), ("theirs", "the call's")]
    assert all("ext" not in sent["body"] for sent in client.sent)


# Thresholds, missing texts, top_n.


def test_a_threshold_drops_low_and_unscored_hits_and_keeps_the_total() -> None:
    found = client_side(FakeClient(FIVE), window=4).search(BODY, query="q", min_score=0.3)
    assert ids(found) == ["2", "1", "3"]
    assert found["hits"]["total"]["value"] == 5
    assert found["rerank"]["num_below_min_score"] == 1
    none = client_side(FakeClient(FIVE), config={"min_score": 1.0}).search(BODY, query="q")
    assert (ids(none), none["hits"]["max_score"], none["rerank"]["status"]) == ([], None, "ranked")


def test_a_calls_threshold_overrides_the_configuration() -> None:
    reranker = client_side(config={"min_score": 0.6})
    assert len(ids(reranker.rerank(response_of(FIVE), "q"))) == 2
    assert len(ids(reranker.rerank(response_of(FIVE), "q", min_score=None))) == 5


HOLES = [hit("a", None, 9.0), hit("b", "0.2", 8.0), hit("c", " ", 7.0), hit("d", "0.6", 6.0)]


@pytest.mark.parametrize(("missing", "order"), [("last", ["d", "b", "a", "c"]), ("drop", ["d", "b"])])
def test_a_hit_without_text_goes_last_or_is_dropped(missing: str, order: list[str]) -> None:
    found = client_side(missing=missing).rerank(response_of(HOLES), "q")
    assert ids(found) == order
    assert scores(found) == [0.6, 0.2, None, None][: len(order)]
    assert (found["rerank"]["num_without_text"], found["rerank"]["num_scored"]) == (2, 2)


def test_a_hit_without_text_can_be_scored_as_an_empty_text() -> None:
    scorer = FakeScorer(lambda request: PairScore(float(request.document or "0.4")))
    found = client_side(scorer=scorer, missing="score").rerank(response_of(HOLES), "q")
    assert (ids(found), scores(found)) == (["d", "a", "c", "b"], [0.6, 0.4, 0.4, 0.2])


def test_a_hit_without_text_can_raise() -> None:
    with pytest.raises(InputError, match="a hit has no text: _id 'a'"):
        client_side(missing="raise").rerank(response_of(HOLES), "q")


def test_hits_without_text_are_before_those_behind_the_window() -> None:
    assert ids(client_side(window=3).rerank(response_of(HOLES), "q")) == ["b", "a", "c", "d"]


def test_a_response_without_any_text_is_skipped() -> None:
    found = client_side().rerank(response_of([HOLES[0], HOLES[2]]), "q")
    assert (found["rerank"]["status"], ids(found), scores(found)) == ("skipped", ["a", "c"], [None, None])


def test_top_n_limits_all_pages_together() -> None:
    client = FakeClient(FIVE)
    reranker = client_side(client, window=2, config={"top_n": 4})
    pages = [ids(reranker.search({"from": start, "size": 2}, query="q")) for start in (0, 2, 4)]
    assert pages == [["1", "0"], ["2", "3"], []]
    assert ids(reranker.rerank(response_of(FIVE), "q", from_=3, size=2)) == ["3"]


def test_a_search_without_hits_does_not_call_the_model() -> None:
    scorer = FakeScorer()
    found = client_side(FakeClient([]), scorer).search(BODY, query="q")
    assert (ids(found), found["rerank"]["status"], found["hits"]["max_score"]) == ([], "skipped", None)
    sized = client_side(FakeClient(FIVE), scorer).search({"size": 0}, query="q")
    assert (ids(sized), sized["hits"]["total"]["value"]) == ([], 5)
    assert scorer.calls == []


# Inner hits and passages.


def passages(name: str, *texts: str) -> dict[str, Any]:
    inner = [{"_source": {"text": text}} for text in texts]
    return hit(name, None, inner_hits={"best": {"hits": {"hits": inner}}})


def test_a_hit_has_the_score_of_its_best_inner_hit() -> None:
    found = client_side(
        scorer=words_scorer(fair=0.5, good=0.8, best=0.9), fields=["inner_hits.best.text"]
    ).rerank(
        response_of([passages("a", "good", "poor"), passages("b"), passages("c", "poor", "fair", "best")]),
        "q",
    )
    assert ids(found) == ["c", "a", "b"]
    assert scores(found) == [0.9, 0.8, None]
    assert [one["rerank"].get("inner_hit") for one in found["hits"]["hits"]] == [2, 0, None]
    assert found["rerank"]["num_scored"] == 2


def test_a_weighted_mean_uses_the_best_inner_hit_of_each_hit() -> None:
    both = [passages("a", "poor", "fair"), passages("b", "good", "poor", "poor"), passages("c", "poor")]
    found = client_side(
        scorer=words_scorer(fair=0.5, good=1.0),
        fields=["inner_hits.best.text"],
        fusion=LinearFusion(weight=1.0),
    ).rerank(response_of(both), "q")
    assert (ids(found), scores(found)) == (["b", "a", "c"], [1.0, 0.5, 0.0])


def test_a_hit_has_the_models_metadata_of_its_text() -> None:
    scorer = FakeScorer(
        lambda request: PairScore(
            0.9, log_odds=2.2, truncated=True, query_truncated=True, span=(3, 7), calibrated=True
        )
    )
    found = client_side(scorer=scorer, fields=["title", "body"]).rerank(
        response_of([{"_id": "a", "_score": 1.0, "_source": {"title": "T", "body": "whole body"}}]), "q"
    )
    assert found["hits"]["hits"][0]["rerank"] == {
        "relevance_score": 0.9,
        "log_odds": 2.2,
        "calibrated": True,
        "truncated": True,
        "query_truncated": True,
        "passage": "whol",
        "passage_field": "body",
        "passage_span": [0, 4],
        "first_stage_score": 1.0,
        "first_stage_rank": 1,
    }


# A second reranking, cursors, other shapes.


def test_a_second_reranking_keeps_score_and_rank_of_the_first_stage() -> None:
    first = client_side(scorer=FakeScorer(lambda request: PairScore(1.0 - float(request.document)))).rerank(
        response_of(FIVE), "q"
    )
    second = client_side().rerank(first, "q")
    assert ids(second) == ["2", "4", "1", "3", "0"]
    kept = second["hits"]["hits"][0]["rerank"]
    assert (kept["first_stage_score"], kept["first_stage_rank"]) == (98.0, 3)


def test_the_next_page_of_a_cursor_starts_after_the_first_stages_last_hit() -> None:
    sorted_hits = [hit(str(n), repr(n / 10), None, sort=[n]) for n in (1, 3, 2)]
    client = FakeClient(sorted_hits)
    found = client_side(client).search({"search_after": [0], "sort": ["n"], "size": 3}, query="q")
    assert ids(found) == ["3", "2", "1"]
    assert found["rerank"]["next_search_after"] == [2]
    assert [one["sort"] for one in found["hits"]["hits"]] == [[3], [2], [1]]
    assert client.sent[0]["body"] == {"search_after": [0], "sort": ["n"], "size": 3}
    scrolled = client_side(client).search({"size": 3}, query="q", params={"scroll": "1m"})
    assert client.sent[1]["params"] == {"scroll": "1m"}
    assert "next_search_after" not in scrolled["rerank"]


def test_a_sorted_search_is_reranked_and_keeps_its_sort_values() -> None:
    found = client_side(
        FakeClient([hit("a", "0.1", None, sort=[1]), hit("b", "0.2", None, sort=[2])])
    ).search({"sort": ["n"]}, query="q")
    assert (ids(found), scores(found), found["hits"]["hits"][0]["sort"]) == (["b", "a"], [0.2, 0.1], [2])
    assert found["hits"]["hits"][0]["rerank"]["first_stage_score"] is None


@pytest.mark.parametrize("total", [None, {"value": 5, "relation": "gte"}, 5])
def test_the_total_is_kept_in_every_form(total: object) -> None:
    response = response_of(FIVE)
    response["hits"]["total"] = total
    response["aggregations"] = {"a": {"buckets": []}}
    found = client_side().rerank(response, "q")
    assert (found["hits"]["total"], found["aggregations"]) == (total, {"a": {"buckets": []}})
    del response["hits"]["total"]
    assert "total" not in client_side().rerank(response, "q")["hits"]


@pytest.mark.parametrize(
    "response", [None, [], {}, {"hits": []}, {"hits": {"hits": None}}, {"hits": {"hits": ["x"]}}]
)
def test_a_value_that_is_not_a_search_response_is_refused(response: Any) -> None:
    with pytest.raises(InputTypeError, match="response is not a search response"):
        client_side().rerank(response, "q")


def test_a_blank_query_is_refused() -> None:
    with pytest.raises(InputError, match="`query` must not be blank"):
        client_side().rerank(response_of(FIVE), " ")


# Failures, disabled reranking, clients.


def test_a_failure_raises_by_default() -> None:
    with pytest.raises(EngineError, match="broken"):
        client_side(FakeClient(FIVE), FakeScorer(error=EngineError("broken"))).search(BODY, query="q")


def test_a_failure_keeps_the_first_stages_order_with_keep_order() -> None:
    reranker = client_side(
        FakeClient(FIVE),
        FakeScorer(error=EngineError("broken")),
        {"on_error": "keep_order", "min_score": 0.6},
    )
    found = reranker.search({"from": 1, "size": 3}, query="q")
    assert (ids(found), scores(found)) == (["1", "2", "3"], [99.0, 98.0, 97.0])
    assert found["hits"]["hits"] == FIVE[1:4]
    assert found["hits"]["max_score"] == 100.0
    assert found["rerank"]["status"] == "failed"
    assert found["rerank"]["error"] == "EngineError: broken"
    assert found["rerank"]["num_scored"] == 0


def test_a_failed_search_raises_the_clients_error() -> None:
    scorer = FakeScorer()
    with pytest.raises(ConnectionError, match="no node"):
        client_side(
            FakeClient(FIVE, error=ConnectionError("no node")), scorer, {"on_error": "keep_order"}
        ).search(BODY, query="q")
    assert scorer.calls == []


def test_a_disabled_reranker_sends_the_search_unchanged_and_says_so() -> None:
    client = FakeClient(FIVE)
    reranker = client_side(
        client,
        config={"enabled": False, "top_n": 3, "min_score": 0.9},
        missing="raise",
        fusion=LinearFusion(),
    )
    found = reranker.search({"from": 2, "size": 2}, query="q")
    assert client.sent[0]["body"] == {"from": 2, "size": 2}
    assert found["hits"]["hits"] == FIVE[2:3]
    assert found["rerank"]["status"] == "disabled"
    assert reranker.rerank(response_of([HOLES[0]]), "q")["hits"]["hits"] == [HOLES[0]]


def test_a_client_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"FakeAsyncClient\. Use a blocking client"):
        client_side(FakeAsyncClient(FIVE)).search(BODY, query="q")
    other = AsyncClientSideReranker(FakeClient(FIVE), backend="lexical", fields=["body"])
    with pytest.raises(ConfigurationError, match=r"FakeClient\. Use an asynchronous client"):
        asyncio.run(other.search(BODY, query="q"))


def test_a_search_needs_a_client() -> None:
    with pytest.raises(ConfigurationError, match="no client to search with"):
        client_side().search(BODY, query="q")


# Asynchronous.


def asynchronously(
    run: Callable[[AsyncClientSideReranker], Coroutine[Any, Any, Any]], scorer: FakeScorer
) -> Any:
    async def whole() -> Any:
        ready = Reranker(scorer=scorer)
        async with AsyncClientSideReranker(
            FakeAsyncClient(FIVE), reranker=ready, fields=["body"], window=3
        ) as one:
            return await run(one)

    return asyncio.run(whole())


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    mark = {name: value for name, value in answer["rerank"].items() if not name.endswith("_ms")}
    return {**answer, "rerank": mark}


def test_the_asynchronous_reranker_returns_the_same_as_the_blocking_one() -> None:
    awaited = asynchronously(lambda one: one.search({"size": 4}, query="q", min_score=0.2), FakeScorer())
    blocking = client_side(FakeClient(FIVE), window=3).search({"size": 4}, query="q", min_score=0.2)
    assert without_times(awaited) == without_times(blocking)
    at_hand = asynchronously(lambda one: one.rerank(response_of(FIVE), "q", from_=1, size=2), FakeScorer())
    assert ids(at_hand) == ids(client_side(window=3).rerank(response_of(FIVE), "q", from_=1, size=2))


def test_an_asynchronous_call_does_not_block_the_event_loop() -> None:
    """The scorer waits for something that only another task can do."""
    asked, released = asyncio.Event(), asyncio.Event()

    class Waiting(FakeScorer):
        async def ascore(
            self, requests: Any, *, deadline_s: float | None = None, priority: str = "interactive"
        ) -> list[PairScore]:
            asked.set()
            await released.wait()
            return await super().ascore(requests, deadline_s=deadline_s)

    async def both(one: AsyncClientSideReranker) -> Any:
        searching = asyncio.create_task(one.search(BODY, query="q"))
        await asked.wait()
        released.set()
        return ids(await searching)

    assert asynchronously(both, Waiting()) == ["2", "1", "0", "3", "4"]


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of fields, template and text_of must be set, not none of them"),
        ({"fields": ["a"], "template": "{a}"}, "must be set, not fields and template"),
        ({"fields": ["a..b"]}, "fields is not valid"),
        ({"fields": "body"}, "fields is not valid: 'body'"),
        ({"fields": ["a"], "window": 0}, "window is not valid: 0"),
        ({"fields": ["a"], "missing": "first"}, "missing is not valid: 'first'"),
        ({"fields": ["a"], "fusion": "rrf"}, "fusion is not valid: 'rrf'"),
        ({"template": "no path"}, "template has no path"),
        ({"fields": ["inner_hits.a.x", "inner_hits.b.x"]}, "several kinds of inner hits"),
        ({"fields": ["a"], "modle": "demo"}, "'modle'.*'model'"),
        ({"fields": ["a"], "min_score": 2.0}, "`min_score` must be at most 1"),
    ],
)
def test_an_invalid_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClientSideReranker(**settings)


def test_settings_together_with_a_reranker_are_refused() -> None:
    ready = Reranker(backend="lexical")
    with pytest.raises(ConfigurationError, match="passed together with settings: 'model'"):
        ClientSideReranker(reranker=ready, fields=["a"], model="demo")


def test_it_takes_the_base_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rerank.yaml"
    path.write_text("backend: lexical\ntop_n: 7\n")
    monkeypatch.setenv("QWEN_RERANK_MIN_SCORE", "0.25")
    client = FakeClient(FIVE)
    made = ClientSideReranker.from_config(path, client=client, fields=["body"], top_n=3)
    assert (made.config.backend, made.config.top_n, made.config.min_score) == ("lexical", 3, 0.25)
    assert made.settings.fields == ("body",)
    made.search(BODY, query="q")
    assert len(client.sent) == 1
    assert AsyncClientSideReranker.from_env(fields=["body"]).config.min_score == 0.25
    assert ClientSideReranker(config=RerankConfig(top_n=2), fields=["a"], top_n=4).config.top_n == 4


def test_fields_and_query_path_default_to_those_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "rerank.yaml"
    path.write_text(
        "backend: lexical\nopensearch:\n  fields: [title, body]\n  query_path: query.match.body.query\n"
    )
    made = ClientSideReranker.from_config(path)
    assert (made.settings.fields, made.settings.query_path) == (("title", "body"), "query.match.body.query")
    own = ClientSideReranker.from_config(path, template="{body}", query_path="query.match.title.query")
    assert (own.settings.fields, own.settings.query_path) == ((), "query.match.title.query")


def test_repr_shows_the_settings_and_no_key() -> None:
    shown = repr(
        ClientSideReranker(fields=["body"], window=20, backend="remote", base_url="http://h", api_key="hush")
    )
    assert "hush" not in shown
    assert "fields=('body',), window=20)" in shown


def test_close_does_not_close_a_reranker_that_was_passed_in() -> None:
    ready = Reranker(scorer=FakeScorer())
    with ClientSideReranker(reranker=ready, fields=["body"]) as reranker:
        reranker.rerank(response_of(FIVE), "q")
    assert ready.rank("q", ["0.5"]).status == "ranked"
    with ClientSideReranker(backend="lexical", fields=["body"]) as own:
        own.rerank(response_of(FIVE), "q")
    with pytest.raises(ClosedError):
        own.rerank(response_of(FIVE), "q")
