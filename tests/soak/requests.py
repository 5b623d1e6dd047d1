"""Requests in the forms of several clients, with the scores that their answers must have."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_rerank_plugins import Reranker
from tests.core.tiny_checkpoints import Shape, make, with_demo_tokenizer

TOLERANCE = 1e-6
"""Largest difference of a probability; in fp32 on a CPU the bits are the same (docs/invariance.md)."""

DOCUMENTS_PER_QUERY = 12
REPEATS = 40
"""Copies of a query's documents in a large request: its JSON is parsed and written in a thread."""

_SYLLABLES = ("ba", "ki", "lo", "mé", "nu", "ra", "shi", "to", "鲸", "海", "蓝", "🐋")


@dataclass(frozen=True, slots=True)
class Group:
    """A query, its documents, and their scores by the reference."""

    query: str
    documents: list[str]
    scores: list[float]

    def part(self, draw: random.Random) -> Group:
        """Return some of the documents, in any order."""
        chosen = draw.sample(range(len(self.documents)), draw.randint(1, 6))
        return Group(self.query, [self.documents[i] for i in chosen], [self.scores[i] for i in chosen])


@dataclass(frozen=True, slots=True)
class Request:
    """A request and what its answer must be.

    Attributes:
        path: The address.
        body: The JSON body.
        scores_of: Returns the scores of an answer, in the order of `scores`.
        scores: The expected scores.
        headers: More headers.
    """

    path: str
    body: dict[str, Any]
    scores_of: Callable[[Any], list[float]]
    scores: list[float]
    headers: dict[str, str]

    def difference(self, answer: Any) -> float:
        """Return the largest difference of a score in an answer.

        It is infinite if there are more or fewer scores, or one is NaN.
        """
        found = self.scores_of(answer)
        if len(found) != len(self.scores) or any(map(math.isnan, found)):
            return math.inf
        return max(abs(one - other) for one, other in zip(found, self.scores, strict=True))


def tiny_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of three small layers with random weights and the demo's tokenizer."""
    return with_demo_tokenizer(make(folder, Shape(vocab_size=10_000)))


def make_groups(number: int, config: dict[str, Any]) -> list[Group]:
    """Return queries with random documents, and their scores by a reranker in this process."""
    draw = random.Random(number)
    with Reranker(**config) as reference:
        groups = []
        for index in range(number):
            query = f"{_text(draw, 6)} {index}"
            documents = [f"{_text(draw, draw.randint(3, 40))} {n}" for n in range(DOCUMENTS_PER_QUERY)]
            groups.append(Group(query, documents, list(reference.score(query, documents))))
    return groups


def _text(draw: random.Random, num_words: int) -> str:
    return " ".join("".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) for _ in range(num_words))


def draw_request(groups: list[Group], draw: random.Random) -> Request:
    """Return a request of a random client; one in ten is computed in the background, one in fifty is large."""
    headers = {"Priority": "u=7"} if draw.random() < 0.1 else {}
    if draw.random() < 0.02:
        group = draw.choice(groups)
        return _cohere([Group(group.query, group.documents * REPEATS, group.scores * REPEATS)], headers)
    form = draw.choice(_FORMS)
    return form([group.part(draw) for group in draw.sample(groups, 3)], headers)


def _cohere(groups: list[Group], headers: dict[str, str]) -> Request:
    group = groups[0]
    body = {"query": group.query, "documents": group.documents, "top_n": 1}
    return Request("/v1/rerank", body, lambda answer: answer["scores"], group.scores, headers)


def _tei(groups: list[Group], headers: dict[str, str]) -> Request:
    group = groups[0]
    body = {"query": group.query, "texts": group.documents}
    return Request("/rerank", body, _scores_by_index, group.scores, headers)


def _scores_by_index(answer: Any) -> list[float]:
    return [item["score"] for item in sorted(answer, key=lambda item: item["index"])]


def _vllm(groups: list[Group], headers: dict[str, str]) -> Request:
    group = groups[0]
    body = {"text_1": group.query, "text_2": group.documents}
    return Request("/v1/score", body, lambda a: [item["score"] for item in a["data"]], group.scores, headers)


def _weaviate(groups: list[Group], headers: dict[str, str]) -> Request:
    group = groups[0]
    body = {"query": group.query, "documents": group.documents, "property": ""}
    return Request("/rerank", body, lambda a: [item["score"] for item in a["scores"]], group.scores, headers)


def _multi_query(groups: list[Group], headers: dict[str, str]) -> Request:
    body = {"queries": [group.query for group in groups], "documents": [group.documents for group in groups]}
    scores = [score for group in groups for score in group.scores]
    return Request(
        "/api/rerank", body, lambda a: [s for one in a["results"] for s in one["scores"]], scores, headers
    )


_FORMS = (_cohere, _tei, _vllm, _weaviate, _multi_query)
