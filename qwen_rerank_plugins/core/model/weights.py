"""Read a checkpoint's tensors into the decoder's weights; each is checked by name and shape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwen_rerank_plugins.core.model.checkpoint import Checkpoint
from qwen_rerank_plugins.core.model.decoder import Architecture, LayerWeights, Weights
from qwen_rerank_plugins.core.model.linear import Linear
from qwen_rerank_plugins.errors import CheckpointFormatError, TensorMismatchError

__all__ = ["load_weights"]

logger = logging.getLogger(__name__)

_FLOAT_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_IGNORED_SUFFIX = ".rotary_emb.inv_freq"
_MAX_NAMES_SHOWN = 5


READ_BLOCK_BYTES = 32 << 20
"""Bytes of a large tensor read at once; the embedding of the 0.6B shape is ten times as large."""


def load_weights(
    checkpoint: Checkpoint,
    answer_ids: tuple[int, int | None],
    device: torch.device,
    dtype: torch.dtype,
    convert: Callable[[LayerWeights], None] | None = None,
) -> Weights:
    """Read a checkpoint's weights.

    Peak memory is that of the weights and one tensor.

    Args:
        checkpoint: The checkpoint.
        answer_ids: Token ids that mean relevant and not relevant; the second may be None.
        device: Device of the weights.
        dtype: Dtype of the computation. The embedding keeps its stored dtype unless that is wider.
        convert: Quantisation, applied to each layer before the next is read.

    Raises:
        TensorMismatchError: A tensor is missing, unexpected or of another shape, or the head would be random.
        CheckpointFormatError: A file is broken or holds numbers that are not floating point.
    """
    reader = _TensorReader(checkpoint.files, device)
    names = _expected_shapes(checkpoint)
    reader.check(names, _ignored(checkpoint))
    layers = []
    for number in range(checkpoint.architecture.num_layers):
        layer = _load_layer(reader, checkpoint.architecture, number, dtype)
        if convert is not None:
            convert(layer)
        layers.append(layer)
    stored = reader.dtype("model.embed_tokens.weight")
    embedding = reader.empty(
        "model.embed_tokens.weight", dtype if stored.itemsize > dtype.itemsize else stored
    )
    reader.copy_into(embedding, "model.embed_tokens.weight")
    final_norm = reader.tensor("model.norm.weight", dtype)
    return Weights(embedding, layers, final_norm, _head(reader, checkpoint, answer_ids))


def _expected_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Return every required tensor's full name and shape."""
    shape = checkpoint.architecture
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


def _ignored(checkpoint: Checkpoint) -> set[str]:
    """Return tensors that may be present and are not needed."""
    return {"lm_head.weight"} if checkpoint.is_tied else set()


def _load_layer(reader: _TensorReader, shape: Architecture, number: int, dtype: torch.dtype) -> LayerWeights:
    prefix = f"model.layers.{number}."

    def fused(names: Sequence[str], kind: str) -> Tensor:
        return reader.concatenated([f"{prefix}{name}.{kind}" for name in names], dtype)

    with reader.keep_open():
        names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        qkv = Linear(fused(names, "weight"), fused(names, "bias") if shape.qkv_bias else None)
        query_size = shape.attention.num_heads * shape.attention.head_dim
        return LayerWeights(
            input_norm=reader.tensor(f"{prefix}input_layernorm.weight", dtype),
            query=qkv.rows(slice(query_size)),
            key_value=qkv.rows(slice(query_size, None)),
            query_norm=reader.tensor(f"{prefix}self_attn.q_norm.weight", dtype) if shape.qk_norm else None,
            key_norm=reader.tensor(f"{prefix}self_attn.k_norm.weight", dtype) if shape.qk_norm else None,
            output=Linear(fused(["self_attn.o_proj"], "weight")),
            mlp_norm=reader.tensor(f"{prefix}post_attention_layernorm.weight", dtype),
            gate_up=Linear(fused(["mlp.gate_proj", "mlp.up_proj"], "weight")),
            down=Linear(fused(["mlp.down_proj"], "weight")),
            qkv=qkv,
        )


def _head(reader: _TensorReader, checkpoint: Checkpoint, answer_ids: tuple[int, int | None]) -> Tensor:
    """Return the row whose product with the final hidden state is the log-odds, in fp32.

    Raises:
        TensorMismatchError: The row is zero.
    """
    head = _stored_head(reader, checkpoint, answer_ids)
    if not head.any():
        name = "score.weight" if checkpoint.has_classifier else "the difference of the answers' rows"
        raise TensorMismatchError(
            f"{name} is zero, so every score would be 0.5; convert the checkpoint again"
        )
    return head


def _stored_head(reader: _TensorReader, checkpoint: Checkpoint, answer_ids: tuple[int, int | None]) -> Tensor:
    if checkpoint.has_classifier:
        return reader.tensor("score.weight", torch.float32)[0]
    matrix = "model.embed_tokens.weight" if checkpoint.is_tied else "lm_head.weight"
    head = _answer_row_difference(reader, matrix, answer_ids)
    if checkpoint.is_tied and "lm_head.weight" in reader.shapes:
        other = _answer_row_difference(reader, "lm_head.weight", answer_ids)
        if not torch.equal(head, other):
            logger.warning(
                "checkpoint %r ties its head to the embedding, but also holds a lm_head.weight that differs from it "
                "by up to %.3g in the rows of the answers; the embedding is used, as config.json says",
                checkpoint.name,
                (head - other).abs().max().item(),
            )
    return head


