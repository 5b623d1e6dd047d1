"""Read a checkpoint's tensors into the decoder's weights; each is checked by name and shape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from qwen_rerank_plugins.core.checkpoints.checkpoint import Checkpoint
from qwen_rerank_plugins.core.checkpoints.quantized_source import QuantizedSource
from qwen_rerank_plugins.core.checkpoints.tensors import TensorSource, copy_tensor, read_tensor
from qwen_rerank_plugins.core.model.decoder import Architecture, LayerWeights, Weights
from qwen_rerank_plugins.core.model.int8 import Int8Codes
from qwen_rerank_plugins.core.model.linear import Linear, pack
from qwen_rerank_plugins.errors import TensorMismatchError

__all__ = ["checked_shapes", "load_weights", "weight_bytes"]

logger = logging.getLogger(__name__)

_IGNORED_SUFFIX = ".rotary_emb.inv_freq"
_MAX_NAMES_SHOWN = 5


def load_weights(
    checkpoint: Checkpoint,
    answer_ids: tuple[int, int | None],
    device: torch.device,
    dtype: torch.dtype,
    convert: Callable[[Linear], Linear] | None = None,
) -> Weights:
    """Read a checkpoint's weights.

    Peak memory is that of the weights and one tensor.

    Args:
        checkpoint: The checkpoint.
        answer_ids: Token ids that mean relevant and not relevant; the second may be None.
        device: Device of the weights.
        dtype: Dtype of the computation. The embedding keeps its stored dtype unless that is wider.
        convert: Makes the linear layers that are used of those that are read, each layer before the next is read. It must
            copy the weights, because the next layer is read into the same memory. If it quantises, it gets the codes of
            layers that are stored in 8 bits as `Int8Codes`.

    Raises:
        TensorMismatchError: A tensor is missing, unexpected or of another shape, or the head would be random.
        CheckpointFormatError: A file is broken or holds numbers that are not floating point.
    """
    source = checkpoint.open_tensors()
    checked_shapes(checkpoint, source)
    layers = []
    quantizes = convert is not None and convert is not pack
    codes = source if quantizes and isinstance(source, QuantizedSource) else None
    memory: dict[tuple[str, ...], Tensor] = {}
    for number in range(checkpoint.architecture.num_layers):
        prefix = f"model.layers.{number}."
        reader = _LayerReader(source, prefix, dtype, device, codes, {} if convert is None else memory)
        layer = reader.read(checkpoint.architecture)
        if convert is not None:
            layer.replace_linears(convert)
        layers.append(layer)
    stored = source.dtype("model.embed_tokens.weight")
    narrow = dtype if stored.itemsize > dtype.itemsize else stored
    embedding = read_tensor(source, "model.embed_tokens.weight", narrow, device)
    final_norm = read_tensor(source, "model.norm.weight", dtype, device)
    return Weights(embedding, layers, final_norm, _head(source, checkpoint, answer_ids).to(device))


def _expected_shapes(checkpoint: Checkpoint, source: TensorSource) -> dict[str, tuple[int, ...]]:
    """Return every required tensor's full name and shape."""
    shape = checkpoint.architecture
    if shape.num_layers > len(source.shapes):
        raise TensorMismatchError(
            f"the checkpoint has {len(source.shapes)} tensors, which are too few for the {shape.num_layers} layers "
            f"of its configuration; download or convert it again"
        )
    names = {
        "model.embed_tokens.weight": (shape.vocab_size, shape.hidden_size),
        "model.norm.weight": (shape.hidden_size,),
    }
    for number in range(shape.num_layers):
        names.update({f"model.layers.{number}.{name}": size for name, size in _layer_shapes(shape).items()})
    if checkpoint.has_classifier:
        names["score.weight"] = (1, shape.hidden_size)
    elif not checkpoint.is_tied:
        names["lm_head.weight"] = (shape.vocab_size, shape.hidden_size)
    return names


