"""What each client sends, and the complete answer."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_rerank_plugins.service.schemas import read_request
from qwen_rerank_plugins.service.schemas.dialect import Route
from tests.service.schemas.answering import FOX, PARIS, QUERY, TEXAS, TEXTS, answer

MODEL = "rerank-v3.5"

TEXAS_TOLD: dict[str, Any] = {"log_odds": 40.0, "truncated": True, "query_truncated": False, "span": None}
PARIS_TOLD: dict[str, Any] = {"log_odds": 4.0, "truncated": False, "query_truncated": False, "span": [0, 5]}
FOX_TOLD: dict[str, Any] = {
    "log_odds": -0.69314718056,
    "truncated": False,
    "query_truncated": False,
    "span": None,
}

BEST: list[dict[str, Any]] = [
    {"index": 2, "relevance_score": 1.0, **TEXAS_TOLD},
    {"index": 1, "relevance_score": 0.982013790038, **PARIS_TOLD},
    {"index": 0, "relevance_score": 0.333333333333, **FOX_TOLD},
]
ECHOED = [{**one, "document": {"text": TEXTS[one["index"]]}} for one in BEST]
TEI: list[dict[str, Any]] = [
    {"index": 2, "score": 1.0},
    {"index": 1, "score": 0.982013790038},
    {"index": 0, "score": 0.333333333333},
]
TEI_ECHOED = [{**one, "text": TEXTS[one["index"]]} for one in TEI]
PLAIN: list[dict[str, Any]] = [
    {"index": 2, "relevance_score": 1.0},
    {"index": 1, "relevance_score": 0.982013790038},
    {"index": 0, "relevance_score": 0.333333333333},
]


def superset(results: list[dict[str, Any]], *, num_tokens: int = 42) -> dict[str, Any]:
    """The superset answer around its results; everything else is the same for every client."""
    return {
        "id": "req-1",
        "object": "rerank",
        "created": 1_700_000_000,
        "model": "Qwen3-Reranker",
        "results": results,
        "scores": [0.333333333333, 0.982013790038, 1.0],
        "meta": {
            "api_version": {"version": "2", "is_experimental": False},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": num_tokens, "output_tokens": 0},
        },
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def voyage(data: list[dict[str, Any]]) -> dict[str, Any]:
    """Voyage's answer around its data."""
    return {"object": "list", "data": data, "model": "Qwen3-Reranker", "usage": {"total_tokens": 42}}


DOCUMENTS: dict[str, Any] = {"model": MODEL, "query": QUERY, "documents": TEXTS}

SPANS: dict[str, list[dict[str, Any]]] = {
    TEXAS: [{"start": 0, "end": 12, "score": 1.0, "log_odds": 40.0}],
    PARIS: [{"start": 0, "end": 21, "score": 0.982013790038, "log_odds": 4.0}],
    FOX: [],
}

