"""What a GGUF file says about a Qwen2 or Qwen3 reranker: configuration, tokenizer, and dequantised tensors.

llama.cpp's names become those of transformers. A file with `cls.output.weight`, as llama.cpp's converter writes rerankers, has its
rows for "yes" and "no" there; their difference is the row of a sequence-classification conversion.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwen_rerank_plugins.core.checkpoints.gguf_file import GgufFile, GgufTensor
from qwen_rerank_plugins.errors import CheckpointFormatError

__all__ = ["GgufSource", "read_config", "read_tokenizer", "weight_format"]

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CLASSIFIER = "cls.output.weight"
_ANSWERS = ["yes", "no"]
_TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_QUANTISED = {"Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q5_0", "Q5_1", "Q4_0", "Q4_1"}
_DEQUANTISE_BLOCK_BYTES = 2 << 20
"""Bytes of fp32 numbers that are dequantised at once, so that they stay in the processor's cache."""

_NAME_KEYS = ("general.name", "general.basename", "general.base_model.0.name")
_RANK, _NO_POOLING = 4, (None, 0, -1)
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
"""Types of tokens."""

# Qwen2's, as its tokenizer.json has it; llama.cpp names it "qwen2".
_PRE_TOKENIZER = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def read_config(model: str, file: GgufFile) -> dict[str, Any]:
    """Return a file's metadata in the form of a config.json.

    Args:
        model: The name as configured, for messages.
        file: The file's headers.

    Raises:
        CheckpointFormatError: The file holds an embedding model, or one that the decoder does not compute.
    """
    architecture = file.metadata.get("general.architecture")

    def value(name: str) -> Any:
        found = file.metadata.get(f"{architecture}.{name}")
        return "an array" if isinstance(found, np.ndarray) else found

    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointFormatError(f"{model!r} has no tensor token_embd.weight, so it is not a whole model")
    name = " ".join(str(file.metadata[key]) for key in _NAME_KEYS if key in file.metadata)
    pooling, is_named = value("pooling_type"), "embed" in name.casefold() and "rank" not in name.casefold()
    if pooling not in (*_NO_POOLING, _RANK) or (is_named and pooling != _RANK):
        raise CheckpointFormatError(
            f"{model!r} is an embedding model, with the pooling type {pooling} and the name {name!r:.80}, and its scores would "
            f"be noise; use a reranker"
        )
    head_dim, rope_dim = value("attention.key_length"), value("rope.dimension_count")
    problems = {
        "values of another size than its keys": value("attention.value_length") not in (None, head_dim),
        "a partial rotary embedding": rope_dim not in (None, head_dim) and head_dim is not None,
        "attention in both directions": value("attention.causal") is False,
        "sliding-window attention": bool(value("attention.sliding_window")),
        f"the classes {value('classifier.output_labels')!r:.60}": _CLASSIFIER in file.tensors
        and value("classifier.output_labels") not in (None, _ANSWERS),
    }
    found = [name for name, present in problems.items() if present]
    if found:
        raise CheckpointFormatError(f"{model!r} has {' and '.join(found)}, which is not supported")
    scaling = value("rope.scaling.type")
    task = "SequenceClassification" if _CLASSIFIER in file.tensors else "CausalLM"
    return {
        "_name_or_path": name,
        "model_type": architecture,
        "architectures": [f"{architecture}For{task}"],
        "num_labels": 1,
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": value("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": head_dim or rope_dim,
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_theta": value("rope.freq_base"),
        "rope_scaling": None if scaling in (None, "none") else {"rope_type": scaling},
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": {"F16": "float16", "BF16": "bfloat16"}.get(weight_format(file), "float32"),
    }


def weight_format(file: GgufFile) -> str:
    """Return the number format of most of the weights, such as "Q8_0"."""
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.kind] += tensor.num_bytes
    return max(sizes, key=sizes.__getitem__, default="none")


