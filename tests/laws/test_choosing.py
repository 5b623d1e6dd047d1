"""The figures of docs/choosing.md follow from the models' shapes and from the measured times."""

from __future__ import annotations

import json
import re

import pytest

from qwen_rerank_plugins.core.prompts.families import FAMILIES
from tests.core.qwen_vocabulary import qwen_tokenizer
from tests.laws.sources import ROOT

PAGE = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
VOCABULARY = 151_669
HEAD_SIZE = 128
KEY_HEADS = 8
QUERY_HEADS = {"0.6B": 16, "4B": 32, "8B": 32}
TIED = {"0.6B": True, "4B": True, "8B": False}
MODEL = re.compile(
    r"^\| `Qwen/Qwen3-Reranker-(?P<name>\S+)` \| (?P<total>[\d.]+) B \| (?P<layers>\d+) \| "
    r"(?P<hidden>\d+) × (?P<mlp>\d+) \| 32k \| (?P<file>\S+) \| (?P<fp32>\S+) \| (?P<bf16>\S+) \| (?P<int8>\S+) \|",
    re.MULTILINE,
)
MODELS = [match.groupdict() for match in MODEL.finditer(PAGE)]
TIMES = re.findall(
    r"^\| (\d+) × (\d+) \| ([\d.]+) s \| ([\d.]+) s \| ([\d.]+) s \| ([\d.]+) s \|", PAGE, re.MULTILINE
)
MAX_WORDS = 1200
QUERY_TOKENS = 10
SHORTEST_S = 0.008


def sizes(row: dict[str, str]) -> dict[str, float]:
    """Parameters and bytes of a model, in billions, from its shape: norms in the format of the computation."""
    hidden, mlp, layers = int(row["hidden"]), int(row["mlp"]), int(row["layers"])
    queries, keys = QUERY_HEADS[row["name"]] * HEAD_SIZE, KEY_HEADS * HEAD_SIZE
    products = layers * (2 * hidden * queries + 2 * hidden * keys + 3 * hidden * mlp)
    scales = layers * (queries + 2 * keys + hidden + 2 * mlp + hidden)
    norms = layers * (2 * hidden + 2 * HEAD_SIZE) + hidden
    embedding = VOCABULARY * hidden
    total = products + norms + embedding * (1 if TIED[row["name"]] else 2)
    counts = {
        "total": total,
        "file": 2 * total,
        "fp32": 4 * (products + norms) + 2 * embedding,
        "bf16": 2 * (products + norms) + 2 * embedding,
        "int8": products + 4 * (scales + norms) + 2 * embedding,
    }
    return {name: count / 1e9 for name, count in counts.items()}


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row["name"])
def test_the_sizes_follow_from_the_shape(row: dict[str, str]) -> None:
    """The two of 0.6B that were measured, 2,073 and 753 MB, are in docs/measured.md."""
    assert {name: float(row[name]) for name in sizes(row)} == pytest.approx(sizes(row), abs=0.006)


def test_all_three_models_and_the_demo_are_in_the_table() -> None:
    assert [row["name"] for row in MODELS] == ["0.6B", "4B", "8B"]
    config = json.loads((ROOT / "qwen_rerank_plugins/demo/checkpoint/config.json").read_text())
    shape = f"{config['num_hidden_layers']} | {config['hidden_size']} × {config['intermediate_size']}"
    assert f"| `demo` | 3.6 M | {shape} | {config['max_position_embeddings'] // 1024}k |" in PAGE


def test_the_formula_counts_the_tokens_of_the_prompt() -> None:
    """63 tokens besides the query's are computed once, 9 besides the document's for each document."""
    values = {
        "instruction": FAMILIES["qwen3"].default_instruction or "",
        "query": "kettle",
        "document": "tea",
    }

    def count(part: str) -> int:
        pieces = getattr(FAMILIES["qwen3"], part)
        return sum(len(qwen_tokenizer().encode(one.render(values)).ids) for one in pieces)

    query, document = (len(qwen_tokenizer().encode(f" {values[name]}").ids) for name in ("query", "document"))
    assert count("root") + count("query") - query == 63
    assert count("document") - document == 9
    assert "tokens  = 63 + query tokens + documents × (document tokens + 9)" in PAGE


@pytest.mark.parametrize("row", TIMES, ids=lambda row: f"{row[0]} documents of {row[1]}")
def test_the_times_follow_from_the_formula(row: tuple[str, ...]) -> None:
    documents, length, *seconds = (float(cell) for cell in row)
    tokens = 63 + QUERY_TOKENS + documents * (length + 9)
    expected = [max(tokens / speed, SHORTEST_S) for speed in (296, 520, 547_000, 90_000)]
    assert seconds == pytest.approx(expected, rel=0.03, abs=0.005)


def test_the_throughputs_follow_from_measured_times() -> None:
    """Seconds of mixed (3,506 tokens in 24 documents) and of 100 documents of 128 tokens, from docs/measured.md."""
    measured = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    for row in (
        "| mixed: 24 documents of 30–400 tokens | 12.8 |",
        "| mixed: 24 documents of 30–400 tokens | 7.3 |",
    ):
        assert row in measured
    assert "| 100 documents of 128 tokens, p50 ms | 25.2 | 153 | 277 |" in measured
    mixed, hundred = 63 + 10 + 3506 + 24 * 9, 63 + 12 + 100 * (128 + 9)
    assert [round(mixed / seconds) for seconds in (12.8, 7.3)] == [296, 520]
    assert [hundred / ms for ms in (25.2, 153, 277)] == pytest.approx([547, 90, 50], rel=0.01)


def test_there_are_rows_to_check_and_the_page_is_short() -> None:
    assert len(TIMES) == 4
    assert len([word for word in PAGE.split() if re.search(r"\w", word)]) <= MAX_WORDS
