"""Tensors of a checkpoint into the decoder's weights: each asked for by name, checked, and copied once."""

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
from qwen_rerank_plugins.core.model.decoder import Architecture, LayerWeights, Linear, Weights
from qwen_rerank_plugins.errors import CheckpointFormatError, TensorMismatchError

__all__ = ["load_weights"]

logger = logging.getLogger(__name__)

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_IGNORED_SUFFIX = ".rotary_emb.inv_freq"
_NAMES_SHOWN = 5


BLOCK_BYTES = 32 << 20
"""Bytes of a large tensor that are read at once; the embedding of the 0.6B shape has ten times as many."""


def load_weights(
    checkpoint: Checkpoint,
    answers: tuple[int, int | None],
    device: torch.device,
    dtype: torch.dtype,
    convert: Callable[[LayerWeights], None] | None = None,
) -> Weights:
    """Read a checkpoint's weights.

    The memory needed is that of the weights and of one tensor.

    Args:
        checkpoint: The checkpoint.
        answers: Token ids that mean relevant and not relevant; the second may be missing.
        device: Where they go.
        dtype: The dtype of the computation. The embedding stays as it is stored unless that is wider.
        convert: Applied to each layer when it has been read, before the next is: quantisation.

    Raises:
        TensorMismatchError: Tensors are missing, superfluous, of another shape, or the head would be random.
        CheckpointFormatError: A file is broken or holds numbers that are not floating point.
    """
    reader = _Reader(checkpoint.files, device)
    names = _names(checkpoint)
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
    reader.into(embedding, "model.embed_tokens.weight")
    final_norm = reader.tensor("model.norm.weight", dtype)
    return Weights(embedding, layers, final_norm, _head(reader, checkpoint, answers))


