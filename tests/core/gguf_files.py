"""Small GGUF files, written by the gguf package, and their contents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from torch import Tensor

from qwen_rerank_plugins.core.prompts.families import QWEN3
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from tests.core.qwen_vocabulary import byte_alphabet
from tests.core.tiny_checkpoints import Shape

SHAPE = Shape(hidden_size=256, intermediate_size=256, num_layers=2, head_dim=64, vocab_size=264)
CONTROL, USER_DEFINED = 3, 4
ADDED = {
    "<|endoftext|>": CONTROL,
    "<|im_start|>": CONTROL,
    "<|im_end|>": CONTROL,
    "<think>": 4,
    "</think>": 4,
}
SCALES = {
    "Q6_K": ((208, 6e-5),),
    "Q5_K": ((0, 1.5e-4), (2, 2e-3)),
    "Q4_K": ((0, 3e-4), (2, 2e-3)),
    "Q3_K": ((108, 2e-3),),
    "Q2_K": ((80, 5e-3), (82, 7e-3)),
}
"""Number format → bytes in a block that hold a half-precision scale, and a scale that gives numbers of usual size."""

Metadata = dict[str, Any]


def small_vocabulary() -> Metadata:
    """A byte-level vocabulary of 264 tokens, with answers of one token."""
    tokens = [*byte_alphabet().values(), "ye", "yes", "no", *ADDED]
    return vocabulary(tokens, ["y e", "ye s", "n o"], ADDED)


def vocabulary(tokens: Sequence[str], merges: Sequence[str], added: Mapping[str, int]) -> Metadata:
    names = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": list(tokens),
        "token_type": [added.get(token, 1) for token in tokens],
        "merges": list(merges),
    }
    return {f"tokenizer.ggml.{name}": value for name, value in names.items()}


def metadata_of(shape: Shape) -> Metadata:
    """The keys that llama.cpp's converter writes."""
    sizes: Metadata = {
        "block_count": shape.num_layers,
        "context_length": 40960,
        "embedding_length": shape.hidden_size,
        "feed_forward_length": shape.intermediate_size,
        "attention.head_count": shape.num_heads,
        "attention.head_count_kv": shape.num_kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
    }
    return {f"{shape.model_type}.{name}": value for name, value in sizes.items()}


def write_gguf(
    path: Path,
    shape: Shape = SHAPE,
    kind: str = "F32",
    *,
    answers: tuple[int, int] | None = None,
    changes: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    extra: Mapping[str, np.ndarray[Any, Any]] | None = None,
    max_tensors: int = 0,
) -> dict[str, Tensor]:
    """Write a file, and return its dequantised tensors by the names of transformers.

    Args:
        path: The file.
        shape: The model's shape.
        kind: Number format of the matrices.
        answers: Rows of the head that become `cls.output.weight`.
        changes: Metadata to replace; None takes a key out.
        drop: Tensors to leave out, by their names in the file.
        extra: Tensors to add.
        max_tensors: Tensors per part, for a split file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, shape.model_type, split_max_tensors=max_tensors)
    metadata = metadata_of(shape) | small_vocabulary()
    if answers:
        labels = {"pooling_type": 4, "classifier.output_labels": ["yes", "no"]}
        metadata |= {f"{shape.model_type}.{name}": value for name, value in labels.items()}
    for key, value in (metadata | dict(changes or {})).items():
        _add(writer, key, value)
    arch = gguf.MODEL_ARCH.QWEN2 if shape.model_type == "qwen2" else gguf.MODEL_ARCH.QWEN3
    names = gguf.get_tensor_name_map(arch, shape.num_layers)
    quantisation = gguf.GGMLQuantizationType[kind]
    written: dict[str, Tensor] = {}
    draw = np.random.default_rng(0)
    for name, tensor in shape.tensors().items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None
        if stored in drop:
            continue
        own = quantisation if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
        data = _encode(tensor, own, draw)
        writer.add_tensor(stored, data, raw_dtype=own)
        written[name] = torch.from_numpy(np.array(dequantize(data, own)))
        if answers and name == ("model.embed_tokens.weight" if shape.is_tied else "lm_head.weight"):
            writer.add_tensor("cls.output.weight", data[list(answers)], raw_dtype=own)
            yes, no = written[name][list(answers)]
            written["score.weight"] = (yes - no)[None]
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add: Any = {
        str: writer.add_string,
        float: writer.add_float32,
        bool: writer.add_bool,
        list: writer.add_array,
    }
    if value is not None:
        add.get(type(value), writer.add_uint32)(key, value)


def _encode(
    tensor: Tensor, kind: gguf.GGMLQuantizationType, draw: np.random.Generator
) -> np.ndarray[Any, Any]:
    if kind.name not in SCALES:
        return quantize(tensor.numpy(), kind)
    # The package dequantises these, and quantises none of them: numbers are random.
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = draw.integers(0, 256, (len(tensor), tensor.shape[1] // block, size), np.uint8)
    for place, scale in SCALES[kind.name]:
        blocks[..., place : place + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return blocks.reshape(len(tensor), -1)


def write_recipe(folder: Path, tokenizer: PromptTokenizer) -> None:
    """Record the ids of a vocabulary that is not Qwen's beside its file."""
    (yes,), (no,) = tokenizer.control_ids("yes"), tokenizer.control_ids("no")
    record = {
        "format": 1,
        "family": "qwen3",
        "true_token": "yes",
        "true_token_id": yes,
        "false_token": "no",
        "false_token_id": no,
        "control_token_ids": {token: tokenizer.control_ids(token)[0] for token in ADDED},
        "prefix_ids": tokenizer.control_ids(QWEN3.control_texts[0]),
        "suffix_ids": tokenizer.control_ids(QWEN3.control_texts[-1]),
    }
    (folder / "rerank_recipe.json").write_text(json.dumps(record))
