"""Calls with the newest cohere and with LiteLLM's providers; see `calls.py`."""

from __future__ import annotations

from typing import Any

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


def cohere_v2(call: Call) -> Answer:
    import cohere

    client = cohere.ClientV2(api_key="local", base_url=call.base_url)
    answer = client.rerank(query=call.query, documents=call.documents, model="rerank-v4.0", top_n=2)
    assert len(answer.results) == 2
    return [(item.index, item.relevance_score) for item in answer.results]


def cohere_v2_relevant_spans(call: Call) -> Answer:
    import cohere
    from cohere import RerankRelevantSpans

    client = cohere.ClientV2(api_key="local", base_url=call.base_url)
    answer = client.rerank(
        query=call.query,
        documents=call.documents,
        model="rerank-v5.0",
        relevant_spans=RerankRelevantSpans(mode="enabled", threshold=0.0),
    )
    for item in answer.results:
        document, spans = call.documents[item.index], item.relevant_spans
        assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
        parts = sorted((span.start, span.end) for span in spans)
        assert "".join(document[start:end] for start, end in parts) == document
        if len(spans) == 1:
            assert abs(spans[0].score - item.relevance_score) < 1e-4
    return [(item.index, item.relevance_score) for item in answer.results]


def _litellm(call: Call, provider: str, base: str, **options: Any) -> Answer:
    import litellm

    answer = litellm.rerank(
        model=f"{provider}/any",
        query=call.query,
        documents=call.documents,
        api_base=base,
        api_key="local",
        **options,
    )
    return [(item["index"], item["relevance_score"]) for item in answer.results]


def litellm_cohere(call: Call) -> Answer:
    return _litellm(call, "cohere", call.base_url)


def litellm_jina(call: Call) -> Answer:
    return _litellm(call, "jina_ai", call.base_url + "/v1/rerank")


def litellm_hosted_vllm(call: Call) -> Answer:
    return _litellm(call, "hosted_vllm", call.base_url)


def litellm_huggingface(call: Call) -> Answer:
    return _litellm(call, "huggingface", call.base_url, top_n=3)


def litellm_voyage(call: Call) -> Answer:
    return _litellm(call, "voyage", call.base_url, top_n=3)


if __name__ == "__main__":
    run(
        cohere_v1,
        cohere_v2,
        cohere_v2_relevant_spans,
        litellm_cohere,
        litellm_jina,
        litellm_hosted_vllm,
        litellm_huggingface,
        litellm_voyage,
    )
