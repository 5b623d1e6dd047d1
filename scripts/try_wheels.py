"""Tries an installed distribution: `python try_wheels.py NAME [ADDRESS]`. `bash scripts/release.sh` runs it in new environments.

It imports nothing of the repository. ADDRESS is a service that ranks; the wrappers are tried without a model of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

QUERY = "how to remove limescale from a kettle"
TEXTS = ["Night trains to the coast leave at ten.", "Vinegar removes limescale from a kettle."]
BEST = 1


def try_base() -> None:
    """The base ranks by words, and needs neither torch nor a web framework."""
    from qwen_rerank_plugins import Reranker

    with Reranker(backend="lexical") as reranker:
        check([one.index for one in reranker.rank(QUERY, TEXTS).results])
    check_light()
    check_help("qwen-rerank")


def try_local() -> None:
    """The bundled model ranks, in Python and in a file, and is evaluated."""
    from qwen_rerank_plugins import Reranker

    with Reranker(model="demo") as reranker:
        check([one.index for one in reranker.rank(QUERY, TEXTS).results])
    rows = [{"id": str(index), "query": QUERY, "document": text} for index, text in enumerate(TEXTS)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run("qwen-rerank", "batch", "pairs.jsonl", "ranked.parquet", "--model", "demo")
    assert Path("ranked.parquet").stat().st_size > 0
    run("qwen-rerank", "evaluate", "--model", "demo")
    run("qwen-rerank", "doctor", "--model", "demo")


def try_langchain(address: str) -> None:
    """A document compressor ranks."""
    from langchain_core.documents import Document
    from langchain_qwen_rerank import QwenRerank

    documents = [Document(text, metadata={"index": index}) for index, text in enumerate(TEXTS)]
    with QwenRerank(backend="remote", base_url=address) as rerank:
        found = rerank.compress_documents(documents, QUERY)
    check([one.metadata["index"] for one in found])
    check_light()


def try_llama_index(address: str) -> None:
    """A node postprocessor ranks."""
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.qwen_rerank import QwenRerank

    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(index))) for index, text in enumerate(TEXTS)]
    with QwenRerank(backend="remote", base_url=address) as rerank:
        found = rerank.postprocess_nodes(nodes, query_str=QUERY)
    check([int(one.node.node_id) for one in found])
    check_light()


def try_haystack(address: str) -> None:
    """A ranker ranks."""
    from haystack import Document
    from haystack_integrations.components.rankers.qwen_rerank import QwenReranker

    ranker = QwenReranker(backend="remote", base_url=address)
    ranker.warm_up()
    found = ranker.run(QUERY, [Document(content=text, id=str(index)) for index, text in enumerate(TEXTS)])
    check([int(one.id) for one in found["documents"]])
    check_light()


def try_opensearch(address: str) -> None:
    """The client side reranks a cluster's response, and the command line explains itself."""
    from opensearch_qwen_rerank import ClientSideReranker

    hits = [{"_id": str(index), "_score": 1.0, "_source": {"text": text}} for index, text in enumerate(TEXTS)]
    with ClientSideReranker(fields=["text"], backend="remote", base_url=address) as reranker:
        found = reranker.rerank({"hits": {"hits": hits}}, QUERY)
    check([int(hit["_id"]) for hit in found["hits"]["hits"]])
    check_light()
    check_help("opensearch-qwen-rerank")


def check(order: list[int]) -> None:
    """Check a ranking of `TEXTS`."""
    assert order == [BEST, 1 - BEST], order


def check_light() -> None:
    """Check that neither torch nor a web framework was installed."""
    heavy = [name for name in ("torch", "transformers", "fastapi", "ray") if find_spec(name)]
    assert heavy == [], heavy


def check_help(command: str) -> None:
    """Check that a command is there and describes itself."""
    assert "Usage" in run(command, "--help")
    run(command, "--version")


def run(*command: str) -> str:
    """Run a command of this environment; its output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


TRIALS: dict[str, Callable[..., None]] = {
    "base": try_base,
    "local": try_local,
    "langchain": try_langchain,
    "llama_index": try_llama_index,
    "haystack": try_haystack,
    "opensearch": try_opensearch,
}

if __name__ == "__main__":
    TRIALS[sys.argv[1]](*sys.argv[2:])