CLIENTS: list[tuple[str, dict[str, Any], str, Any]] = [
    (
        "cohere.ClientV2 rerank of 7.3, relevant_spans",
        {
            **DOCUMENTS,
            "relevant_spans": {"mode": "enabled", "threshold": 0.5, "max_spans": 2},
        },
        "cohere",
        superset([{**one, "relevant_spans": SPANS[TEXTS[one["index"]]]} for one in BEST], num_tokens=84),
    ),
    (
        "cohere.ClientV2 rerank of 7.3, relevant_spans disabled",
        {**DOCUMENTS, "relevant_spans": {"mode": "disabled"}},
        "cohere",
        superset(BEST),
    ),
    (
        "cohere.Client rerank, strings",
        {**DOCUMENTS, "top_n": 2, "return_documents": True},
        "cohere",
        superset(ECHOED[:2]),
    ),
    (
        "cohere.Client rerank, objects and rank_fields",
        {
            **DOCUMENTS,
            "documents": [
                {"title": "t0", "text": FOX, "id": "x"},
                {"title": PARIS, "text": "t1"},
                {"id": "z", "title": TEXAS, "text": "t2"},
            ],
            "rank_fields": ["title"],
            "return_documents": True,
            "top_n": 2,
        },
        "cohere",
        {
            **superset(
                [
                    {**BEST[0], "document": {"id": "z", "title": TEXAS, "text": "t2"}},
                    {**BEST[1], "document": {"title": PARIS, "text": "t1"}},
                ],
                num_tokens=32,
            ),
            "scores": [0.0, 0.982013790038, 1.0],
        },
    ),
    (
        "cohere.ClientV2 rerank, explicit None",
        {**DOCUMENTS, "top_n": None, "max_tokens_per_doc": None, "priority": None},
        "cohere",
        superset(BEST),
    ),
    (
        "langchain-cohere CohereRerank",
        {**DOCUMENTS, "top_n": 3, "max_tokens_per_doc": None},
        "cohere",
        superset(BEST),
    ),
    ("llama-index cohere", {**DOCUMENTS, "top_n": 2}, "cohere", superset(BEST[:2])),
    ("llama-index jinaai", {**DOCUMENTS, "top_n": 1}, "cohere", superset(BEST[:1])),
    ("llama-index tei", {"query": QUERY, "texts": TEXTS}, "tei", TEI),
    ("llama-index xinference", {**DOCUMENTS}, "cohere", superset(BEST)),
    (
        "llama-index siliconflow",
        {**DOCUMENTS, "top_n": 2, "return_documents": True, "max_chunks_per_doc": 1024, "overlap_tokens": 80},
        "cohere",
        superset(ECHOED[:2]),
    ),
    (
        "infinity_client",
        {**DOCUMENTS, "raw_scores": False, "return_documents": False},
        "cohere",
        superset(BEST),
    ),
    ("voyageai", {**DOCUMENTS, "top_k": None, "truncation": True}, "voyage", voyage(PLAIN)),
    ("langchain-voyageai", {**DOCUMENTS, "top_k": 2, "truncation": True}, "voyage", voyage(PLAIN[:2])),
    (
        "LiteLLM cohere",
        {**DOCUMENTS, "top_n": 2, "return_documents": True},
        "cohere",
        superset(ECHOED[:2]),
    ),
    (
        "LiteLLM jina_ai",
        {**DOCUMENTS, "top_n": 3, "return_documents": True},
        "cohere",
        superset(ECHOED),
    ),
    (
        "LiteLLM hosted_vllm",
        {**DOCUMENTS, "instruction": "Find it.", "max_tokens_per_doc": 512, "truncate_prompt_tokens": 100},
        "cohere",
        superset(BEST),
    ),
    ("LiteLLM infinity", {**DOCUMENTS, "return_documents": False}, "cohere", superset(BEST)),
    (
        "LiteLLM huggingface",
        {
            "query": QUERY,
            "texts": TEXTS,
            "top_n": 2,
            "return_text": True,
            "raw_scores": False,
            "truncation_direction": "Right",
            "truncate": False,
        },
        "tei",
        TEI_ECHOED[:2],
    ),
    (
        "LiteLLM voyage",
        {**DOCUMENTS, "top_k": 2, "return_documents": True},
        "voyage",
        voyage([{**PLAIN[0], "document": TEXAS}, {**PLAIN[1], "document": PARIS}]),
    ),
    (
        "LiteLLM dashscope",
        {**DOCUMENTS, "top_n": 2, "return_documents": False},
        "cohere",
        superset(BEST[:2]),
    ),
    ("Dify openai_api_compatible", {**DOCUMENTS, "top_n": 0}, "cohere", superset(BEST)),
    (
        "Dify cohere",
        {**DOCUMENTS, "top_n": 3, "return_documents": True, "max_chunks_per_doc": None},
        "cohere",
        superset(ECHOED),
    ),
    (
        "Dify jina",
        {
            **DOCUMENTS,
            "documents": [{"text": one} for one in TEXTS],
            "top_n": None,
            "return_documents": False,
        },
        "cohere",
        superset(BEST),
    ),
    (
        "Dify huggingface_tei",
        {"query": QUERY, "texts": TEXTS, "return_text": True},
        "tei",
        TEI_ECHOED,
    ),
    ("Dify localai", {**DOCUMENTS, "top_n": None}, "cohere", superset(BEST)),
    (
        "RAGFlow Xinference",
        {**DOCUMENTS, "return_documents": "true", "return_len": "true"},
        "cohere",
        superset(ECHOED),
    ),
    (
        "RAGFlow Cohere and VLLM",
        {**DOCUMENTS, "top_n": 3, "return_documents": False},
        "cohere",
        superset(BEST),
    ),
    ("RAGFlow OpenAI-API-Compatible and LocalAI", {**DOCUMENTS, "top_n": 3}, "cohere", superset(BEST)),
    (
        "RAGFlow HuggingFace",
        {"query": QUERY, "texts": TEXTS, "raw_scores": False, "truncate": True},
        "tei",
        TEI,
    ),
    (
        "RAGFlow Jina and SILICONFLOW",
        {**DOCUMENTS, "return_documents": False, "max_chunks_per_doc": 1024, "overlap_tokens": 80},
        "cohere",
        superset(BEST),
    ),
    ("Open WebUI external", {**DOCUMENTS, "top_n": 3}, "cohere", superset(BEST)),
    (
        "Xinference client, every field",
        {
            **DOCUMENTS,
            "top_n": None,
            "max_chunks_per_doc": None,
            "return_documents": None,
            "return_len": None,
            "kwargs": "{}",
        },
        "cohere",
        superset(BEST),
    ),
    ("OpenSearch connector", {**DOCUMENTS, "top_n": 3, "instruction": "Find it."}, "cohere", superset(BEST)),
    (
        "OpenSearch ml_inference, several fields",
        {"query": QUERY, "documents": [[FOX, ""], [PARIS], [TEXAS, None]]},
        "cohere",
        superset(BEST),
    ),
    (
        "OpenSearch ml_inference, recipe rich",
        {
            "search": {"query_text": QUERY, "instruction": None},
            "documents": [{"title": FOX, "body": None}, {"title": PARIS}, {"title": TEXAS}],
            "rank_fields": ["title"],
            "raw_scores": True,
        },
        "opensearch",
        {
            "model": "Qwen3-Reranker",
            "scores": [-0.69314718056, 4.0, 40.0],
            "usage": {"prompt_tokens": 42, "total_tokens": 42},
        },
    ),
    ("Haystack VLLMRanker", {**DOCUMENTS, "top_n": 3}, "cohere", superset(BEST)),
    (
        "vLLM, parts",
        {
            **DOCUMENTS,
            "documents": [{"content": [{"type": "text", "text": one}]} for one in TEXTS],
            "top_n": 0,
        },
        "cohere",
        superset(BEST),
    ),
    (
        "Weaviate reranker-transformers",
        {"query": QUERY, "documents": TEXTS, "property": ""},
        "weaviate",
        {
            "query": QUERY,
            "scores": [
                {"document": FOX, "score": 0.333333333333},
                {"document": PARIS, "score": 0.982013790038},
                {"document": TEXAS, "score": 1.0},
            ],
        },
    ),
]


