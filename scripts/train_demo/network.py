"""The demo's network: a small Qwen3, initialised so that it learns quickly to match equal words."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

NUM_MATCHING_LAYERS = 3
FIRST_LOW_FREQUENCY = 0.4
"""Start of the low-frequency rotary dimensions, which turn by < 2 radians over 300 tokens."""


def build_model(vocabulary_size: int, seed: int) -> Qwen3ForCausalLM:
    """Return a new float32 model with tied embeddings; the same seed gives the same weights."""
    config = Qwen3Config(
        vocab_size=vocabulary_size,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=8192,
        rope_parameters={"rope_theta": 1_000_000.0, "rope_type": "default"},
        tie_word_embeddings=True,
        initializer_range=0.03,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    _prepare_for_matching(model)
    return model


@torch.no_grad()
def _prepare_for_matching(model: Qwen3ForCausalLM) -> None:
    """Make query and key projections equal, so that equal tokens attend to each other from the first step.

    After the first layer most heads mainly use the low-frequency rotary dimensions, in which distance matters little.
    """
    torch.nn.init.normal_(model.model.embed_tokens.weight, 0.0, 0.3)
    head_dim = model.config.head_dim
    half = head_dim // 2
    is_high_frequency = torch.arange(head_dim) % half < int(FIRST_LOW_FREQUENCY * half)
    for number, layer in enumerate(model.model.layers[:NUM_MATCHING_LAYERS]):
        query = layer.self_attn.q_proj.weight
        torch.nn.init.normal_(query, 0.0, 0.07)
        if number > 0:
            heads = query.view(-1, head_dim, query.shape[1])
            heads[1:, is_high_frequency] *= 0.3
        layer.self_attn.k_proj.weight.copy_(query)
