"""Overhead of the framework wrappers, merging of their concurrent calls, and quality of a whole chain.

    python benchmarks/wrappers.py [--parts cost,merge,quality] [--xquad DIR]

cost: a wrapper's call less the base package's, over the weightless scorer, for 10, 100 and 1000 documents, alternating; the
best of each counts. merge: 100 concurrent calls on one event loop with the demo model: batches of the engine, and the longest
stall of the loop; the best of several rounds counts, because other load on the machine only adds time. Loaded objects are
frozen for Python's garbage collector first, as in an asynchronous server that avoids pauses: a full collection over torch's
objects stops every thread for 50 to 150 ms. quality: the first stage (MiniLM, FAISS, 100 candidates) and the same reranked by
the demo model, as a LangChain chain on XQuAD (google-deepmind/xquad, CC BY-SA 4.0; the project has no copy); only with
`--xquad`. The last line of standard output is one JSON document. Exit code 1 means that a goal was not reached.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - the repository's root comes first
from rich.table import Table  # noqa: E402

from benchmarks import machine as machines  # noqa: E402
from benchmarks.core import say  # noqa: E402
from benchmarks.workloads import WORDS  # noqa: E402
from qwen_rerank_plugins import Reranker  # noqa: E402

PARTS = ("cost", "merge", "quality")
NUM_DOCUMENTS = (10, 100, 1000)
NUM_WORDS = 40
NUM_CALLS = 100
NUM_ROUNDS = 3
TURN_S = 0.001
DOCUMENTS_PER_CALL = 10
QUERY = "which of these harbours has a lighthouse"

MAX_CALL_S = 1e-3
MAX_DOCUMENT_S = 10e-6
MAX_STALL_S = 0.050
MIN_CALLS_PER_BATCH = 2.0


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A framework's wrapper behind a common interface.

    Attributes:
        name: The framework.
        items: Texts to the wrapper's input.
        blocking: A reranker to a blocking call of (items, query).
        concurrent: A reranker to an asynchronous call of (items, query).
    """

    name: str
    items: Callable[[Sequence[str]], list[Any]]
    blocking: Callable[[Reranker], Callable[[list[Any], str], Any]]
    concurrent: Callable[[Reranker], Callable[[list[Any], str], Awaitable[Any]]]


def langchain() -> Wrapper:
    """Return LangChain's document compressor."""
    from langchain_core.documents import Document
    from langchain_qwen_rerank import QwenRerank

    def items(texts: Sequence[str]) -> list[Any]:
        return [
            Document(text, id=str(n), metadata={"source": "page", "n": n}) for n, text in enumerate(texts)
        ]

    return Wrapper(
        "langchain",
        items,
        lambda reranker: QwenRerank(reranker=reranker).compress_documents,
        lambda reranker: QwenRerank(reranker=reranker).acompress_documents,
    )


def llama_index() -> Wrapper:
    """Return LlamaIndex's node postprocessor."""
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.qwen_rerank import QwenRerank

    def items(texts: Sequence[str]) -> list[Any]:
        nodes = [TextNode(text=text, id_=str(n), metadata={"source": "page"}) for n, text in enumerate(texts)]
        return [NodeWithScore(node=node, score=0.5) for node in nodes]

    def blocking(reranker: Reranker) -> Callable[[list[Any], str], Any]:
        wrapper = QwenRerank(reranker=reranker)
        return lambda nodes, query: wrapper.postprocess_nodes(nodes, query_str=query)

    def concurrent(reranker: Reranker) -> Callable[[list[Any], str], Awaitable[Any]]:
        wrapper = QwenRerank(reranker=reranker)
        return lambda nodes, query: wrapper.apostprocess_nodes(nodes, query_str=query)

    return Wrapper("llama-index", items, blocking, concurrent)


WRAPPERS = {"langchain": langchain, "llama-index": llama_index}


def texts(rng: random.Random, count: int) -> list[str]:
    """Return texts that never repeat."""
    return [" ".join(rng.choices(WORDS, k=NUM_WORDS)) for _ in range(count)]


# Cost.