def _answer_row_difference(reader: _TensorReader, matrix: str, answer_ids: tuple[int, int | None]) -> Tensor:
    true_id, false_id = answer_ids
    row = reader.row(matrix, true_id)
    return row if false_id is None else row - reader.row(matrix, false_id)


class _TensorReader:
    """Reads tensors by name from one or more safetensors files."""

    def __init__(self, files: Sequence[Path], device: torch.device) -> None:
        self._device = device
        self._paths: dict[str, tuple[Path, str]] = {}
        self._open: dict[Path, Any] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        for path in files:
            self._read_header(path)

    def _read_header(self, path: Path) -> None:
        with _open_safetensors(path, "cpu") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                view = file.get_slice(name)
                full_name = name if name.startswith(("model.", "lm_head.", "score.")) else f"model.{name}"
                if full_name in self.shapes:
                    raise TensorMismatchError(
                        f"tensor {full_name!r} is stored twice, the second time in {path.name!r}; "
                        f"remove one of them"
                    )
                self._paths[full_name] = (path, name)
                self.shapes[full_name] = tuple(view.get_shape())
                self._dtypes[full_name] = str(view.get_dtype())

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: set[str]) -> None:
        """Compare the tensors in the files with the expected ones."""
        missing = sorted(set(expected) - set(self.shapes))
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
        extra = sorted(
            name for name in set(self.shapes) - set(expected) - ignored if not name.endswith(_IGNORED_SUFFIX)
        )
        if extra:
            raise TensorMismatchError(
                f"the checkpoint holds tensors that its config.json does not describe: {_format_names(extra)}; "
                f"check that both belong together"
            )
        for name, shape in expected.items():
            if self.shapes[name] != shape:
                raise TensorMismatchError(
                    f"{name} has the shape {self.shapes[name]}, but config.json describes {shape}; "
                    f"check that both belong together"
                )
            if self._dtypes[name] not in _FLOAT_DTYPES:
                raise CheckpointFormatError(
                    f"{name} is stored as {self._dtypes[name]}; convert it to one of "
                    f"{', '.join(_FLOAT_DTYPES)}"
                )

    def dtype(self, name: str) -> torch.dtype:
        return _FLOAT_DTYPES[self._dtypes[name]]

    def empty(self, name: str, dtype: torch.dtype) -> Tensor:
        return torch.empty(self.shapes[name], dtype=dtype, device=self._device)

    def keep_open(self) -> ExitStack:
        """Keep files open for the next tensors. Closing them releases the mapped pages."""
        stack = ExitStack()
        self._open = {}

        def close() -> None:
            self._open = None

        stack.callback(close)
        return stack

    def copy_into(self, target: Tensor, name: str) -> None:
        """Copy a tensor into `target`, converting its dtype."""
        path, stored = self._paths[name]
        try:
            if self._open is not None:
                if path not in self._open:
                    self._open[path] = _open_safetensors(path, str(self._device))
                target.copy_(self._open[path].get_tensor(stored))
            else:
                self._copy_in_blocks(target, path, stored)
        except (OSError, SafetensorError) as error:
            raise CheckpointFormatError(f"{name} in {path.name!r} cannot be read: {error}") from error

    def _copy_in_blocks(self, target: Tensor, path: Path, stored: str) -> None:
        """Copy a tensor a few rows at a time, releasing the file's pages after each block."""
        rows = max(1, READ_BLOCK_BYTES // max(1, target[:1].nbytes))
        for part, first in zip(target.split(rows), range(0, len(target), rows), strict=True):
            with _open_safetensors(path, str(self._device)) as file:
                part.copy_(file.get_slice(stored)[first : first + len(part)])

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        target = self.empty(name, dtype)
        self.copy_into(target, name)
        return target

    def concatenated(self, names: Sequence[str], dtype: torch.dtype) -> Tensor:
        """Return several tensors concatenated along the first dimension, each copied once."""
        rows = [self.shapes[name][0] for name in names]
        target = torch.empty((sum(rows), *self.shapes[names[0]][1:]), dtype=dtype, device=self._device)
        for name, part in zip(names, target.split(rows), strict=True):
            self.copy_into(part, name)
        return target

    def row(self, name: str, number: int) -> Tensor:
        """Return one row of a matrix in fp32, without reading the others."""
        path, stored = self._paths[name]
        if not 0 <= number < self.shapes[name][0]:
            raise TensorMismatchError(
                f"{name} has {self.shapes[name][0]} rows, but the answer's token id is {number}; "
                f"check that tokenizer and weights belong together"
            )
        with _open_safetensors(path, "cpu") as file:
            row: Tensor = file.get_slice(stored)[number : number + 1][0]
        return row.float().to(self._device)


def _open_safetensors(path: Path, device: str) -> Any:
    try:
        return safe_open(path, framework="pt", device=device)
    except (OSError, SafetensorError) as error:
        raise CheckpointFormatError(f"{str(path)!r} is not a valid safetensors file: {error}") from error


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
