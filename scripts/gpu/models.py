"""Random models of the published shapes, and prompts of known lengths."""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import Tensor

from qwen_rerank_plugins.core.model.decoder import (
    Architecture,
    Decoder,
    LayerWeights,
    Weights,
)
from qwen_rerank_plugins.core.model.kv_layout import AttentionShape
from qwen_rerank_plugins.core.model.linear import Linear
from qwen_rerank_plugins.core.sequences import Segment

__all__ = ["SHAPES", "TINY", "make_prompts", "random_decoder"]

_NAMES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim"),
)
SHAPES: Mapping[str, Mapping[str, int]] = {
    "0.6B": dict(zip(_NAMES, (1024, 3072, 28, 16, 8, 128), strict=True)),
    "4B": dict(zip(_NAMES, (2560, 9728, 36, 32, 8, 128), strict=True)),
    "8B": dict(zip(_NAMES, (4096, 12288, 36, 32, 8, 128), strict=True)),
}
"""Qwen3-Reranker's shapes by the names of config.json."""

TINY: Mapping[str, int] = dict(zip(_NAMES, (64, 96, 3, 4, 2, 16), strict=True))
VOCAB_SIZE = 151_669

ROOT_TOKENS, QUERY_TOKENS = 60, 12
"""The template and the instruction; a query of ten tokens and what surrounds it."""


def random_decoder(shape: Mapping[str, int], device: torch.device, dtype: torch.dtype) -> Decoder:
    """Return a decoder of random weights, drawn on the device."""
    attention = AttentionShape(shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"])
    architecture = Architecture(
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_layers=shape["num_hidden_layers"],
        attention=attention,
        vocab_size=VOCAB_SIZE,
        max_positions=40960,
        rms_eps=1e-6,
        rope_theta=1e6,
        qk_norm=True,
        qkv_bias=False,
    )
    hidden = architecture.hidden_size

    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=dtype).mul_(0.03)

    def ones(size: int) -> Tensor:
        return torch.ones(size, device=device, dtype=dtype)

    def layer() -> LayerWeights:
        query, key_value, output, gate_up, down = architecture.linear_shapes
        qkv = draw(query[0] + key_value[0], hidden)
        norms = [ones(attention.head_dim) for _ in range(2)]
        return LayerWeights(
            input_norm=ones(hidden),
            query=Linear(qkv).rows(slice(query[0])),
            key_value=Linear(qkv).rows(slice(query[0], None)),
            query_norm=norms[0],
            key_norm=norms[1],
            output=Linear(draw(*output)),
            mlp_norm=ones(hidden),
            gate_up=Linear(draw(*gate_up)),
            down=Linear(draw(*down)),
            qkv=Linear(qkv),
        )

    layers = [layer() for _ in range(architecture.num_layers)]
    weights = Weights(draw(VOCAB_SIZE, hidden), layers, ones(hidden), draw(hidden).float())
    return Decoder(architecture, weights)


def make_prompts(
    num_pairs: int, documents_per_query: int, document_tokens: int, rng: random.Random
) -> list[Segment]:
    """Return prompts of one instruction, new queries and new documents.

    Args:
        num_pairs: Number of prompts.
        documents_per_query: Prompts that share a query.
        document_tokens: Tokens of each document, the end of the template included.
        rng: The source of the token ids.
    """

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(VOCAB_SIZE), k=count))

    root = tuple(range(ROOT_TOKENS))
    prompts: list[Segment] = []
    while len(prompts) < num_pairs:
        query = ids(QUERY_TOKENS)
        count = min(documents_per_query, num_pairs - len(prompts))
        prompts += [Segment.after(None, root, query, ids(document_tokens)) for _ in range(count)]
    return prompts