def read_tokenizer(model: str, file: GgufFile) -> str:
    """Return a file's tokenizer in the form of a tokenizer.json.

    Args:
        model: The name as configured, for messages.
        file: The file's headers.

    Raises:
        CheckpointFormatError: The tokenizer is missing, broken, or not that of Qwen2 and Qwen3.
    """
    kind, pre = (file.metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if (kind, pre) != ("gpt2", "qwen2"):
        raise CheckpointFormatError(
            f"{model!r} has the tokenizer {kind!r} with the pre-tokenizer {pre!r}; only 'gpt2' with 'qwen2' is supported"
        )
    tokens, types, merges = (
        file.metadata.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges")
    )
    if not isinstance(tokens, list) or not isinstance(merges, list) or not isinstance(types, np.ndarray):
        raise CheckpointFormatError(f"{model!r} lacks tokens, their types, or merges; convert it again")
    used = [
        (token, number)
        for number, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind != _UNUSED
    ]
    vocabulary = dict(used)
    pairs = [tuple(merge.split(" ")) for merge in merges]
    broken = [merge for merge, pair in zip(merges, pairs, strict=True) if not _is_merge(pair, vocabulary)]
    if len(types) != len(tokens) or len(vocabulary) < len(used) or broken:
        problem = f"{broken[0]!r:.60} joins no tokens" if broken else "a token is there twice or has no type"
        raise CheckpointFormatError(f"{model!r} has a broken tokenizer: {problem}; convert it again")
    added = [
        {
            "id": number,
            "content": token,
            "special": bool(types[number] == _CONTROL),
            "normalized": False,
            **dict.fromkeys(("single_word", "lstrip", "rstrip"), False),
        }
        for token, number in used
        if types[number] in (_CONTROL, _USER_DEFINED)
    ]
    return _tokenizer_json(vocabulary, pairs, added)


def _is_merge(pair: tuple[str, ...], vocabulary: Mapping[str, int]) -> bool:
    """Whether a merge joins two tokens to a third, longer one. Such merges cannot form a cycle."""
    return len(pair) == 2 and all(pair) and {*pair, "".join(pair)} <= vocabulary.keys()  # noqa: PLR2004


def _tokenizer_json(vocabulary: Mapping[str, int], merges: list[Any], added: list[dict[str, Any]]) -> str:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _PRE_TOKENIZER}, "behavior": "Isolated", "invert": False}
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "fuse_unk": False, "byte_fallback": False}
    nothing = dict.fromkeys(("truncation", "padding", "post_processor"))
    return json.dumps(
        nothing
        | {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "decoder": byte_level,
            "model": model
            | dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
        }
    )


class GgufSource:
    """The tensors of a GGUF file, dequantised to fp32 by the package gguf, as a `TensorSource`.

    Args:
        file: The file's headers.

    Attributes:
        shapes: The shape of every tensor, by the names of transformers.
    """

    def __init__(self, file: GgufFile) -> None:
        self._tensors = {_full_name(name): tensor for name, tensor in file.tensors.items()}
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        answers = self.shapes.get("score.weight")
        if answers is not None and answers[0] == len(_ANSWERS):
            self.shapes["score.weight"] = (1, *answers[1:])

    def dtype(self, name: str) -> torch.dtype:
        """Return the stored dtype, or fp32 for a quantised tensor."""
        kind = self._tensors[name].kind
        if kind not in _TORCH_DTYPES.keys() | _QUANTISED:
            raise CheckpointFormatError(
                f"{name} is stored as {kind}; use a file of {', '.join(sorted(_TORCH_DTYPES.keys() | _QUANTISED))}"
            )
        return _TORCH_DTYPES.get(kind, torch.float32)

    def read_rows(self, name: str, target: Tensor, first_row: int = 0) -> None:
        """Dequantise rows into `target`."""
        tensor = self._tensors[name]
        if self.shapes[name] == tensor.shape:
            num_rows = max(1, _DEQUANTISE_BLOCK_BYTES // max(1, 4 * target[:1].numel()))
            for start, part in zip(range(0, len(target), num_rows), target.split(num_rows), strict=True):
                part.copy_(_rows(tensor, first_row + start, len(part)))
        else:
            yes, no = _rows(tensor, 0, len(_ANSWERS)).float()
            target.copy_((yes - no)[None])


def _full_name(name: str) -> str:
    """Return transformers' name of a tensor, or the name itself."""
    if name == _CLASSIFIER:
        return "score.weight"
    match = re.fullmatch(r"(?:blk\.(?P<layer>\d+)\.)?(?P<module>\w+)\.(?P<part>weight|bias)", name)
    module = None if match is None else _NAMES.get(match["module"])
    if match is None or module is None:
        return name
    prefix = "" if match["layer"] is None else f"model.layers.{match['layer']}."
    return f"{prefix}{module}.{match['part']}"


def _rows(tensor: GgufTensor, first_row: int, num_rows: int) -> Tensor:
    if len(tensor.shape) == 1:  # its elements are its rows
        whole = GgufTensor(tensor.path, tensor.offset, (1, *tensor.shape), tensor.kind, tensor.row_bytes)
        return _rows(whole, 0, 1)[0, first_row : first_row + num_rows]
    place = {"offset": tensor.offset + first_row * tensor.row_bytes, "shape": (num_rows, tensor.row_bytes)}
    try:
        # A plain array of it: each of the many views of a memmap costs more than its numbers.
        data = np.asarray(np.memmap(tensor.path, np.uint8, mode="c", **place))  # type: ignore[call-overload]
    except (OSError, ValueError) as error:
        raise CheckpointFormatError(f"{str(tensor.path)!r} cannot be read: {error}") from error
    if tensor.kind in _TORCH_DTYPES:
        return torch.from_numpy(data).view(_TORCH_DTYPES[tensor.kind])
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    return torch.from_numpy(dequantize(data, GGMLQuantizationType[tensor.kind]))
