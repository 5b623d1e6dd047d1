"""The demo's tokenizer: byte-level BPE with Qwen's control tokens.

The model is too small to learn that different tokens mean the same word. Therefore letters are folded (NFKC, lower
case), white space separates words but is not a token (a word has the same tokens at the start of a line and inside it),
and every Chinese character is a token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PREFIX: Final = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query"
    ' and the Instruct provided. Note that the answer can only be "yes" or "no".'
    "<|im_end|>\n<|im_start|>user\n"
)
SUFFIX: Final = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION: Final = "Given a web search query, retrieve relevant passages that answer the query"

SPECIAL_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN_TOKENS: Final = ("<think>", "</think>")
CONTROL_TOKENS: Final = (*SPECIAL_TOKENS, *PLAIN_TOKENS)
VOCABULARY_SIZE: Final = 10_000
NUM_CONTROL_AND_BYTE_TOKENS: Final = len(CONTROL_TOKENS) + 256

_WORDS: Final = r"[\u3400-\u9fff]|\p{N}{1,2}|[\p{L}\p{M}]+|[^\s\p{L}\p{M}\p{N}]"


def _bare(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> Tokenizer:
    """Train a tokenizer on ``texts``, the recipe's template and the common Chinese characters.

    Args:
        texts: The training texts.
        vocabulary_size: Maximum number of tokens, including control tokens.
    """
    tokenizer = _bare(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_fixed_texts(texts), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    offset = len(CONTROL_TOKENS)
    vocabulary = {token: index for index, token in enumerate(CONTROL_TOKENS)}
    vocabulary |= {token: index + offset for token, index in learned["vocab"].items()}
    result = _bare(models.BPE(vocabulary, [(left, right) for left, right in learned["merges"]]))
    result.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    result.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLAIN_TOKENS])
    return result


def _with_fixed_texts(texts: Iterable[str]) -> Iterator[str]:
    """Append texts whose words must become single tokens: the template, yes, no, GB 2312's 3,755 common characters."""
    yield from texts
    template = PREFIX.replace("<|im_start|>", " ").replace("<|im_end|>", " ")
    for _ in range(2000):
        yield f"{template} <Instruct>: {INSTRUCTION} <Query>: <Document>: assistant yes no"
    characters = [
        bytes((row, cell)).decode("gb2312", "ignore")
        for row in range(0xB0, 0xD8)
        for cell in range(0xA1, 0xFF)
    ]
    for _ in range(300):
        yield "".join(characters)


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, without indentation to keep it small, and tokenizer_config.json."""
    compact = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(compact, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def recipe_record(tokenizer: Tokenizer) -> dict[str, object]:
    """Return the content of rerank_recipe.json: the ids that this tokenizer encodes the recipe to."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    (true_id,), (false_id,) = ids("yes"), ids("no")
    return {
        "format": 1,
        "family": "qwen3",
        "true_token": "yes",
        "true_token_id": true_id,
        "false_token": "no",
        "false_token_id": false_id,
        "control_token_ids": {token: tokenizer.token_to_id(token) for token in CONTROL_TOKENS},
        "prefix_ids": ids(PREFIX),
        "suffix_ids": ids(SUFFIX),
    }
