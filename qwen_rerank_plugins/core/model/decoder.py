"""The decoder: a packed forest of token ids in, one log-odds per prompt out.

Qwen3 and, by flags, Qwen2. It knows neither text nor files. Tokens run through the layers as one sequence
without padding; only attention sees the forest. The last layer computes queries, output and MLP for the last
token of each prompt alone, and the head is one fp32 row: the difference of the answers' rows of the
vocabulary matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwen_rerank_plugins.core.model import ops
from qwen_rerank_plugins.core.model.attention import (
    AttentionShape,
    DenseAttention,
    ForestAttention,
    GroupedAttention,
    KVLayout,
)
from qwen_rerank_plugins.core.model.kv_layout import IndexArrays
from qwen_rerank_plugins.core.model.linear import ROW_MULTIPLE, Linear
from qwen_rerank_plugins.core.model.ops import RotaryCache
from qwen_rerank_plugins.core.model.packing import PackedForest
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = ["Architecture", "AttentionBackend", "Decoder", "LayerWeights", "Plan", "Weights"]

AttentionBackend = type[DenseAttention] | type[GroupedAttention] | type[ForestAttention]

CPU_ROWS_PER_BLOCK = 512
"""Rows per matrix multiplication on a CPU, so that its result stays in cache for the next step."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of the decoder, as in a checkpoint's config.json.

    Attributes:
        qk_norm: Queries and keys are normalised per head before the rotary embedding (Qwen3).
        qkv_bias: The query, key and value projections have a bias (Qwen2).
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    attention: AttentionShape
    vocab_size: int
    max_positions: int
    rms_eps: float
    rope_theta: float
    qk_norm: bool
    qkv_bias: bool

    @property
    def kv_numbers_per_token(self) -> int:
        """Numbers of a token's keys and values in all layers."""
        return 2 * self.num_layers * self.attention.num_kv_heads * self.attention.head_dim

    @property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """Shapes [out, in] of the linear layers of `LayerWeights`."""
        hidden, mlp = self.hidden_size, self.intermediate_size
        queries = self.attention.num_heads * self.attention.head_dim
        keys = self.attention.num_kv_heads * self.attention.head_dim
        return [(queries, hidden), (2 * keys, hidden), (hidden, queries), (2 * mlp, hidden), (hidden, mlp)]


