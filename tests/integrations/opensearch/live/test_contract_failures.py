"""Searches while the service is busy, slow, wrong or unreachable: the first stage's order, or an error with the cause."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from opensearchpy.exceptions import OpenSearchException, TransportError

from qwen_rerank_plugins import Reranker
from tests.integrations.opensearch.conftest import NATIVE_KEY
from tests.integrations.opensearch.live.recipes import (
    Connection,
    Kind,
    Recipe,
    by_configuration,
    every_kind,
    set_up,
)
from tests.integrations.opensearch.live.texts import (
    INDEX,
    PASSAGES,
    assert_ranked_as_by_the_core,
    hits_of,
    numbers_of,
)
from tests.integrations.opensearch.nodes import faulty
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.faulty import Behaviour, FaultyService
from tests.integrations.opensearch.nodes.services import RerankService, running_rerank_service
from tests.integrations.opensearch.nodes.wire import running_wire
from tests.service.servers import running_process

WEIGHTLESS = ("--backend", "lexical")
FIRST_ORDER = [(number, 1.0) for number in range(10)]
RETRIES = {
    "max_retry_times": 3,
    "retry_backoff_policy": "constant",
    "retry_backoff_millis": 50,
    "retry_timeout_seconds": 20,
}


@pytest.fixture(scope="module")
def lexical() -> Iterator[Reranker]:
    """The scores of a service without a model, in this process."""
    with Reranker(backend="lexical") as reranker:
        yield reranker


FAULTS: dict[str, tuple[Behaviour, tuple[str, int], tuple[str, int]]] = {
    "out of order": (
        faulty.failing(503, "the model is loading"),
        ("the model is loading", 503),
        ("the model is loading", 502),
    ),
    "too late": (
        faulty.failing(504, "no answer in time"),
        ("no answer in time", 504),
        ("no answer in time", 502),
    ),
    "busy": (faulty.failing(429, "come back later"), ("come back later", 429), ("come back later", 429)),
    "no key": (faulty.failing(401, "no valid key"), ("no valid key", 401), ("no valid key", 502)),
    "silent": (faulty.hanging, ("Read timed out", 500), ("did not answer within", 504)),
    "gone in between": (
        lambda service, body: None,
        ("connection was closed during the request", 500),
        ("cannot be reached", 502),
    ),
}
"""Behaviour of the service → message and status that the search returns: by configuration, and with `native`."""


@every_kind
def test_faults_are_reported_or_ignored(ready: Cluster, faulty_service: FaultyService, kind: Kind) -> None:
    short = {"read_timeout": 1}
    url = faulty_service.rerank_url
    strict = set_up(ready, kind, Connection(url, client_config=short))
    lenient = set_up(ready, kind, Connection(url, client_config=short, ignore_failure=True))
    for name, (behave, configured, native) in FAULTS.items():
        message, status = native if kind == "native" else configured
        faulty_service.always = behave
        with pytest.raises(TransportError) as failure:
            strict.search(INDEX, "whale")
        assert message in str(failure.value), name
        assert failure.value.status_code == status, name
        assert hits_of(lenient.search(INDEX, "whale")) == FIRST_ORDER, name


TOO_FEW: dict[Kind, str] = {
    "simple": "not the same length",
    "rich": "is not Numerical",
    "native": "9 results for 10 documents",
}


@every_kind
def test_a_response_with_too_few_scores_ranks_nothing(
    ready: Cluster, faulty_service: FaultyService, kind: Kind
) -> None:
    """With `rich` the cluster writes the whole list, which is not a number, into every hit."""
    faulty_service.always = faulty.cut_short
    with pytest.raises(TransportError, match=TOO_FEW[kind]):
        set_up(ready, kind, Connection(faulty_service.rerank_url)).search(INDEX, "whale")
    lenient = set_up(ready, kind, Connection(faulty_service.rerank_url, ignore_failure=True))
    assert hits_of(lenient.search(INDEX, "whale")) == FIRST_ORDER


@by_configuration
def test_a_busy_service_is_called_again_if_its_response_says_so(
    ready: Cluster, faulty_service: FaultyService, kind: Kind
) -> None:
    """Versions before 3.8 recognize a busy service by a header only, not by the status; `native` never calls again."""
    recipe = set_up(ready, kind, Connection(faulty_service.rerank_url, client_config=RETRIES))
    faulty_service.next.extend([faulty.throttled, faulty.throttled])
    assert len(hits_of(recipe.search(INDEX, "whale"))) == 10
    assert len(faulty_service.seen) == 3
    for behave in (faulty.failing(429), faulty.failing(503)):
        faulty_service.seen.clear()
        faulty_service.next.append(behave)
        with pytest.raises(TransportError):
            recipe.search(INDEX, "whale")
        assert len(faulty_service.seen) == 1


@pytest.mark.parametrize(
    ("kind", "message"), [("simple", "remote server throttling"), ("native", "too much")]
)
def test_a_busy_service_is_not_called_again_without_retries(
    ready: Cluster, faulty_service: FaultyService, kind: Kind, message: str
) -> None:
    faulty_service.next.append(faulty.throttled)
    recipe = set_up(ready, kind, Connection(faulty_service.rerank_url))
    with pytest.raises(TransportError, match=message) as failure:
        recipe.search(INDEX, "whale")
    assert failure.value.status_code == 429
    assert len(faulty_service.seen) == 1


def test_the_services_own_429_is_retried(ready: Cluster, tmp_path: Path) -> None:
    """Two concurrent searches at a service that accepts one; the refused one is retried and served."""
    settings = {"max_pending_tokens": 1}
    with running_process(tmp_path, scorer={"delay_s": 0.5}, settings=settings) as served:
        patient = {**RETRIES, "max_retry_times": 60, "retry_backoff_millis": 100}
        url = f"{served.base_url}/v1/rerank"
        recipe = set_up(ready, "simple", Connection(url, client_config=patient))
        answers: list[Any] = []
        searches = [
            threading.Thread(target=lambda: answers.append(recipe.search(INDEX, "blue whale")))
            for _ in range(2)
        ]
        for one in searches:
            one.start()
        for one in searches:
            one.join()
        refused = _rejections(served.base_url)
    assert [numbers_of(answer)[0] for answer in answers] == [0, 0]
    assert refused >= 1


def _rejections(base_url: str) -> float:
    log = RerankService(base_url, None, Path())  # type: ignore[arg-type] # only its metrics are read
    return log.metric("rerank_rejected_total")


@every_kind
def test_the_services_deadline_ends_before_the_clusters(ready: Cluster, tmp_path: Path, kind: Kind) -> None:
    """The search returns the cause instead of a connection timeout."""
    settings = {"request_timeout_s": 0.5}
    with running_process(tmp_path, scorer={"delay_s": 60.0}, settings=settings, wait=True) as served:
        url = f"{served.base_url}/v1/rerank"
        recipe = set_up(ready, kind, Connection(url, client_config={"read_timeout": 20}))
        with pytest.raises(TransportError) as failure:
            recipe.search(INDEX, "whale")
    if kind == "native":
        assert failure.value.status_code == 502
        assert "answered with status 504: " in str(failure.value)
    else:
        assert failure.value.status_code == 504
        assert '"code":"timeout"' in str(failure.value).replace(" ", "")


def test_the_key_is_sent_in_a_header(ready: Cluster, tmp_path: Path, lexical: Reranker) -> None:
    """The connector's key, or with `native` the one in the node's keystore."""
    environment = {"QWEN_RERANK_SERVICE_API_KEYS_ENV": "KEYS", "KEYS": NATIVE_KEY}
    with running_rerank_service(tmp_path, WEIGHTLESS, environment=environment) as locked:
        for kind in ("simple", "native"):
            opened = set_up(ready, kind, Connection(locked.rerank_url, key=NATIVE_KEY))
            answer = opened.search(INDEX, "fox", size=len(PASSAGES))
            assert_ranked_as_by_the_core(answer, lexical, "fox", PASSAGES)
        closed = set_up(ready, "simple", Connection(locked.rerank_url, key="wrong"))
        with pytest.raises(TransportError, match="unauthorized") as failure:
            closed.search(INDEX, "fox")
    assert failure.value.status_code == 401
    assert "wrong" not in str(failure.value)


@every_kind
def test_connections_are_kept_open(ready: Cluster, service: RerankService, kind: Kind) -> None:
    """By configuration, the cluster closes a connection after five idle seconds; the service would keep it longer."""
    with running_wire(service.url) as wire:
        recipe = set_up(ready, kind, Connection(wire.rerank_url))
        for _ in range(20):
            recipe.search(INDEX, "whale")
        # A search may start before the previous connection is back in the cluster's pool.
        kept = wire.connections
        assert kept <= 3
        time.sleep(6)
        assert len(hits_of(recipe.search(INDEX, "whale"))) == 10
        assert wire.connections <= kept + 1
        assert wire.sent.count(b"POST /v1/rerank") == 21


# A service that dies under searches.


class Searching:
    """Searches from several threads until the block ends, and records the responses."""

    def __init__(self, recipe: Recipe, num_threads: int = 3) -> None:
        self.recipe = recipe
        self.answers: list[Any] = []
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._search) for _ in range(num_threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _search(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                self.answers.append(self.recipe.search(INDEX, f"blue whale {number}"))
            except OpenSearchException as error:
                self.errors.append(str(error))

    def wait_for_more(self, count: int = 6) -> None:
        """Wait until this many more searches have ended or failed."""
        end = len(self.answers) + len(self.errors) + count
        give_up = time.monotonic() + 60
        while len(self.answers) + len(self.errors) < end:
            assert time.monotonic() < give_up, "no search ends"
            time.sleep(0.02)


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[RerankService]:
    """A separate service for one test."""
    with running_rerank_service(tmp_path, WEIGHTLESS) as running:
        yield running


@every_kind
def test_no_search_fails_when_the_service_is_killed_and_ranking_resumes_with_it(
    ready: Cluster, own_service: RerankService, lexical: Reranker, tmp_path: Path, kind: Kind
) -> None:
    recipe = set_up(ready, kind, Connection(own_service.rerank_url, ignore_failure=True))
    with Searching(recipe) as searching:
        searching.wait_for_more()
        own_service.kill()
        searching.wait_for_more()
    assert searching.errors == []
    first_order = [answer for answer in searching.answers if hits_of(answer) == FIRST_ORDER]
    ranked = [
        answer for answer in searching.answers if numbers_of(answer)[0] == 0 and answer not in first_order
    ]
    assert len(first_order) >= 3
    assert len(first_order) + len(ranked) == len(searching.answers)
    assert hits_of(recipe.search(INDEX, "blue whale")) == FIRST_ORDER

    port = int(own_service.url.rpartition(":")[2])
    with running_rerank_service(tmp_path, WEIGHTLESS, port=port):
        answer = recipe.search(INDEX, "blue whale", size=len(PASSAGES))
        assert_ranked_as_by_the_core(answer, lexical, "blue whale", PASSAGES)


@every_kind
def test_without_a_fallback_the_error_says_that_the_service_is_unreachable(
    ready: Cluster, own_service: RerankService, kind: Kind
) -> None:
    recipe = set_up(ready, kind, Connection(own_service.rerank_url))
    with Searching(recipe) as searching:
        searching.wait_for_more()
        own_service.kill()
        searching.wait_for_more()
    assert searching.errors
    message = "cannot be reached" if kind == "native" else "Error communicating with remote model"
    for error in searching.errors:
        assert message in error
    with pytest.raises(TransportError, match=r"ConnectException|Connection refused"):
        recipe.search(INDEX, "blue whale")
