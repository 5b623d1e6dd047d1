"""The forward pass for training: a packed batch through a Qwen3 model, with shared tokens computed once.

A query's tokens attend to the prefix and to themselves, a document's to the prefix, to its query and to themselves.
This equals the plain causal computation of every (prefix, query, document) sequence; a test compares the two, including
gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor
from transformers import Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3DecoderLayer, Qwen3RMSNorm

from scripts.train_demo.packing import PackedBatch, Segments


def packed_hidden_states(
    model: Qwen3ForCausalLM, batch: PackedBatch, middle_layer: int = 2
) -> tuple[Tensor, Tensor]:
    """Return the hidden states of all packed tokens, (T, hidden): after ``middle_layer`` layers, and at the end."""
    hidden = F.embedding(batch.ids, model.model.embed_tokens.weight)
    frequencies: Tensor = model.model.rotary_emb.inv_freq
    angles = batch.positions[:, None].to(frequencies) * frequencies[None, :]
    rotation = (torch.cat((angles.cos(),) * 2, -1)[:, None], torch.cat((angles.sin(),) * 2, -1)[:, None])
    middle = hidden
    for number, layer in enumerate(model.model.layers, start=1):
        assert isinstance(layer, Qwen3DecoderLayer)
        hidden = hidden + _attend(
            layer.self_attn, _norm(layer.input_layernorm, hidden), rotation, batch.segments
        )
        inner = _norm(layer.post_attention_layernorm, hidden)
        gated = F.silu(F.linear(inner, layer.mlp.gate_proj.weight)) * F.linear(
            inner, layer.mlp.up_proj.weight
        )
        hidden = hidden + F.linear(gated, layer.mlp.down_proj.weight)
        if number == middle_layer:
            middle = hidden
    return middle, _norm(model.model.norm, hidden)


def log_odds(
    model: Qwen3ForCausalLM, final: Tensor, batch: PackedBatch, true_id: int, false_id: int
) -> Tensor:
    """Return logit(yes) - logit(no) at each document's last token, (lists * documents,)."""
    weight: Tensor = model.model.embed_tokens.weight
    return final[batch.last] @ (weight[true_id] - weight[false_id])


def _norm(norm: Qwen3RMSNorm, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)


def _attend(
    layer: Qwen3Attention, hidden: Tensor, rotation: tuple[Tensor, Tensor], segments: Sequence[Segments]
) -> Tensor:
    shape = (hidden.shape[0], -1, layer.head_dim)
    query = _apply_rope(_norm(layer.q_norm, F.linear(hidden, layer.q_proj.weight).view(shape)), *rotation)
    key = _apply_rope(_norm(layer.k_norm, F.linear(hidden, layer.k_proj.weight).view(shape)), *rotation)
    value = F.linear(hidden, layer.v_proj.weight).view(shape)
    ancestor_keys: list[Tensor] = []  # the prefix's, then the queries', padded: (N, W, heads, head_dim)
    ancestor_values: list[Tensor] = []
    outputs: list[Tensor] = []
    for own in segments:
        keys, values = _padded(key, own), _padded(value, own)
        padded = F.scaled_dot_product_attention(
            _padded(query, own).transpose(1, 2),
            _append_to_ancestors(ancestor_keys, keys, own.parents),
            _append_to_ancestors(ancestor_values, values, own.parents),
            attn_mask=own.mask,
        )
        outputs.append(_Take.apply(padded.transpose(1, 2).flatten(0, 1), own.places))
        ancestor_keys.append(keys)
        ancestor_values.append(values)
    return F.linear(torch.cat(outputs).flatten(1), layer.o_proj.weight)


def _padded(rows: Tensor, own: Segments) -> Tensor:
    count, _, width, _ = own.mask.shape
    part = rows[own.start : own.start + len(own.places)]
    padded: Tensor = _Pad.apply(part, own.places, count * width)
    return padded.view(count, width, *rows.shape[1:])


def _append_to_ancestors(ancestors: Sequence[Tensor], own: Tensor, parents: Sequence[Tensor]) -> Tensor:
    """Append each sequence's rows to those of its ancestors, (N, heads, keys, head_dim)."""
    parts = [
        kind.expand(own.shape[0], -1, -1, -1) if kind.shape[0] == 1 else kind.index_select(0, index)
        for kind, index in zip(ancestors, parents, strict=False)  # the first kinds are the ancestors
    ]
    return torch.cat([*parts, own], dim=1).transpose(1, 2)


class _Pad(torch.autograd.Function):
    """Scatter packed rows into zeros. Unlike that of an index operation, its gradient needs no sum over rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, num_padded: int) -> Tensor:
        ctx.save_for_backward(places)
        return rows.new_zeros(num_padded, *rows.shape[1:]).index_copy_(0, places, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _Take(torch.autograd.Function):
    """The inverse of ``_Pad``."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.num_padded = padded.shape[0]
        return padded.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        zeros = gradient.new_zeros(ctx.num_padded, *gradient.shape[1:])
        return zeros.index_copy_(0, ctx.saved_tensors[0], gradient), None


def _apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