@pytest.mark.parametrize(
    ("body", "dialect", "expected"), [case[1:] for case in CLIENTS], ids=[case[0] for case in CLIENTS]
)
def test_a_client_is_answered_in_its_own_dialect(body: dict[str, Any], dialect: str, expected: Any) -> None:
    assert read_request(Route.RERANK, body).name == dialect
    assert answer(body) == expected


def test_dashscope_s_own_client_is_answered_on_its_path_and_on_a_rerank_route() -> None:
    body = {
        "model": "qwen3-rerank",
        "input": {"query": QUERY, "documents": TEXTS},
        "parameters": {"return_documents": True, "top_n": 2, "instruct": "Find it."},
    }
    expected = {
        "output": {
            "results": [
                {"index": 2, "relevance_score": 1.0, "document": {"text": TEXAS}},
                {"index": 1, "relevance_score": 0.982013790038, "document": {"text": PARIS}},
            ]
        },
        "usage": {"total_tokens": 42},
        "request_id": "req-1",
    }
    assert answer(body, route=Route.DASHSCOPE) == answer(body) == expected
    assert read_request(Route.DASHSCOPE, body).to_request().instruction == "Find it."


def test_several_queries_are_answered_one_entry_a_query() -> None:
    body = {"queries": [QUERY, "animals"], "documents": [[PARIS, TEXAS], [FOX]]}
    assert answer(body) == {
        "model": "Qwen3-Reranker",
        "results": [
            {
                "query": QUERY,
                "results": [
                    {"index": 1, "rank": 1, "document": TEXAS, "relevance_score": 1.0, **TEXAS_TOLD},
                    {
                        "index": 0,
                        "rank": 2,
                        "document": PARIS,
                        "relevance_score": 0.982013790038,
                        **PARIS_TOLD,
                    },
                ],
                "scores": [0.982013790038, 1.0],
            },
            {
                "query": "animals",
                "results": [
                    {"index": 0, "rank": 1, "document": FOX, "relevance_score": 0.333333333333, **FOX_TOLD}
                ],
                "scores": [0.333333333333],
            },
        ],
        "usage": {"prompt_tokens": 42, "total_tokens": 42},
    }


def test_our_own_client_asks_for_everything_about_each_pair() -> None:
    response = answer({**DOCUMENTS, "top_n": 1, "return_documents": False, "return_pairs": True})
    assert [one["index"] for one in response["results"]] == [2]
    assert response["pairs"] == [
        {"index": 0, "relevance_score": 0.333333333333, **FOX_TOLD, "num_tokens": 10},
        {"index": 1, "relevance_score": 0.982013790038, **PARIS_TOLD, "num_tokens": 12},
        {"index": 2, "relevance_score": 1.0, **TEXAS_TOLD, "num_tokens": 20},
    ]


SCORED = [
    {"index": 0, "object": "score", "score": 0.333333333333, **FOX_TOLD},
    {"index": 1, "object": "score", "score": 0.982013790038, **PARIS_TOLD},
    {"index": 2, "object": "score", "score": 1.0, **TEXAS_TOLD},
]


@pytest.mark.parametrize(
    ("left", "right"),
    [("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items")],
)
def test_the_score_route_takes_four_spellings_and_answers_in_the_order_sent(left: str, right: str) -> None:
    expected = {
        "id": "req-1",
        "object": "list",
        "created": 1_700_000_000,
        "model": "Qwen3-Reranker",
        "data": SCORED,
        "usage": {"prompt_tokens": 42, "total_tokens": 42},
    }
    one_to_many = {"model": MODEL, left: QUERY, right: TEXTS}
    one_each = {"model": MODEL, left: [QUERY, "b", "c"], right: TEXTS}
    assert answer(one_to_many, route=Route.SCORE) == expected
    assert answer({**one_to_many, left: [QUERY]}, route=Route.SCORE) == expected
    assert answer(one_each, route=Route.SCORE) == expected
    assert read_request(Route.SCORE, one_each).to_request().queries == (QUERY, "b", "c")
    assert answer({left: QUERY, right: FOX}, route=Route.SCORE)["data"] == SCORED[:1]