def _names(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Every tensor that must be there, by its full name, and its shape."""
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
    hidden, inner, dim = shape.hidden_size, shape.intermediate_size, shape.attention.head_dim
    q, kv = shape.attention.num_heads * dim, shape.attention.num_kv_heads * dim
    shapes: dict[str, tuple[int, ...]] = {
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
    if shape.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
    if shape.qkv_bias:
        shapes |= {f"self_attn.{name}_proj.bias": (size,) for name, size in (("q", q), ("k", kv), ("v", kv))}
    return shapes


def _ignored(checkpoint: Checkpoint) -> set[str]:
    """Tensors that may be there and are not needed."""
    return {"lm_head.weight"} if checkpoint.is_tied else set()


def _load_layer(reader: _Reader, shape: Architecture, number: int, dtype: torch.dtype) -> LayerWeights:
    prefix = f"model.layers.{number}."

    def fused(names: Sequence[str], kind: str) -> Tensor:
        return reader.stacked([f"{prefix}{name}.{kind}" for name in names], dtype)

    with reader.opened():
        qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        return LayerWeights(
            input_norm=reader.tensor(f"{prefix}input_layernorm.weight", dtype),
            qkv=Linear(fused(qkv, "weight"), fused(qkv, "bias") if shape.qkv_bias else None),
            query_norm=reader.tensor(f"{prefix}self_attn.q_norm.weight", dtype) if shape.qk_norm else None,
            key_norm=reader.tensor(f"{prefix}self_attn.k_norm.weight", dtype) if shape.qk_norm else None,
            output=Linear(fused(["self_attn.o_proj"], "weight")),
            mlp_norm=reader.tensor(f"{prefix}post_attention_layernorm.weight", dtype),
            gate_up=Linear(fused(["mlp.gate_proj", "mlp.up_proj"], "weight")),
            down=Linear(fused(["mlp.down_proj"], "weight")),
        )


def _head(reader: _Reader, checkpoint: Checkpoint, answers: tuple[int, int | None]) -> Tensor:
    """The row whose product with the final hidden state is the log-odds, in fp32."""
    if checkpoint.has_classifier:
        return reader.tensor("score.weight", torch.float32)[0]
    matrix = "model.embed_tokens.weight" if checkpoint.is_tied else "lm_head.weight"
    head = _difference(reader, matrix, answers)
    if checkpoint.is_tied and "lm_head.weight" in reader.shapes:
        other = _difference(reader, "lm_head.weight", answers)
        if not torch.equal(head, other):
            logger.warning(
                "checkpoint %r ties its head to the embedding, but also holds a lm_head.weight that differs from it "
                "by up to %.3g in the answers' rows; the embedding is used, as its configuration says",
                checkpoint.name,
                (head - other).abs().max().item(),
            )
    return head


def _difference(reader: _Reader, matrix: str, answers: tuple[int, int | None]) -> Tensor:
    true_id, false_id = answers
    row = reader.row(matrix, true_id)
    return row if false_id is None else row - reader.row(matrix, false_id)


class _Reader:
    """Tensors by name from one or several safetensors files."""

    def __init__(self, files: Sequence[Path], device: torch.device) -> None:
        self._device = device
        self._paths: dict[str, tuple[Path, str]] = {}
        self._open: dict[Path, Any] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._kinds: dict[str, str] = {}
        for path in files:
            self._read_header(path)

    def _read_header(self, path: Path) -> None:
        with _opened(path, "cpu") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                view = file.get_slice(name)
                full = name if name.startswith(("model.", "lm_head.", "score.")) else f"model.{name}"
                if full in self.shapes:
                    raise TensorMismatchError(
                        f"tensor {full!r} is there twice, the second time in {path.name!r}"
                    )
                self._paths[full] = (path, name)
                self.shapes[full] = tuple(view.get_shape())
                self._kinds[full] = str(view.get_dtype())

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: set[str]) -> None:
        """Compare what is there with what must be."""
        missing = sorted(set(expected) - set(self.shapes))
        heads = [name for name in missing if name in ("lm_head.weight", "score.weight")]
        if heads:
            raise TensorMismatchError(
                f"the checkpoint has no {heads[0]}, so its head would be random: every score noise"
            )
        if missing:
            raise TensorMismatchError(f"the checkpoint lacks {_listed(missing)}")
        extra = sorted(
            name for name in set(self.shapes) - set(expected) - ignored if not name.endswith(_IGNORED_SUFFIX)
        )
        if extra:
            raise TensorMismatchError(
                f"the checkpoint holds tensors that its configuration does not name: {_listed(extra)}"
            )
        for name, shape in expected.items():
            if self.shapes[name] != shape:
                raise TensorMismatchError(
                    f"{name} has the shape {self.shapes[name]}, the configuration says {shape}"
                )
            if self._kinds[name] not in _FLOATS:
                raise CheckpointFormatError(
                    f"{name} is stored as {self._kinds[name]}; allowed are {', '.join(_FLOATS)}"
                )

    def dtype(self, name: str) -> torch.dtype:
        return _FLOATS[self._kinds[name]]

    def empty(self, name: str, dtype: torch.dtype) -> Tensor:
        return torch.empty(self.shapes[name], dtype=dtype, device=self._device)

    def opened(self) -> ExitStack:
        """Keep files open for the tensors that follow. Closing them gives back the pages that were mapped."""
        stack = ExitStack()
        self._open = {}

        def close() -> None:
            self._open = None

        stack.callback(close)
        return stack

    def into(self, target: Tensor, name: str) -> None:
        """Copy a tensor to its place, converting on the way."""
        path, stored = self._paths[name]
        try:
            if self._open is not None:
                if path not in self._open:
                    self._open[path] = _opened(path, str(self._device))
                target.copy_(self._open[path].get_tensor(stored))
            else:
                self._copy_in_blocks(target, path, stored)
        except (OSError, SafetensorError) as error:
            raise CheckpointFormatError(f"{name} in {path.name!r} cannot be read: {error}") from error

    def _copy_in_blocks(self, target: Tensor, path: Path, stored: str) -> None:
        """Copy a tensor a few rows at a time, and give the file's pages back after each block."""
        rows = max(1, BLOCK_BYTES // max(1, target[:1].nbytes))
        for part, first in zip(target.split(rows), range(0, len(target), rows), strict=True):
            with _opened(path, str(self._device)) as file:
                part.copy_(file.get_slice(stored)[first : first + len(part)])

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        target = self.empty(name, dtype)
        self.into(target, name)
        return target

    def stacked(self, names: Sequence[str], dtype: torch.dtype) -> Tensor:
        """Several tensors behind one another along the first dimension, each copied once."""
        rows = [self.shapes[name][0] for name in names]
        target = torch.empty((sum(rows), *self.shapes[names[0]][1:]), dtype=dtype, device=self._device)
        for name, part in zip(names, target.split(rows), strict=True):
            self.into(part, name)
        return target

    def row(self, name: str, number: int) -> Tensor:
        """One row of a matrix, in fp32, without reading the others."""
        path, stored = self._paths[name]
        if not 0 <= number < self.shapes[name][0]:
            raise TensorMismatchError(
                f"{name} has {self.shapes[name][0]} rows, the answer's token id is {number}"
            )
        with _opened(path, "cpu") as file:
            row: Tensor = file.get_slice(stored)[number : number + 1][0]
        return row.float().to(self._device)


def _opened(path: Path, device: str) -> Any:
    try:
        return safe_open(path, framework="pt", device=device)
    except (OSError, SafetensorError) as error:
        raise CheckpointFormatError(
            f"{str(path)!r} is no safetensors file, or a broken one: {error}"
        ) from error


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def weight_bytes(weights: Weights) -> int:
    """Memory that all weights take."""
    return sum(tensor.nbytes for tensor in _tensors(weights)) + sum(
        linear.num_bytes
        for layer in weights.layers
        for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)
    )


def _tensors(weights: Weights) -> Iterator[Tensor]:
    yield from (weights.embedding, weights.final_norm, weights.head)
    for layer in weights.layers:
        yield from (
            t for t in (layer.input_norm, layer.mlp_norm, layer.query_norm, layer.key_norm) if t is not None
        )
