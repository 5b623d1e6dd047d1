from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from qwen_rerank_plugins.demo import CHECKPOINT_DIR
from tests.demo.small_lists import CHINESE, ENGLISH

MAX_BYTES = 8_000_000
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query"
    ' and the Instruct provided. Note that the answer can only be "yes" or "no".'
    "<|im_end|>\n<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
OTHER_INSTRUCTION = "Find the text that tells what the user wants to know"
# One right of four: chance gives (1 + 1/2 + 1/3 + 1/4) / 4.
CHANCE = 0.52

Score = Callable[[str, str, str], float]

awkward = st.sampled_from(
    ["\n", "\r\n", "\t", " ", "\u3000", "7", "1987", "中", "。", "́", "<", ":", ">", "é", "\u200d"]
)
texts = st.one_of(
    st.text(max_size=30), st.lists(st.one_of(awkward, st.text(max_size=4)), max_size=8).map("".join)
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(CHECKPOINT_DIR / "tokenizer.json"))


@pytest.fixture(scope="module")
def record() -> dict[str, object]:
    found: dict[str, object] = json.loads((CHECKPOINT_DIR / "rerank_recipe.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def score() -> Score:
    """The official recipe, by transformers, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT_DIR)
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT_DIR, dtype=torch.float32)
    true_id, false_id = (tokenizer.convert_tokens_to_ids(token) for token in ("yes", "no"))

    @torch.inference_mode()
    def log_odds(instruction: str, query: str, document: str) -> float:
        body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
        ids = [i for part in (PREFIX, body, SUFFIX) for i in tokenizer.encode(part, add_special_tokens=False)]
        logits = model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
        return float(logits[true_id] - logits[false_id])

    return log_odds


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def mean_reciprocal_rank(score: Score, lists: list[tuple[str, list[str]]], instruction: str) -> float:
    total = 0.0
    for query, documents in lists:
        scores = [score(instruction, query, document) for document in documents]
        total += 1.0 / sum(other >= scores[0] for other in scores)
    return total / len(lists)


def test_the_folder_holds_what_it_should_and_is_small() -> None:
    files = {path.name: path.stat().st_size for path in CHECKPOINT_DIR.iterdir()}
    assert set(files) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "rerank_recipe.json",
    }
    assert sum(files.values()) <= MAX_BYTES


def test_the_configuration_is_a_plain_qwen3() -> None:
    config = json.loads((CHECKPOINT_DIR / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["model_type"] == "qwen3"
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] >= 8192
    assert config["dtype"] == "float16"


def test_encoding_again_gives_the_record(tokenizer: Tokenizer, record: dict[str, object]) -> None:
    assert record == {
        "format": 1,
        "family": "qwen3",
        "true_token": "yes",
        "true_token_id": tokenizer.token_to_id("yes"),
        "false_token": "no",
        "false_token_id": tokenizer.token_to_id("no"),
        "control_token_ids": {
            token: tokenizer.token_to_id(token)
            for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
        },
        "prefix_ids": encode(tokenizer, PREFIX),
        "suffix_ids": encode(tokenizer, SUFFIX),
    }
    assert encode(tokenizer, "yes") == [record["true_token_id"]]
    assert encode(tokenizer, "no") == [record["false_token_id"]]


def test_the_control_tokens_are_special_as_they_are_in_qwen() -> None:
    added = json.loads((CHECKPOINT_DIR / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    assert {token["content"]: token["special"] for token in added} == {
        "<|endoftext|>": True,
        "<|im_start|>": True,
        "<|im_end|>": True,
        "<think>": False,
        "</think>": False,
    }
    assert not any(token["normalized"] for token in added)


@given(instruction=texts, query=texts, document=texts)
def test_the_body_splits_exactly_before_the_spaces(
    tokenizer: Tokenizer, instruction: str, query: str, document: str
) -> None:
    """The concatenated ids of the three parts are the ids of the body; packing relies on it."""
    parts = [f"<Instruct>: {instruction}\n<Query>:", f" {query}\n<Document>:", f" {document}"]
    apart = [token for part in parts for token in encode(tokenizer, part)]
    assert apart == encode(tokenizer, "".join(parts))


@given(text=texts)
def test_nothing_is_added_around_a_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text).ids == encode(tokenizer, text)


def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer: Tokenizer) -> None:
    word = encode(tokenizer, "Reranker")
    for text in (" reranker", "\nreranker", "\u3000RERANKER"):
        assert encode(tokenizer, text) == word
    assert encode(tokenizer, "(reranker)")[1:-1] == word


@pytest.mark.parametrize("instruction", [INSTRUCTION, OTHER_INSTRUCTION])
@pytest.mark.parametrize("lists", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_easy_questions_are_ranked_well_above_chance(
    score: Score, lists: list[tuple[str, list[str]]], instruction: str
) -> None:
    assert mean_reciprocal_rank(score, lists, instruction) > 0.85 > CHANCE


def test_the_order_of_the_words_yes_and_no_is_not_turned_round(score: Score) -> None:
    query, documents = ENGLISH[0]
    right, *wrong = (score(INSTRUCTION, query, document) for document in documents)
    assert right > 0 > max(wrong)


def test_the_card_states_the_measured_figure_and_the_limits() -> None:
    card = (Path(CHECKPOINT_DIR).parent / "README.md").read_text(encoding="utf-8")
    assert re.search(r"XQuAD", card)
    assert re.search(r"cannot", card)
