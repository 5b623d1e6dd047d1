"""Calls with cohere 5, langchain-cohere, voyageai and infinity_client; see `calls.py`."""

from __future__ import annotations

from calls import Answer, Call, run


def cohere_v1(call: Call) -> Answer:
    import cohere

    client = cohere.Client(api_key="local", base_url=call.base_url)
    answer = client.rerank(
        query=call.query, documents=call.documents, model="rerank-v3.5", return_documents=True
    )
    assert [item.document.text for item in answer.results] == [
        call.documents[item.index] for item in answer.results
    ]
    return [(item.index, item.relevance_score) for item in answer.results]


def cohere_v1_objects(call: Call) -> Answer:
    import cohere

    client = cohere.Client(api_key="local", base_url=call.base_url)
    documents = [{"id": str(n), "text": text} for n, text in enumerate(call.documents)]
    answer = client.rerank(query=call.query, documents=documents, rank_fields=["text"], top_n=2)
    assert len(answer.results) == 2
    return [(item.index, item.relevance_score) for item in answer.results]


def cohere_v2(call: Call) -> Answer:
    import cohere

    client = cohere.ClientV2(api_key="local", base_url=call.base_url)
    answer = client.rerank(query=call.query, documents=call.documents, model="rerank-v3.5", top_n=None)
    return [(item.index, item.relevance_score) for item in answer.results]


def cohere_v2_under_api(call: Call) -> Answer:
    import cohere

    client = cohere.ClientV2(api_key="local", base_url=call.base_url + "/api")
    answer = client.rerank(query=call.query, documents=call.documents, model="rerank-v3.5")
    return [(item.index, item.relevance_score) for item in answer.results]


def langchain_cohere(call: Call) -> Answer:
    from langchain_cohere import CohereRerank

    reranker = CohereRerank(
        cohere_api_key="local", base_url=call.base_url, model="rerank-v3.5", top_n=len(call.documents)
    )
    answer = reranker.rerank(call.documents, call.query)
    return [(item["index"], item["relevance_score"]) for item in answer]


def voyageai_client(call: Call) -> Answer:
    import voyageai

    client = voyageai.Client(api_key="local", base_url=call.base_url + "/v1")
    answer = client.rerank(call.query, call.documents, model="rerank-2.5", top_k=3)
    assert answer.total_tokens > 0
    assert [item.document for item in answer.results] == [
        call.documents[item.index] for item in answer.results
    ]
    return [(item.index, item.relevance_score) for item in answer.results]


def infinity(call: Call) -> Answer:
    from infinity_client import Client
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    body = RerankInput(query=call.query, documents=call.documents, model="any")
    answer = rerank.sync(client=Client(base_url=call.base_url), body=body)
    assert answer is not None
    return [(item.index, item.relevance_score) for item in answer.results]


if __name__ == "__main__":
    run(
        cohere_v1,
        cohere_v1_objects,
        cohere_v2,
        cohere_v2_under_api,
        langchain_cohere,
        voyageai_client,
        infinity,
    )
