"""Calls with LlamaIndex's postprocessors for Cohere, Jina and TEI; see `calls.py`."""

from __future__ import annotations

from typing import Any

from calls import Answer, Call, run


def _ranked(reranker: Any, call: Call) -> Answer:
    from llama_index.core.schema import NodeWithScore, TextNode

    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(n))) for n, text in enumerate(call.documents)]
    return [
        (int(item.node.node_id), item.score)
        for item in reranker.postprocess_nodes(nodes, query_str=call.query)
    ]


def llama_index_cohere(call: Call) -> Answer:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    reranker = CohereRerank(api_key="local", base_url=call.base_url, top_n=len(call.documents), model="any")
    return _ranked(reranker, call)


def llama_index_jina(call: Call) -> Answer:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    reranker = JinaRerank(
        api_key="local", base_url=call.base_url + "/v1", top_n=len(call.documents), model="any"
    )
    return _ranked(reranker, call)


def llama_index_tei(call: Call) -> Answer:
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    reranker = TextEmbeddingInference(base_url=call.base_url, top_n=len(call.documents), model_name="any")
    return _ranked(reranker, call)


if __name__ == "__main__":
    run(llama_index_cohere, llama_index_jina, llama_index_tei)
