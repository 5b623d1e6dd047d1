"""Tiny checkpoints with random weights, in the forms in which rerankers are published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from qwen_rerank_plugins.demo import CHECKPOINT_DIR

Tensors = dict[str, Tensor]
Config = dict[str, Any]

_CLASSES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "zeroentropy": "Qwen3"}


@dataclass(frozen=True)
class Shape:
    """The shape of a checkpoint; small by default."""

    model_type: str = "qwen3"
    hidden_size: int = 48
    intermediate_size: int = 96
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    vocab_size: int = 64
    is_tied: bool = True
    has_classifier: bool = False

    @property
    def config(self) -> Config:
        """The contents of config.json."""
        task = "SequenceClassification" if self.has_classifier else "CausalLM"
        config: Config = {
            "architectures": [f"{_CLASSES[self.model_type]}For{task}"],
            "model_type": self.model_type,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "hidden_act": "silu",
            "tie_word_embeddings": self.is_tied,
            "pad_token_id": 0,
        }
        if self.model_type != "qwen2":
            config |= {"head_dim": self.head_dim, "attention_bias": False}
        if self.has_classifier:
            config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        return config

    def tensors(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensors:
        """Random weights, large enough for scores to differ and small enough to stay finite."""
        draw = torch.Generator().manual_seed(seed)
        return {name: _random(size, draw).to(dtype) for name, size in self._sizes().items()}

    def _sizes(self) -> dict[str, tuple[int, ...]]:
        sizes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden_size),
            "model.norm.weight": (self.hidden_size,),
        }
        for number in range(self.num_layers):
            sizes |= {f"model.layers.{number}.{name}": size for name, size in self._layer_sizes().items()}
        if self.has_classifier:
            sizes["score.weight"] = (1, self.hidden_size)
        elif not self.is_tied:
            sizes["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        return sizes

    def _layer_sizes(self) -> dict[str, tuple[int, ...]]:
        hidden, inner = self.hidden_size, self.intermediate_size
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        sizes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (q, hidden),
            "self_attn.k_proj.weight": (kv, hidden),
            "self_attn.v_proj.weight": (kv, hidden),
            "self_attn.o_proj.weight": (hidden, q),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        if self.model_type == "qwen2":
            return sizes | {f"self_attn.{n}_proj.bias": (s,) for n, s in (("q", q), ("k", kv), ("v", kv))}
        return sizes | {f"self_attn.{name}_norm.weight": (self.head_dim,) for name in "qk"}


def _random(size: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Norms around one, biases around zero, matrices that keep the size of what they multiply."""
    if len(size) == 1:
        return 1 + 0.1 * torch.randn(size, generator=draw)
    scale: float = size[-1] ** -0.5
    return torch.randn(size, generator=draw) * scale


def write_checkpoint(folder: Path, config: Config, tensors: Mapping[str, Tensor]) -> Path:
    """Config and one safetensors file."""
    write_config(folder, config)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_config(folder: Path, config: Config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_sharded(folder: Path, config: Config, tensors: Tensors, num_files: int = 3) -> Path:
    """Config, several safetensors files, and the index that names them."""
    write_config(folder, config)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for part in range(num_files):
        file = f"model-{part + 1:05}-of-{num_files:05}.safetensors"
        mine = names[part::num_files]
        weight_map |= dict.fromkeys(mine, file)
        save_file({name: tensors[name] for name in mine}, folder / file)
    write_index(folder, weight_map)
    return folder


def write_index(folder: Path, weight_map: Mapping[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def make(folder: Path, shape: Shape, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """A checkpoint of this shape, without a tokenizer."""
    return write_checkpoint(
        folder,
        shape.config | {"dtype": str(dtype).removeprefix("torch.")},
        shape.tensors(dtype, seed),
    )


def with_demo_tokenizer(folder: Path) -> Path:
    """Put the demo's tokenizer of 10,000 ids, and the record of its ids, into a checkpoint's folder."""
    for name in ("tokenizer.json", "tokenizer_config.json", "rerank_recipe.json"):
        shutil.copy(CHECKPOINT_DIR / name, folder)
    return folder


def without_prefix(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors by the names that a bare decoder is saved with."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def as_classifier(tensors: Mapping[str, Tensor], yes: int, no: int) -> Tensors:
    """The sequence-classification conversion of a causal checkpoint: one row, the answers' difference."""
    matrix = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    kept = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    return kept | {"score.weight": (matrix[yes].float() - matrix[no].float())[None]}


def changed(config: Config, **changes: Any) -> Config:
    """A copy of a config.json with some fields changed; `None` takes a field out."""
    merged = config | changes
    return {name: value for name, value in merged.items() if value is not None}


def renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> Tensors:
    return {rename(name): tensor for name, tensor in tensors.items()}


def dropped(tensors: Mapping[str, Tensor], names: Iterable[str]) -> Tensors:
    gone = set(names)
    assert gone <= set(tensors)
    return {name: tensor for name, tensor in tensors.items() if name not in gone}
