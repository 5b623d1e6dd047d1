"""OpenSearch before and after reranking, side by side: on the client's side, and through a cluster's own pipeline.

python examples/opensearch_rerank.py                                        # no cluster: recorded answers, demo reranker
python examples/opensearch_rerank.py --cluster http://localhost:9200        # indexes the corpus there, and searches it
python examples/opensearch_rerank.py --cluster http://localhost:9200 --base-url http://localhost:8501
python examples/opensearch_rerank.py --cluster http://localhost:9200 --pipeline qwen-rerank

For the last one the cluster must know the pipeline, and the service must run where the cluster reaches it:

opensearch-qwen-rerank apply --cluster http://localhost:9200 --service http://localhost:8501 --fields title,text

The corpus is the handbook of an invented mountain hut, 24 passages in English and Chinese. The index qwen-rerank-example is
made for the run and removed after it; --keep leaves it. The demo reranker looks for a question's words and no more;
--model takes a real one.
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
"""Question → the passage that answers it. The first two are ones whose answer the cluster alone does not put first."""

Search = Callable[[dict[str, Any]], dict[str, Any]]


def load_corpus(path: Path = CORPUS) -> list[dict[str, str]]:
    """The passages, each with `id`, `title` and `text`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def body_of(question: str, size: int = SHOWN) -> dict[str, Any]:
    """The search: a plain match, and what a pipeline wants to know of it. Without a pipeline `ext` is not sent."""
    match = {"multi_match": {"query": question, "fields": FIELDS}}
    return {"query": match, "size": size, "ext": {"ml_inference": {"query_text": question}}}


@contextmanager
def indexed(client: OpenSearch, *, keep: bool) -> Iterator[None]:
    """The corpus in an index of its own, removed at the end unless it is to be kept."""
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


class RecordedAnswers:
    """What a cluster answered to the questions once: stands in for a client where there is no cluster."""

    def __init__(self, path: Path = RECORDED) -> None:
        """Read the answers of a file."""
        self._answers: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))

    def search(self, *, body: Any, **_: Any) -> dict[str, Any]:
        """Give the recorded answer, cut to the size that is asked for."""
        answer = self._answers[body["query"]["multi_match"]["query"]]
        start = body.get("from", 0)
        found = {**answer["hits"], "hits": answer["hits"]["hits"][start : start + body["size"]]}
        return {**answer, "hits": found}


def record(client: OpenSearch, path: Path = RECORDED) -> None:
    """Write down what the cluster answers to the questions, a window each, without what differs from run to run."""
    answers = {}
    for question in QUESTIONS:
        body = {name: value for name, value in body_of(question, WINDOW).items() if name != "ext"}
        answers[question] = {**client.search(index=INDEX, body=body), "took": 0}
    text = json.dumps(answers, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def searches(client: Any, options: argparse.Namespace) -> dict[str, Search]:
    """The ways to search that are compared, by name."""
    source = (
        {"backend": "remote", "base_url": options.base_url} if options.base_url else {"model": options.model}
    )
    reranker = ClientSideReranker(client, fields=FIELDS, window=WINDOW, **source)

    def plain(body: dict[str, Any]) -> dict[str, Any]:
        sent = {name: value for name, value in body.items() if name != "ext"}
        found: dict[str, Any] = client.search(index=INDEX, body=sent)
        return found

    def piped(body: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = client.search(
            index=INDEX, body=body, params={"search_pipeline": options.pipeline}
        )
        return found

    ways: dict[str, Search] = {
        "before": plain,
        "client side": lambda body: reranker.search(body, index=INDEX),
    }
    return {**ways, f"pipeline {options.pipeline}": piped} if options.pipeline else ways


def show(question: str, answer_id: str, answers: dict[str, dict[str, Any]]) -> None:
    """Print the first hits of each way side by side, the one that answers marked."""
    print(f"\n{question}")
    print(" | ".join(f"{name:34}" for name in answers))
    for place in range(SHOWN):
        cells = [_cell(answer["hits"]["hits"], place, answer_id) for answer in answers.values()]
        print(" | ".join(f"{cell:34}" for cell in cells))


def _cell(hits: list[dict[str, Any]], place: int, answer_id: str) -> str:
    if place >= len(hits):
        return ""
    hit = hits[place]
    mark = "*" if hit["_id"] == answer_id else " "
    return f"{mark}{hit['_score']:8.4f} {hit['_source']['title'][:24]}"


def argument_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(description="OpenSearch before and after reranking.")
    parser.add_argument("--cluster", help="an OpenSearch cluster; without one, recorded answers are reranked")
    parser.add_argument("--pipeline", help="a search pipeline of the cluster, to compare with")
    parser.add_argument("--model", default="demo", help="the reranker: a hub id, a folder, or demo")
    parser.add_argument("--base-url", help="a reranking service, in place of a model in this process")
    parser.add_argument("--keep", action="store_true", help="leave the index in the cluster")
    parser.add_argument("--record", action="store_true", help="write the cluster's answers to examples/data")
    return parser


def compare(client: Any, options: argparse.Namespace) -> None:
    """Ask every question in every way."""
    ways = searches(client, options)
    for question, answer_id in QUESTIONS.items():
        show(question, answer_id, {name: search(body_of(question)) for name, search in ways.items()})


def main(arguments: list[str] | None = None) -> None:
    """Search as the command line says."""
    parser = argument_parser()
    options = parser.parse_args(arguments)
    if options.cluster is None:
        if options.pipeline or options.record:
            parser.error("--pipeline and --record need --cluster")
        print("no --cluster: the first stage's answers are recorded ones")
        compare(RecordedAnswers(), options)
        return
    client = OpenSearch(options.cluster)
    try:
        with indexed(client, keep=options.keep):
            if options.record:
                record(client)
            compare(client, options)
    finally:
        client.close()


if __name__ == "__main__":
    main()