def measure_cost(wrapper: Wrapper, num_documents: int, seconds: float) -> dict[str, float]:
    """Return seconds of one call: the base package's, the wrapper's, the difference, and its limit."""
    given = texts(random.Random(num_documents), num_documents)
    items = wrapper.items(given)
    with Reranker(backend="lexical") as reranker:
        call = wrapper.blocking(reranker)
        base: list[float] = []
        wrapped: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(base) < 5:
            base.append(seconds_of(lambda: reranker.rank(QUERY, given)))
            wrapped.append(seconds_of(lambda: call(items, QUERY)))
    cost = min(wrapped) - min(base)
    allowed = MAX_CALL_S + MAX_DOCUMENT_S * num_documents
    return {"base_s": min(base), "wrapper_s": min(wrapped), "cost_s": cost, "allowed_s": allowed}


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cost_figures(wrappers: Sequence[Wrapper], seconds: float) -> dict[str, Any]:
    """Return the cost by wrapper and number of documents, split into per call and per document."""
    figures: dict[str, Any] = {}
    for wrapper in wrappers:
        say(f"cost of {wrapper.name}")
        by_count = {count: measure_cost(wrapper, count, seconds) for count in NUM_DOCUMENTS}
        low, high = NUM_DOCUMENTS[0], NUM_DOCUMENTS[-1]
        per_document = (by_count[high]["cost_s"] - by_count[low]["cost_s"]) / (high - low)
        figures[wrapper.name] = {
            "documents": {str(count): one for count, one in by_count.items()},
            "per_call_s": by_count[low]["cost_s"] - low * per_document,
            "per_document_s": per_document,
            "ok": all(one["cost_s"] <= one["allowed_s"] for one in by_count.values()),
        }
    return figures


# Merging.


async def gather(
    call: Callable[[list[Any], str], Awaitable[Any]], lists: Sequence[list[Any]]
) -> tuple[float, float]:
    """Run all calls at once; return the seconds, and the longest stall of the loop."""
    longest = 0.0
    start = last = time.perf_counter()
    calls = asyncio.gather(*[call(items, f"{QUERY} {number}") for number, items in enumerate(lists)])
    while not calls.done():
        await asyncio.sleep(TURN_S)
        now = time.perf_counter()
        longest, last = max(longest, now - last - TURN_S), now
    await calls
    return time.perf_counter() - start, longest


def merge_figures(wrappers: Sequence[Wrapper]) -> dict[str, Any]:
    """Return batches, seconds and the longest stall of concurrent calls, by wrapper."""
    rng = random.Random(7)
    figures: dict[str, Any] = {}
    with Reranker(model="demo", device="cpu", cache_entries=0) as reranker:
        for wrapper in wrappers:
            say(f"concurrent calls of {wrapper.name}")
            rounds = [merge_round(wrapper, reranker, rng) for _ in range(NUM_ROUNDS + 1)][1:]
            best = min(rounds, key=lambda one: one["longest_stall_s"])
            is_ok = (
                best["longest_stall_s"] <= MAX_STALL_S and best["batches"] * MIN_CALLS_PER_BATCH <= NUM_CALLS
            )
            figures[wrapper.name] = {
                "calls": NUM_CALLS,
                "documents_per_call": DOCUMENTS_PER_CALL,
                **best,
                "all_stalls_s": [one["longest_stall_s"] for one in rounds],
                "ok": is_ok,
            }
    return figures


def merge_round(wrapper: Wrapper, reranker: Reranker, rng: random.Random) -> dict[str, Any]:
    """Run the concurrent calls once; the first round of a process warms up."""
    lists = [wrapper.items(texts(rng, DOCUMENTS_PER_CALL)) for _ in range(NUM_CALLS)]
    call = wrapper.concurrent(reranker)
    gc.collect()
    gc.freeze()
    before = batches(reranker)
    seconds, stall = asyncio.run(gather(call, lists))
    return {"batches": batches(reranker) - before, "seconds": seconds, "longest_stall_s": stall}


def batches(reranker: Reranker) -> int:
    """Return the number of batches that the engine computed."""
    return int(reranker.info()["scheduler"]["batches"])


# Quality.


def quality_figures(folder: Path, num_questions: int) -> dict[str, Any]:
    """Return the mean reciprocal rank of first stage and chain, by language."""
    return {
        language: chain_quality(folder / f"xquad.{language}.json", num_questions) for language in ("en", "zh")
    }