@dataclass(slots=True)
class LayerWeights:
    """One layer. `key_value` and `gate_up` are fused projections of the same input.

    Attributes:
        qkv: `query` and `key_value` in one, which shares their memory; None where the weights are packed or quantised.
    """

    input_norm: Tensor
    query: Linear
    key_value: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    qkv: Linear | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers."""
        return (self.query, self.key_value, self.output, self.gate_up, self.down)

    def replace_linears(self, make: Callable[[Linear], Linear]) -> None:
        """Replace each linear layer in place, one after the other."""
        self.qkv = None
        for name in ("query", "key_value", "output", "gate_up", "down"):
            setattr(self, name, make(getattr(self, name)))


@dataclass(slots=True)
class Weights:
    """All weights on one device.

    Attributes:
        embedding: [vocab, hidden], in the dtype of the checkpoint.
        layers: The layers.
        final_norm: [hidden].
        head: [hidden] fp32: log-odds = final hidden state · head.
    """

    embedding: Tensor
    layers: list[LayerWeights]
    final_norm: Tensor
    head: Tensor


@dataclass(frozen=True, slots=True)
class Plan:
    """A forward pass, planned on the host.

    Attributes:
        layout: The rows of the packed prompts and of their cached prefixes.
        attention_backend: The attention backend.
        index: Integers for the device.
        cached_kv: Keys and values of each cached node, in order, [layers, tokens, 2 * kv_heads * head_dim].
        store_kv: Computed nodes whose keys and values are returned.
    """

    layout: KVLayout
    attention_backend: AttentionBackend
    index: IndexArrays
    cached_kv: Sequence[Tensor]
    store_kv: Sequence[int]


class Decoder:
    """The forward pass over packed forests.

    Args:
        architecture: The decoder's shape.
        weights: The weights; their device and dtype are those of the computation.
        use_kernels: Whether the steps between products are Triton kernels; None: on CUDA.
    """

    def __init__(
        self, architecture: Architecture, weights: Weights, *, use_kernels: bool | None = None
    ) -> None:
        self.architecture = architecture
        self.weights = weights
        self.device = weights.final_norm.device
        self.dtype = weights.final_norm.dtype
        self.is_quantized = weights.layers[0].output.is_quantized
        self.number_format = weights.layers[0].output.number_format
        dim = architecture.attention.head_dim
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=self.device) / dim
        self.use_kernels = self.device.type == "cuda" if use_kernels is None else use_kernels
        self.ops = _kernels() if self.use_kernels else ops
        self.norm = partial(self.ops.rms_norm, eps=architecture.rms_eps)
        self.inverse_frequencies = 1.0 / architecture.rope_theta**exponents
        on_cpu = self.device.type == "cpu" and not self.use_kernels
        self._row_multiple = ROW_MULTIPLE if on_cpu else 1
        self._rows_per_block = CPU_ROWS_PER_BLOCK if on_cpu else 1 << 30

    def plan(
        self,
        forest: PackedForest,
        attention_backend: AttentionBackend,
        cached_kv: Sequence[Tensor] = (),
        store_kv: Sequence[int] = (),
    ) -> Plan:
        """Plan a forward pass, without work for the device.

        Args:
            forest: The packed prompts.
            attention_backend: The attention backend.
            cached_kv: Keys and values of each cached node, in order, [layers, tokens, 2 * kv_heads * head_dim].
            store_kv: Computed nodes whose keys and values `forward` returns.
        """
        layout = KVLayout(forest, self._row_multiple)
        arrays = {
            "token_ids": layout.token_ids(),
            "positions": layout.positions(),
            "last_rows": np.asarray(layout.last_rows, np.int32),
            "prompt_ends": np.asarray(layout.prompt_ends, np.int32),
            "stored_rows": layout.kv_rows(store_kv),
            **attention_backend.index_arrays(layout, self.architecture.attention),
        }
        return Plan(layout, attention_backend, IndexArrays(arrays, self.device), cached_kv, store_kv)

    @torch.inference_mode()
    def forward(self, plan: Plan) -> tuple[Tensor, list[Tensor]]:
        """Return the log-odds of every prompt of the forest. On CUDA it returns before they are computed.

        Returns:
            [prompts] fp32 on the decoder's device, unscaled; and the keys and values of `plan.store_kv`, in the
            form of `plan.cached_kv`.
        """
        forward_pass = _ForwardPass(self, plan)
        x = forward_pass.embed()
        for layer_index in range(self.architecture.num_layers - 1):
            forward_pass.layer(layer_index, x)
        x = forward_pass.last_layer(x)
        hidden = self.norm(x, self.weights.final_norm).float()
        # A matrix-vector product sums in another order for each number of rows.
        log_odds = (hidden * self.weights.head).sum(-1)
        return log_odds[forward_pass.index["prompt_ends"]], forward_pass.stored_kv()

    @cached_property
    def is_batch_invariant(self) -> bool:
        """Whether a score has the same bits in any company, as docs/invariance.md promises where this is True.

        Kernels differ between processors, so the products of the first layer are probed.
        """
        has_mkl = self.device.type == "cpu" and torch.backends.mkl.is_available()
        if not has_mkl or self.dtype is not torch.float32 or self.architecture.attention.num_kv_heads == 1:
            return False
        return all(linear.rounds_rows_alike() for linear in self.weights.layers[0].linears)

    def blocks(self, num_rows: int, start: int = 0) -> list[slice]:
        """Split rows from `start` into blocks of even size, none larger than fits the cache."""
        count = max(1, -(-(num_rows - start) // self._rows_per_block))
        size = -(-(num_rows - start) // count)
        size += -size % self._row_multiple
        return [slice(first, min(first + size, num_rows)) for first in range(start, num_rows, size or 1)]


def _kernels() -> Any:
    """Return the module of Triton kernels, which has the functions of `ops`."""
    try:
        from qwen_rerank_plugins.core.model import kernels
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "CUDA needs the package triton, which torch installs on Linux; install it (on Windows: triton-windows)"
        ) from error
    return kernels


class _ForwardPass:
    """One forward pass, with the buffers that all layers share."""

    def __init__(self, decoder: Decoder, plan: Plan) -> None:
        self.decoder = decoder
        self.layout = plan.layout
        self.index = plan.index.on_device()
        forest, shape = plan.layout.forest, decoder.architecture.attention
        self.attention = plan.attention_backend(plan.layout, shape, self.index)
        self.num_cached = forest.num_cached_tokens
        cached_kv = plan.cached_kv
        self.cached_kv = torch.cat(list(cached_kv), 1) if len(cached_kv) > 1 else next(iter(cached_kv), None)
        self.kv_size = shape.num_kv_heads * shape.head_dim
        self.stored = self._empty(
            decoder.architecture.num_layers, len(self.index["stored_rows"]), 2 * self.kv_size
        )
        self.stored_lengths = [len(forest.nodes[index].ids) for index in plan.store_kv]
        query_size, kv_rows = shape.num_heads * shape.head_dim, self.num_cached + plan.layout.num_rows
        # The kernels write over their input, so that queries, keys and values stay where one product puts them.
        self.qkv = self._empty(kv_rows, query_size + 2 * self.kv_size) if decoder.use_kernels else None
        if self.qkv is not None:
            self.queries, self.kv = self.qkv[self.num_cached :, :query_size], self.qkv[:, query_size:]
        else:
            self.queries = self._empty(plan.layout.num_rows, query_size)
            self.kv = self._empty(kv_rows, 2 * self.kv_size)
        self.num_precise = plan.layout.num_root_rows if decoder.is_quantized else 0
        self.blocks = [
            *decoder.blocks(self.num_precise),
            *decoder.blocks(plan.layout.num_rows, self.num_precise),
        ]
        self.rotation = RotaryCache.at(
            self.index["positions"],
            decoder.inverse_frequencies,
            torch.float32 if decoder.use_kernels or decoder.device.type == "cpu" else decoder.dtype,
        )

    def _empty(self, *size: int) -> Tensor:
        return torch.empty(size, dtype=self.decoder.dtype, device=self.decoder.device)

    def embed(self) -> Tensor:
        """Return [tokens, hidden] in the computation's dtype."""
        rows = self.decoder.weights.embedding.index_select(0, self.index["token_ids"])
        return rows.to(self.decoder.dtype)

    def layer(self, layer_index: int, x: Tensor) -> None:
        """Compute one layer for all rows, in place."""
        layer = self.decoder.weights.layers[layer_index]
        if self.qkv is None:
            for rows in self.blocks:
                self._project(layer, x, rows)
        else:
            self._project_in_place(layer, x)
        self._load_store_prefix_kv(layer_index)
        attended = self.attention.attend(self.queries, self.kv)
        for rows in self.blocks:
            self._output_and_mlp(layer, x[rows], attended[rows], precise=rows.stop <= self.num_precise)

    def last_layer(self, x: Tensor) -> Tensor:
        """Compute the last layer for the last row of each prompt alone: [ends, hidden]."""
        decoder, last = self.decoder, self.index["last_rows"]
        layer_index = decoder.architecture.num_layers - 1
        layer = decoder.weights.layers[layer_index]
        for rows in self.blocks:
            self._store(layer, self._normed(layer.key_value, x, layer.input_norm, rows), rows)
        self._load_store_prefix_kv(layer_index)
        x = x[last]
        projected = layer.query(layer.query.encode(decoder.norm(x, layer.input_norm)))
        queries = torch.empty_like(projected)
        decoder.ops.apply_qk_norm_rope(
            projected, layer.query_norm, self.rotation[last], decoder.architecture.rms_eps, queries
        )
        attended = self.attention.attend_last(queries, self.kv)
        for rows in decoder.blocks(x.shape[0]):
            self._output_and_mlp(layer, x[rows], attended[rows])
        return x

    def _normed(self, linear: Linear, x: Tensor, norm: Tensor, rows: slice) -> Any:
        """Return some rows normalised and encoded for a linear layer."""
        return linear.encode(self.decoder.norm(x[rows], norm), precise=rows.stop <= self.num_precise)

    def _project(self, layer: LayerWeights, x: Tensor, rows: slice) -> None:
        """Write queries, keys and values of some rows into the buffers."""
        normed = self._normed(layer.query, x, layer.input_norm, rows)
        queries = layer.query(normed)
        eps = self.decoder.architecture.rms_eps
        self.decoder.ops.apply_qk_norm_rope(
            queries, layer.query_norm, self.rotation[rows], eps, self.queries[rows]
        )
        self._store(layer, normed, rows)

    def _project_in_place(self, layer: LayerWeights, x: Tensor) -> None:
        """Write queries, keys and values of all rows into the one buffer of the kernels."""
        assert self.qkv is not None
        assert layer.qkv is not None
        architecture = self.decoder.architecture
        target = self.qkv[self.num_cached :]
        layer.qkv(self.decoder.norm(x, layer.input_norm), target)
        heads = target[:, : -self.kv_size]
        self.decoder.ops.apply_qk_norm_rope(
            *(heads, layer.query_norm, self.rotation, architecture.rms_eps, heads),
            key_norm=layer.key_norm,
            num_key_heads=architecture.attention.num_kv_heads,
        )

    def _store(self, layer: LayerWeights, normed: Any, rows: slice) -> None:
        """Write keys and values of some rows, normalised and encoded, into the buffer."""
        keys, values = layer.key_value(normed).chunk(2, -1)
        target = self.kv[self.num_cached + rows.start : self.num_cached + rows.stop]
        eps = self.decoder.architecture.rms_eps
        self.decoder.ops.apply_qk_norm_rope(
            keys, layer.key_norm, self.rotation[rows], eps, target[:, : self.kv_size]
        )
        target[:, self.kv_size :] = values

    def _load_store_prefix_kv(self, layer_index: int) -> None:
        """Copy this layer's cached keys and values into the buffer, and those to store out of it."""
        if self.cached_kv is not None:
            self.kv[: self.num_cached] = self.cached_kv[layer_index]
        if self.stored_lengths:
            torch.index_select(self.kv, 0, self.index["stored_rows"], out=self.stored[layer_index])

    def stored_kv(self) -> list[Tensor]:
        """Return the keys and values to store, in memory of their own for each node."""
        parts = self.stored.split(self.stored_lengths, 1) if self.stored_lengths else ()
        return [part.clone(memory_format=torch.contiguous_format) for part in parts]

    def _output_and_mlp(
        self, layer: LayerWeights, x: Tensor, attended: Tensor, *, precise: bool = False
    ) -> None:
        """Add output projection and MLP to `x` in place."""
        layer.output.add_to(x, layer.output.encode(attended, precise=precise))
        normed = layer.gate_up.encode(self.decoder.norm(x, layer.mlp_norm), precise=precise)
        gate_up = layer.gate_up(normed)
        layer.down.add_to(x, layer.down.encode(self.decoder.ops.swiglu_(gate_up), precise=precise))