def _layer_shapes(shape: Architecture) -> dict[str, tuple[int, ...]]:
    hidden, mlp, dim = shape.hidden_size, shape.intermediate_size, shape.attention.head_dim
    q, kv = shape.attention.num_heads * dim, shape.attention.num_kv_heads * dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, q),
        "mlp.gate_proj.weight": (mlp, hidden),
        "mlp.up_proj.weight": (mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
    }
    if shape.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
    if shape.qkv_bias:
        shapes |= {f"self_attn.{name}_proj.bias": (size,) for name, size in (("q", q), ("k", kv), ("v", kv))}
    return shapes


class _LayerReader:
    """Reads the tensors of one layer; linear layers that `codes` stores in 8 bits as their codes.

    Weights of linear layers are read into `memory`, by the names of their modules, or into new memory that is added to
    it. A reader of the next layer that gets the same `memory` overwrites them: touching new memory takes longer than
    reading.
    """

    def __init__(
        self,
        source: TensorSource,
        prefix: str,
        dtype: torch.dtype,
        device: torch.device,
        codes: QuantizedSource | None,
        memory: dict[tuple[str, ...], Tensor],
    ) -> None:
        self._source = source
        self._prefix = prefix
        self._dtype = dtype
        self._device = device
        self._codes = codes
        self._memory = memory

    def read(self, shape: Architecture) -> LayerWeights:
        attention, norms = "self_attn.{}_proj", "self_attn.{}_norm.weight"
        qkv = self._linear(*map(attention.format, "qkv"), has_bias=shape.qkv_bias)
        query_size = shape.attention.num_heads * shape.attention.head_dim
        return LayerWeights(
            input_norm=self._norm("input_layernorm.weight"),
            query=qkv.rows(slice(query_size)),
            key_value=qkv.rows(slice(query_size, None)),
            query_norm=self._norm(norms.format("q")) if shape.qk_norm else None,
            key_norm=self._norm(norms.format("k")) if shape.qk_norm else None,
            output=self._linear(attention.format("o")),
            mlp_norm=self._norm("post_attention_layernorm.weight"),
            gate_up=self._linear("mlp.gate_proj", "mlp.up_proj"),
            down=self._linear("mlp.down_proj"),
            qkv=qkv,
        )

    def _norm(self, name: str) -> Tensor:
        return read_tensor(self._source, self._prefix + name, self._dtype, self._device)

    def _linear(self, *names: str, has_bias: bool = False) -> Linear:
        modules = [self._prefix + name for name in names]
        weights = [f"{name}.weight" for name in modules]
        bias = self._concatenated([f"{name}.bias" for name in modules], self._dtype) if has_bias else None
        if self._codes is not None and all(map(self._codes.has_int8_rows, weights)):
            scale = torch.cat([self._codes.row_scales(name) for name in weights]).to(self._device)
            return Int8Codes(self._concatenated(weights, torch.int8), scale, bias)
        self._memory[names] = self._concatenated(weights, self._dtype, self._memory.get(names))
        return Linear(self._memory[names], bias)

    def _concatenated(self, names: Sequence[str], dtype: torch.dtype, target: Tensor | None = None) -> Tensor:
        """Return several tensors concatenated along the first dimension, each copied once, in `target` if given."""
        shapes = [self._source.shapes[name] for name in names]
        rows = [shape[0] for shape in shapes]
        if target is None:
            target = torch.empty((sum(rows), *shapes[0][1:]), dtype=dtype, device=self._device)
        for name, part in zip(names, target.split(rows), strict=True):
            copy_tensor(self._source, name, part)
        return target


def _head(source: TensorSource, checkpoint: Checkpoint, answer_ids: tuple[int, int | None]) -> Tensor:
    """Return the row whose product with the final hidden state is the log-odds, in fp32.

    Raises:
        TensorMismatchError: The row is zero.
    """
    head = _stored_head(source, checkpoint, answer_ids)
    if not head.any():
        name = "score.weight" if checkpoint.has_classifier else "the difference of the answers' rows"
        raise TensorMismatchError(
            f"{name} is zero, so every score would be 0.5; convert the checkpoint again"
        )
    return head


