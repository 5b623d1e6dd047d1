"""What reranking inside an OpenSearch cluster adds to a search, and what the same costs on the client's side.

    python benchmarks/opensearch.py [--versions 2.19.1,3.6.0] [--hits 10,100,1000] [--searches 50] [--scorer demo]

Each version runs as a real node (scripts/opensearch_node.py has its requirements), with the service as users start it,
and this process as the client. `opensearch-qwen-rerank`'s own functions set up both recipes, without a window, so that a search
reranks as many hits as it requests. For each number of hits these alternate, on the same hits:

    search    the search alone
    service   one request to the service with the hits' texts, over an open connection, without a cluster
    simple    the search through the pipeline `rerank` + `ml_opensearch`
    rich      the search through the pipeline `ml_inference` + `rerank` + `by_field`
    native    the search through the native plugin's processors, built here with Maven
    client    opensearch_qwen_rerank.ClientSideReranker, which searches and calls the service itself

`added` is the time beyond the search alone and the service alone: the overhead of the pipeline, or of this package. Queries never
repeat and the service's cache is off. The weightless scorer is the default, because it isolates that overhead; `--scorer
demo` uses a model. At last, rounds of `--parallel` native searches at once show that neither heap nor threads grow with them. The last
line of standard output is one JSON document. Exit code 1 means that an order differed from the service's.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402 - the repository's root comes first
from opensearch_qwen_rerank import ClientSideReranker, OpenSearchSettings, plan_apply  # noqa: E402
from opensearch_qwen_rerank.cluster import OpenSearchCluster  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import machine as machines  # noqa: E402
from benchmarks.core import say  # noqa: E402
from benchmarks.workloads import WORDS  # noqa: E402
from qwen_rerank_plugins import Reranker  # noqa: E402
from tests.integrations.opensearch.nodes.cluster import Cluster, running_cluster  # noqa: E402
from tests.integrations.opensearch.nodes.native_plugin import build_plugin  # noqa: E402
from tests.integrations.opensearch.nodes.releases import RELEASES  # noqa: E402
from tests.integrations.opensearch.nodes.services import RerankService, running_rerank_service  # noqa: E402

INDEX = "passages"
NUM_WORDS = 40
WARM_UP = 5
SCORERS = {"weightless": ("--backend", "lexical"), "demo": ("--model", "demo")}
RERANKING = ("simple", "rich", "native", "client")
WAYS = ("search", "service", *RERANKING)
TIMEOUT_S = 300
NUM_ROUNDS = 4
PARALLEL_HITS = 100

Way = Callable[[str, int], list[str]]
"""From a query and a number of hits to the hits' ids, best first."""


