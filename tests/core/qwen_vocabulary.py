"""Qwen's own vocabulary, rebuilt from the ranks that the dashscope package carries."""

from __future__ import annotations

import base64
import functools
import importlib.util
import itertools
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = (
    *(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
    ),
    *(
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
    ),
    *("<|image_pad|>", "<|video_pad|>"),
)
_ADDED = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)


@functools.cache
def qwen_tokenizer() -> Tokenizer:
    """The tokenizer of Qwen3: 151,669 ids, control tokens included."""
    ranks = _ranks()
    alphabet = byte_alphabet()
    vocab = {_printable(token, alphabet): rank for token, rank in ranks.items()}
    merges = [pair for token, rank in ranks.items() if (pair := _merge(token, rank, ranks, alphabet))]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in _SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in _ADDED])
    return tokenizer


@functools.cache
def qwen_tokenizer_json() -> str:
    """The same as the contents of a tokenizer.json."""
    text: str = qwen_tokenizer().to_str()
    return text


def write_qwen_tokenizer(folder: Path) -> None:
    """Put the tokenizer's files into a checkpoint's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(qwen_tokenizer_json(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", '
        '"padding_side": "left", "model_max_length": 131072}',
        encoding="utf-8",
    )


def _ranks() -> dict[bytes, int]:
    spec: Any = importlib.util.find_spec("dashscope")
    path = Path(spec.origin).parent / "resources" / "qwen.tiktoken"
    lines = (line.split() for line in path.read_bytes().splitlines() if line.strip())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _printable(token: bytes, alphabet: dict[int, str]) -> str:
    return "".join(alphabet[byte] for byte in token)


def _merge(
    token: bytes, rank: int, ranks: dict[bytes, int], alphabet: dict[int, str]
) -> tuple[str, str] | None:
    """The two parts that byte-pair encoding joins last to get this token."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
        best = min(joined)
        if best >= rank:
            return None
        place = joined.index(best)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return (_printable(parts[0], alphabet), _printable(parts[1], alphabet)) if len(parts) == 2 else None