def chain_quality(path: Path, num_questions: int) -> dict[str, Any]:
    """Rank some questions' paragraphs by the first stage alone, and by the whole chain."""
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_qwen_rerank import QwenRerank

    from examples._first_stage import FirstStage
    from examples.langchain_rag import NUM_CANDIDATES, HandbookRetriever

    say(f"quality on {path.name}")
    paragraphs, questions = read_xquad(path)
    chosen = random.Random(11).sample(questions, min(num_questions, len(questions)))
    corpus = [{"id": str(n), "title": "", "text": text} for n, text in enumerate(paragraphs)]
    retriever = HandbookRetriever(stage=FirstStage(paragraphs), corpus=corpus, k=NUM_CANDIDATES)
    with QwenRerank(model="demo") as compressor:
        chain = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
        before = [reciprocal_rank(retriever.invoke(question), place) for question, place in chosen]
        after = [reciprocal_rank(chain.invoke(question), place) for question, place in chosen]
    return {
        "questions": len(chosen),
        "paragraphs": len(paragraphs),
        "first_stage_mrr": sum(before) / len(before),
        "reranked_mrr": sum(after) / len(after),
    }


def read_xquad(path: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Return the paragraphs, and each question with its paragraph's index."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    blocks = [block for article in articles for block in article["paragraphs"]]
    questions = [(one["question"], place) for place, block in enumerate(blocks) for one in block["qas"]]
    return [block["context"] for block in blocks], questions


def reciprocal_rank(documents: Sequence[Any], place: int) -> float:
    """Return 1 / rank of the right paragraph, 0 if it is missing."""
    ids = [one.id for one in documents]
    return 1.0 / (ids.index(str(place)) + 1) if str(place) in ids else 0.0


# Reports.


def tables(figures: dict[str, Any]) -> Iterator[Table]:
    """Return one table per part."""
    if "cost" in figures:
        table = Table(
            "wrapper", "documents", "base ms", "wrapper ms", "cost ms", "allowed ms", title="Cost of a call"
        )
        for name, one in figures["cost"].items():
            for count, times in one["documents"].items():
                table.add_row(name, count, *[f"{times[key] * 1000:.3f}" for key in times])
        yield table
    if "merge" in figures:
        table = Table("wrapper", "calls", "batches", "seconds", "longest stall ms", title="Concurrent calls")
        for name, one in figures["merge"].items():
            stall = f"{one['longest_stall_s'] * 1000:.1f}"
            table.add_row(name, str(one["calls"]), str(one["batches"]), f"{one['seconds']:.2f}", stall)
        yield table
    if "quality" in figures:
        table = Table("language", "questions", "first stage", "reranked by the demo", title="MRR on XQuAD")
        for name, one in figures["quality"].items():
            scores = [f"{one[key]:.3f}" for key in ("first_stage_mrr", "reranked_mrr")]
            table.add_row(name, str(one["questions"]), *scores)
        yield table


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the requested parts."""
    wrappers = [WRAPPERS[name]() for name in options.wrappers.split(",")]
    parts = options.parts.split(",")
    figures: dict[str, Any] = {"machine": machines.describe()}
    if "cost" in parts:
        figures["cost"] = cost_figures(wrappers, options.seconds)
    if "merge" in parts:
        figures["merge"] = merge_figures(wrappers)
    if "quality" in parts and options.xquad is not None:
        figures["quality"] = quality_figures(options.xquad, options.questions)
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print tables and the JSON line; return 1 if a goal was not reached."""
    parser = argparse.ArgumentParser(description="What the framework wrappers cost.")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--wrappers", default=",".join(WRAPPERS), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each cost (default: %(default)s)")
    parser.add_argument("--xquad", type=Path, help="a folder with xquad.en.json and xquad.zh.json")
    parser.add_argument("--questions", type=int, default=100, help="of each language (default: %(default)s)")
    options = parser.parse_args(arguments)
    figures = measure(options)
    console = Console(stderr=True)
    for table in tables(figures):
        console.print(table)
    goals = [one["ok"] for part in ("cost", "merge") for one in figures.get(part, {}).values()]
    print(json.dumps({**figures, "ok": all(goals)}))
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
