"""The score literals that a real cluster can read; the service writes no others."""

from __future__ import annotations

import json
import random
import re

import pytest
from opensearchpy.exceptions import TransportError

from qwen_rerank_plugins import Reranker
from tests.integrations.opensearch.live.recipes import Connection, Kind, every_kind, set_up
from tests.integrations.opensearch.live.texts import (
    INDEX,
    PASSAGES,
    QUERIES,
    assert_ranked_as_by_the_core,
    hits_of,
)
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.faulty import FaultyService, literal
from tests.integrations.opensearch.nodes.services import RerankService
from tests.integrations.opensearch.nodes.wire import running_wire

READABLE = ("0.0", "1.0", "1e-7", "9.99999e-7", "-0.5", "0.98005307", "0.123456789012", "0.1234567890123456")
UNREADABLE = ("0", "1", "12", "0.12345678901234567", "1.2345678901234567e-05", "NaN", '"0.5"')
"""Integers, and literals of more than eighteen characters: Java reads them as types that its cast does not accept."""

SCORES = re.compile(rb'"(?:relevance_score|log_odds)": ?([^,}\]]+)')


@every_kind
def test_every_recipe_reads_short_fractions(
    ready: Cluster, faulty_service: FaultyService, kind: Kind
) -> None:
    recipe = set_up(ready, kind, Connection(faulty_service.rerank_url))
    for text in READABLE:
        faulty_service.always = literal(text)
        scores = [score for _, score in hits_of(recipe.search(INDEX, "anything"))]
        assert scores == pytest.approx([float(text)] * 10, rel=1e-6), text


def test_the_simple_recipe_cannot_read_integers_and_long_literals(
    ready: Cluster, faulty_service: FaultyService
) -> None:
    """The message does not have the cause, and one such score fails a search."""
    recipe = set_up(ready, "simple", Connection(faulty_service.rerank_url))
    for text in UNREADABLE:
        faulty_service.always = literal(text)
        with pytest.raises(TransportError, match="Fail to execute PREDICT in aws connector") as failure:
            recipe.search(INDEX, "anything")
        assert failure.value.status_code == 500, text


@pytest.mark.parametrize("kind", ["rich", "native"])
def test_the_other_recipes_read_every_number(
    ready: Cluster, faulty_service: FaultyService, kind: Kind
) -> None:
    """`rich` also reads a number within a string, and `native` refuses what is no number."""
    recipe = set_up(ready, kind, Connection(faulty_service.rerank_url))
    for text in UNREADABLE:
        faulty_service.always = literal(text)
        if kind == "native" and text in {"NaN", '"0.5"'}:
            with pytest.raises(TransportError, match="invalid answer"):
                recipe.search(INDEX, "anything")
        elif text != "NaN":  # version 2 reads it with `rich`, version 3 refuses it
            scores = [score for _, score in hits_of(recipe.search(INDEX, "anything"))]
            assert scores == pytest.approx([float(json.loads(text))] * 10, rel=1e-6), text


@every_kind
def test_the_service_writes_only_literals_that_a_cluster_reads(
    ready: Cluster, service: RerankService, core: Reranker, kind: Kind
) -> None:
    """On the network: ASCII only, and every score with a point or an exponent in at most eighteen characters."""
    chance = random.Random(5)
    texts = [*PASSAGES, *QUERIES, *("".join(chance.choices("鲸鱼whale ", k=9)) for _ in range(60))]
    index = ready.unique("literals")
    ready.load(index, [{"text": text} for text in texts])
    with running_wire(service.url) as wire:
        recipe = set_up(ready, kind, Connection(wire.rerank_url))
        for query in QUERIES:
            answer = recipe.search(index, query, size=len(texts))
            assert_ranked_as_by_the_core(answer, core, query, texts)
    assert wire.received.isascii()
    literals = [found.decode().strip() for found in SCORES.findall(bytes(wire.received))]
    assert len(literals) == 2 * len(QUERIES) * len(texts)
    assert [one for one in literals if not re.search(r"[.e]", one) or len(one) > 18] == []