@dataclass
class Turns:
    """Results for one number of hits.

    Attributes:
        seconds: Of each way, turn by turn.
        wrong: Orders that differed from the service's, by way.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    wrong: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RERANKING, 0))

    def figures(self) -> dict[str, Any]:
        """Return milliseconds of every way, and what the reranking ones add, at p50 and p99."""
        alone = [sum(pair) for pair in zip(self.seconds["search"], self.seconds["service"], strict=True)]
        table: dict[str, Any] = {way: _percentiles(self.seconds[way]) for way in WAYS}
        for way in RERANKING:
            added = [taken - least for taken, least in zip(self.seconds[way], alone, strict=True)]
            table[way] |= {f"added_{name}": value for name, value in _percentiles(added).items()}
            table[way]["wrong_orders"] = self.wrong[way]
        return table


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    picked = {"p50_ms": 0.50, "p99_ms": 0.99}
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))], 3)
        for name, part in picked.items()
    }


class Bench:
    """A cluster, a service, and the ways to rerank with both.

    Args:
        cluster: The cluster, with the pipelines set up.
        service: The service that they call.
        stack: Closed when the benchmark's block ends.
    """

    def __init__(self, cluster: Cluster, service: RerankService, stack: ExitStack) -> None:
        self._cluster = cluster
        self._url = service.rerank_url
        self._http = stack.enter_context(httpx.Client(trust_env=False, timeout=TIMEOUT_S))
        self._texts: list[str] = []
        self._scores: list[float] = []
        self._remote = stack.enter_context(
            Reranker(backend="remote", base_url=service.url, timeout_s=TIMEOUT_S)
        )

    def ways(self, num_hits: int) -> dict[str, Way]:
        """Return all ways, in the order of the turns."""
        client = self._cluster.client
        side = ClientSideReranker(client, reranker=self._remote, fields=["text"], window=num_hits)
        return {
            "search": lambda _, n: _ids(client.search(index=INDEX, body={"size": n})),
            "service": self._service,
            "simple": lambda query, n: self._through("simple", {"rerank": _context(query)}, n),
            "rich": lambda query, n: self._through("rich", {"ml_inference": {"query_text": query}}, n),
            "native": lambda query, n: self._through(
                "native", {"qwen_rerank": {"query_text": query, "window": n}}, n
            ),
            "client": lambda query, n: _ids(side.search({"size": n}, index=INDEX, query=query)),
        }

    def _through(self, recipe: str, ext: dict[str, Any], num_hits: int) -> list[str]:
        params = {"search_pipeline": recipe, "request_timeout": TIMEOUT_S}
        body = {"size": num_hits, "ext": ext}
        return _ids(self._cluster.client.search(index=INDEX, body=body, params=params))

    def _service(self, query: str, num_hits: int) -> list[str]:
        body = {"query": query, "documents": self._texts[:num_hits]}
        answer = self._http.post(self._url, json=body).raise_for_status().json()
        self._scores = answer["scores"]
        return [str(one["index"]) for one in answer["results"]]

    def _is_best_first(self, ids: Sequence[str]) -> bool:
        """Return whether the order equals the service's last one, within a cluster's 32-bit scores."""
        kept = [array("f", [self._scores[int(one)]])[0] for one in ids]
        return kept == sorted(kept, reverse=True) and len(set(ids)) == len(self._scores)

    def load(self, num_documents: int) -> None:
        """Create the index; a search without a query returns its documents in the order of their numbers."""
        chance = random.Random(num_documents)
        self._texts = [" ".join(chance.choices(WORDS, k=NUM_WORDS)) for _ in range(num_documents)]
        self._cluster.load(INDEX, [{"text": text} for text in self._texts])

    def measure(self, num_hits: int, num_searches: int) -> Turns:
        """Run the ways in turn."""
        turns, ways, queries = Turns(), self.ways(num_hits), make_queries(num_hits)
        for query in itertools.islice(queries, WARM_UP):
            for way in ways.values():
                way(query, num_hits)
        for query in itertools.islice(queries, num_searches):
            orders = {}
            for name, way in ways.items():
                start = time.perf_counter()
                orders[name] = way(query, num_hits)
                turns.seconds[name].append(time.perf_counter() - start)
            for name in RERANKING:
                turns.wrong[name] += not self._is_best_first(orders[name])
        return turns

    def measure_parallel(self, num_searches: int) -> list[dict[str, float]]:
        """Return the times of native searches that begin at once, and the node's heap and threads, round by round."""
        queries = make_queries(num_searches)
        rounds = []
        for _ in range(NUM_ROUNDS):
            seconds = asyncio.run(self._search_at_once(list(itertools.islice(queries, num_searches))))
            (node,) = self._cluster.request("GET", "/_nodes/stats/jvm,thread_pool")["nodes"].values()
            measured = {
                "heap_mb": node["jvm"]["mem"]["heap_used_in_bytes"] / 2**20,
                "threads": node["jvm"]["threads"]["count"],
                "threads_of_plugin": node["thread_pool"]["qwen_rerank"]["largest"],
            }
            rounds.append(_percentiles(seconds) | {name: round(value) for name, value in measured.items()})
        return rounds

    async def _search_at_once(self, queries: Sequence[str]) -> list[float]:
        url = f"{self._cluster.url}/{INDEX}/_search?search_pipeline=native"
        limits = httpx.Limits(max_connections=len(queries))

        async def search(client: httpx.AsyncClient, query: str) -> float:
            start = time.perf_counter()
            ext = {"qwen_rerank": {"query_text": query, "window": PARALLEL_HITS}}
            (await client.post(url, json={"size": 10, "ext": ext})).raise_for_status()
            return time.perf_counter() - start

        async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S, limits=limits) as client:
            return await asyncio.gather(*(search(client, query) for query in queries))


def _context(query: str) -> dict[str, Any]:
    return {"query_context": {"query_text": query}}


def _ids(answer: Any) -> list[str]:
    return [hit["_id"] for hit in answer["hits"]["hits"]]