def _stored_head(source: TensorSource, checkpoint: Checkpoint, answer_ids: tuple[int, int | None]) -> Tensor:
    if checkpoint.has_classifier:
        return _row(source, "score.weight", 0)
    matrix = "model.embed_tokens.weight" if checkpoint.is_tied else "lm_head.weight"
    head = _answer_row_difference(source, matrix, answer_ids)
    if checkpoint.is_tied and source.shapes.get("lm_head.weight") == source.shapes[matrix]:
        other = _answer_row_difference(source, "lm_head.weight", answer_ids)
        if not torch.equal(head, other):
            logger.warning(
                "checkpoint %r ties its head to the embedding, but also holds a lm_head.weight that differs from it "
                "by up to %.3g in the rows of the answers; the embedding is used, as the configuration says",
                checkpoint.name,
                (head - other).abs().max().item(),
            )
    return head


def _answer_row_difference(source: TensorSource, matrix: str, answer_ids: tuple[int, int | None]) -> Tensor:
    true_id, false_id = answer_ids
    row = _row(source, matrix, true_id)
    return row if false_id is None else row - _row(source, matrix, false_id)


def _row(source: TensorSource, name: str, number: int) -> Tensor:
    """Return one row of a matrix in fp32, without reading the others."""
    num_rows, size = source.shapes[name]
    if not 0 <= number < num_rows:
        raise TensorMismatchError(
            f"{name} has {num_rows} rows, but the answer's token id is {number}; "
            f"check that tokenizer and weights belong together"
        )
    row = torch.empty(1, size)
    source.read_rows(name, row, number)
    return row[0]


def checked_shapes(checkpoint: Checkpoint, source: TensorSource) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that the configuration describes, in the order of the layers.

    Raises:
        TensorMismatchError: The files lack a tensor, or hold another one or one of another shape.
        CheckpointFormatError: A tensor is stored in a format that is not supported.
    """
    expected = _expected_shapes(checkpoint, source)
    missing = sorted(set(expected) - set(source.shapes))
    heads = [name for name in missing if name in ("lm_head.weight", "score.weight")]
    if heads:
        raise TensorMismatchError(
            f"the checkpoint has no {heads[0]}, so its head would be random and every score "
            f"noise; convert it again"
        )
    if missing:
        raise TensorMismatchError(
            f"the checkpoint lacks {_format_names(missing)}; download or convert it again"
        )
    unused = {"lm_head.weight"} if checkpoint.is_tied or checkpoint.has_classifier else set()
    extra = sorted(
        name for name in set(source.shapes) - set(expected) - unused if not name.endswith(_IGNORED_SUFFIX)
    )
    if extra:
        raise TensorMismatchError(
            f"the checkpoint holds tensors that its configuration does not describe: {_format_names(extra)}; "
            f"check that both belong together"
        )
    for name, shape in expected.items():
        if source.shapes[name] != shape:
            raise TensorMismatchError(
                f"{name} has the shape {source.shapes[name]}, but the configuration describes {shape}; "
                f"check that both belong together"
            )
        source.dtype(name)
    return expected


def _format_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMES_SHOWN])
    return shown if len(names) <= _MAX_NAMES_SHOWN else f"{shown} and {len(names) - _MAX_NAMES_SHOWN} more"


def weight_bytes(weights: Weights) -> int:
    """Return the memory of all weights."""
    return sum(tensor.nbytes for tensor in _tensors(weights)) + sum(
        linear.num_bytes for layer in weights.layers for linear in layer.linears
    )


def _tensors(weights: Weights) -> Iterator[Tensor]:
    yield from (weights.embedding, weights.final_norm, weights.head)
    for layer in weights.layers:
        yield from (
            t for t in (layer.input_norm, layer.mlp_norm, layer.query_norm, layer.key_norm) if t is not None
        )
