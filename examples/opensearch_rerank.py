"""OpenSearch before and after reranking, side by side: on the client side, and through search pipelines.

python examples/opensearch_rerank.py                                        # no cluster: recorded responses, demo reranker
python examples/opensearch_rerank.py --cluster http://localhost:9200        # indexes the corpus and searches it
python examples/opensearch_rerank.py --cluster http://localhost:9200 --base-url http://localhost:8501
python examples/opensearch_rerank.py --cluster http://localhost:9200 --pipeline qwen-rerank --native qwen-native

The last command needs pipelines in the cluster, and a service that the cluster reaches. One pipeline is by configuration, the other has the
native plugin's processors; either option can be left out:

opensearch-qwen-rerank apply --service http://localhost:8501 --fields title,text
opensearch-qwen-rerank apply --service http://localhost:8501 --fields title,text --recipe native --pipeline qwen-native

The corpus is the handbook of a fictional mountain hut, 24 passages in English and Chinese. The index qwen-rerank-example is
created for the run and removed afterwards, unless --keep is given. The demo reranker only matches words; --model selects a real
one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from opensearch_qwen_rerank import ClientSideReranker  # noqa: E402 - the repository's root comes first
from opensearchpy import OpenSearch  # noqa: E402

DATA = ROOT / "examples" / "data"
CORPUS = DATA / "mountain_hut.jsonl"
RECORDED = DATA / "mountain_hut_answers.json"
INDEX = "qwen-rerank-example"
FIELDS = ["title", "text"]
WINDOW = 20
SHOWN = 3
QUESTIONS = {
    "telephone to book": "hut-2",
    "狗可以喝水吗？": "hut-zh-5",
    "Is the hut open in winter?": "hut-1",
    "货运索道哪几天运背包？": "hut-zh-10",
}
"""Question → id of the passage that answers it. For the first two, the cluster alone does not rank it first."""

Search = Callable[[dict[str, Any]], dict[str, Any]]


def load_corpus(path: Path = CORPUS) -> list[dict[str, str]]:
    """Return the passages, each with `id`, `title` and `text`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def search_body(question: str, size: int = SHOWN) -> dict[str, Any]:
    """Return a search with a plain match, and the query for a pipeline in `ext`, which is not sent without one."""
    match = {"multi_match": {"query": question, "fields": FIELDS}}
    return {"query": match, "size": size, "ext": {"ml_inference": {"query_text": question}}}


@contextmanager
def indexed_corpus(client: OpenSearch, *, keep: bool) -> Iterator[None]:
    """Index the corpus, and remove the index at the end unless `keep` is set."""
    client.indices.delete(index=INDEX, params={"ignore_unavailable": "true"})
    client.indices.create(index=INDEX, body={"settings": {"number_of_shards": 1, "number_of_replicas": 0}})
    lines: list[dict[str, Any]] = []
    for passage in load_corpus():
        lines += [
            {"index": {"_index": INDEX, "_id": passage["id"]}},
            {name: passage[name] for name in FIELDS},
        ]
    client.bulk(body=lines, params={"refresh": "true"})
    try:
        yield
    finally:
        if not keep:
            client.indices.delete(index=INDEX)


class RecordedResponses:
    """A search client with recorded responses of a cluster."""

    def __init__(self, path: Path = RECORDED) -> None:
        """Read the responses from a file."""
        self._responses: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))

    def search(self, *, body: Any, **_: Any) -> dict[str, Any]:
        """Return the recorded response, cut to the requested size."""
        response = self._responses[body["query"]["multi_match"]["query"]]
        start = body.get("from", 0)
        found = {**response["hits"], "hits": response["hits"]["hits"][start : start + body["size"]]}
        return {**response, "hits": found}


def record(client: OpenSearch, path: Path = RECORDED) -> None:
    """Write the cluster's responses to the questions to a file, one window each, without the time they took."""
    responses = {}
    for question in QUESTIONS:
        body = {name: value for name, value in search_body(question, WINDOW).items() if name != "ext"}
        responses[question] = {**client.search(index=INDEX, body=body), "took": 0}
    text = json.dumps(responses, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def searches(client: Any, options: argparse.Namespace) -> dict[str, Search]:
    """Return the search functions that are compared, by name."""
    source = (
        {"backend": "remote", "base_url": options.base_url} if options.base_url else {"model": options.model}
    )
    reranker = ClientSideReranker(client, fields=FIELDS, window=WINDOW, **source)

    def in_cluster(body: dict[str, Any], **params: str) -> dict[str, Any]:
        found: dict[str, Any] = client.search(index=INDEX, body=body, params=params)
        return found

    def without_ext(body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name != "ext"}

    compared: dict[str, Search] = {
        "before": lambda body: in_cluster(without_ext(body)),
        "client side": lambda body: reranker.search(body, index=INDEX),
    }
    if by_configuration := options.pipeline:
        compared[f"pipeline {by_configuration}"] = lambda body: in_cluster(
            body, search_pipeline=by_configuration
        )
    if native := options.native:  # it reads the question from the query itself
        compared[f"native {native}"] = lambda body: in_cluster(without_ext(body), search_pipeline=native)
    return compared


def show(question: str, answer_id: str, responses: dict[str, dict[str, Any]]) -> None:
    """Print the first hits of each search side by side, with a mark on the one that answers."""
    print(f"\n{question}")
    print(" | ".join(f"{name:34}" for name in responses))
    for position in range(SHOWN):
        cells = [_cell(one["hits"]["hits"], position, answer_id) for one in responses.values()]
        print(" | ".join(f"{cell:34}" for cell in cells))


def _cell(hits: list[dict[str, Any]], position: int, answer_id: str) -> str:
    if position >= len(hits):
        return ""
    hit = hits[position]
    mark = "*" if hit["_id"] == answer_id else " "
    return f"{mark}{hit['_score']:8.4f} {hit['_source']['title'][:24]}"


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="OpenSearch before and after reranking.")
    parser.add_argument("--cluster", help="address of an OpenSearch cluster (default: recorded responses)")
    parser.add_argument("--pipeline", help="search pipeline by configuration, recipe rich, to compare with")
    parser.add_argument("--native", help="search pipeline of the native plugin to compare with")
    parser.add_argument("--model", default="demo", help="reranker model: a hub id, a folder, or demo")
    parser.add_argument("--base-url", help="address of a rerank service, instead of a model in this process")
    parser.add_argument("--keep", action="store_true", help="keep the index in the cluster")
    parser.add_argument(
        "--record", action="store_true", help="write the cluster's responses to examples/data"
    )
    return parser


def compare(client: Any, options: argparse.Namespace) -> None:
    """Run every question through every search."""
    compared = searches(client, options)
    for question, answer_id in QUESTIONS.items():
        show(question, answer_id, {name: search(search_body(question)) for name, search in compared.items()})


def main(arguments: list[str] | None = None) -> None:
    """Run the example."""
    parser = argument_parser()
    options = parser.parse_args(arguments)
    if options.cluster is None:
        if options.pipeline or options.native or options.record:
            parser.error("--pipeline, --native and --record need --cluster")
        print("no --cluster: using recorded responses of the first stage")
        compare(RecordedResponses(), options)
        return
    client = OpenSearch(options.cluster)
    try:
        with indexed_corpus(client, keep=options.keep):
            if options.record:
                record(client)
            compare(client, options)
    finally:
        client.close()


if __name__ == "__main__":
    main()