def make_queries(seed: int) -> Iterator[str]:
    """Yield queries without end, none repeated."""
    chance = random.Random(seed)
    for number in itertools.count():
        yield f"{' '.join(chance.choices(WORDS, k=6))} {number}"


@contextmanager
def running_bench(version: str, scorer: str, heap: str) -> Iterator[Bench]:
    """Run cluster and service until the block ends."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(
            running_cluster(version, heap=heap, optimized=True, plugins=[build_plugin(version)])
        )
        environment = {"QWEN_RERANK_CACHE_ENTRIES": "0"}
        service = stack.enter_context(
            running_rerank_service(folder, SCORERS[scorer], environment=environment)
        )
        set_up(cluster, service)
        yield Bench(cluster, service, stack)


def set_up(cluster: Cluster, service: RerankService) -> None:
    """Set up both recipes as `opensearch-qwen-rerank apply` does, and the native processors, each under its own name."""
    for recipe in ("simple", "rich"):
        settings = OpenSearchSettings(
            cluster=cluster.url,
            service=service.url,
            pipeline=recipe,
            recipe=recipe,
            fields=("text",),
            oversample=1,
            on_error="raise",
            read_timeout_s=TIMEOUT_S,
        )
        own = OpenSearchCluster(cluster.client)
        for step, _ in plan_apply(own, settings).run(own):
            say(f"{cluster.version}, {recipe}: {step}")
    allowed = {"qwen_rerank.allowed_endpoints": [service.url]}
    cluster.request("PUT", "/_cluster/settings", {"persistent": allowed})
    options = {"endpoint": service.url, "fields": ["text"], "on_failure": "fail", "timeout": f"{TIMEOUT_S}s"}
    body = {
        "request_processors": [{"qwen_rerank": {}}],
        "response_processors": [{"qwen_rerank": options}],
    }
    cluster.request("PUT", "/_search/pipeline/native", body)


def show(version: str, figures: dict[str, Any]) -> None:
    """Print a table."""
    table = Table("hits", "way", "p50 ms", "p99 ms", "added p50", "added p99", title=f"OpenSearch {version}")
    for hits, rows in figures.items():
        for way, row in rows.items():
            cells = (row["p50_ms"], row["p99_ms"], row.get("added_p50_ms", ""), row.get("added_p99_ms", ""))
            table.add_row(hits, way, *map(str, cells))
    Console(stderr=True).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 if an order was wrong."""
    options = parse(arguments)
    figures: dict[str, Any] = {"machine": machines.describe(), "scorer": options.scorer}
    for version in options.versions.split(","):
        sizes = [int(hits) for hits in options.hits.split(",")]
        with running_bench(version, options.scorer, options.heap) as bench:
            bench.load(max(sizes))
            rows = {}
            for hits in sizes:
                rows[str(hits)] = bench.measure(hits, options.searches).figures()
                say(f"OpenSearch {version}, {hits} hits: done")
            figures[f"{version} parallel"] = (
                bench.measure_parallel(options.parallel) if options.parallel else []
            )
        show(version, rows)
        for measured in figures[f"{version} parallel"]:
            say(f"OpenSearch {version}, {options.parallel} native searches at once: {measured}")
        figures[version] = rows
    wrong = [
        f"{version}, {hits} hits, {way}"
        for version in options.versions.split(",")
        for hits, rows in figures[version].items()
        for way in RERANKING
        if rows[way]["wrong_orders"]
    ]
    for line in wrong:
        print(f"WRONG ORDER: {line}", file=sys.stderr)
    print(json.dumps(figures | {"wrong": wrong}))
    return 1 if wrong else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--versions", default=",".join(RELEASES), help="default: %(default)s")
    parser.add_argument("--hits", default="10,100,1000", help="hits of a search (default: %(default)s)")
    parser.add_argument("--searches", type=int, default=50, help="turns of every way (default: %(default)s)")
    parser.add_argument(
        "--parallel", type=int, default=500, help="native searches at once, 0 for none (default: %(default)s)"
    )
    parser.add_argument("--scorer", choices=SCORERS, default="weightless", help="default: %(default)s")
    parser.add_argument("--heap", default="2g", help="memory of the node's Java heap (default: %(default)s)")
    options = parser.parse_args(arguments)
    if unknown := set(options.versions.split(",")) - set(RELEASES):
        parser.error(f"unknown version {min(unknown)!r}; there are {', '.join(RELEASES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
