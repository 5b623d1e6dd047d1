"""The examples in docs/http.md are correct: the lexical scorer returns the answer below each request."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins import LexicalScorer, Reranker
from qwen_rerank_plugins.service.schemas import DIALECTS, read_request
from qwen_rerank_plugins.service.schemas.dialect import Outcome, Route

PAGE = Path(__file__).resolve().parents[3] / "docs" / "http.md"
EXAMPLE = re.compile(
    r"```bash\ncurl -s localhost:8501(?P<path>\S+) [^\n]*-d '(?P<body>[^']*)'\n```\n\n```json\n(?P<answer>.*?)```",
    re.DOTALL,
)
EXAMPLES = [match.groupdict() for match in EXAMPLE.finditer(PAGE.read_text(encoding="utf-8"))]


def route_of(path: str) -> Route:
    """Which kind of address a path is."""
    if path.endswith("/text-rerank"):
        return Route.DASHSCOPE
    return Route.SCORE if path.endswith("score") else Route.RERANK


def answer_of(route: Route, body: Any) -> Any:
    """What the service answers, with the id and the time that the page shows."""
    dialect = read_request(route, body)
    request = dialect.to_request()
    results = Reranker(scorer=LexicalScorer()).rank_many(
        request.queries, request.documents, top_n=request.top_n, spans=request.spans
    )
    return dialect.from_result(Outcome(results, "lexical", "d41c2a7e", 1_750_000_000))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["path"])
def test_a_request_on_the_page_gives_the_answer_below_it(example: dict[str, str]) -> None:
    answer = answer_of(route_of(example["path"]), json.loads(example["body"]))
    assert answer == json.loads(example["answer"])


def test_the_page_has_an_example_of_every_dialect() -> None:
    shown = {read_request(route_of(one["path"]), json.loads(one["body"])).name for one in EXAMPLES}
    assert sorted(shown) == list(DIALECTS)
