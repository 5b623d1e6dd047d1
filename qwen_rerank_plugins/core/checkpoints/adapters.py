"""LoRA adapters, as PEFT writes them, merged into a base's tensors while these are read.

An adapter's `adapter_config.json` and the header of its `adapter_model.safetensors` are read and checked first. What
cannot be merged exactly is rejected by name. The arithmetic is that of PEFT's `merge_and_unload`, in fp32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen_rerank_plugins.core.checkpoints.folder import adapter_file, read_json
from qwen_rerank_plugins.core.checkpoints.safetensors_file import SafetensorsSource, full_name
from qwen_rerank_plugins.core.checkpoints.tensors import TensorSource, is_plain_pattern, read_tensor
from qwen_rerank_plugins.errors import CheckpointFormatError, TensorMismatchError

__all__ = ["AdaptedSource", "Adapter", "read_adapter"]

_PREFIX = "base_model.model."
_KEY = re.compile(
    r"(?P<module>[\w.]+?)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?|(?:base_layer\.)?(?:weight|bias))"
)
_READ = {"peft_type", "r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "init_lora_weights"}
_OF_TRAINING = {
    *(
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
    ),
    *("fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout"),
    *("megatron_config", "megatron_core", "modules_to_save", "peft_version", "qalora_group_size", "revision"),
    *("runtime_config", "target_modules", "task_type", "use_dora", "velora_config"),
}
"""Settings that say what was trained and how; the tensors' names and shapes say what of it is there to merge.

`fan_in_fan_out` is for transposed weights, which no linear layer of these models has; PEFT ignores it there too.
"""

_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that subtract the adapter from the base, so that the adapter alone does not give the model."""

_MERGE_BLOCK_BYTES = 2 << 20
"""Bytes of rows that are merged at once, so that they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class _LowRank:
    """A product of two matrices that is added to a tensor, and the row norms that follow it (DoRA)."""

    a: str
    b: str
    scale: float
    is_embedding: bool
    magnitude: str | None


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter whose configuration and header have been read.

    Attributes:
        name: The name as configured.
        folder: The folder of its files.
        revision: The hub's commit; None for a folder.
        weight: Factor of its change.
        base: The model that it was trained on, as its configuration says.
        base_revision: The revision of that model.
        low_rank: Tensor of the base → the product that is added to it.
        replaced: Tensor of the base → the tensor that replaces it, before anything is added.
    """

    name: str
    folder: Path
    revision: str | None
    weight: float
    base: str
    base_revision: str | None
    tensors: SafetensorsSource = field(repr=False)
    low_rank: Mapping[str, _LowRank] = field(repr=False)
    replaced: Mapping[str, str] = field(repr=False)

    @property
    def info(self) -> dict[str, Any]:
        """The adapter as plain JSON types."""
        return {"model": self.name, "revision": self.revision, "weight": self.weight, "base": self.base}


def read_adapter(name: str, folder: Path, revision: str | None, weight: float) -> Adapter:
    """Read an adapter's configuration and the header of its tensors.

    Args:
        name: The name as configured, for messages.
        folder: The folder of its files.
        revision: The hub's commit; None for a folder.
        weight: Factor of its change.

    Raises:
        CheckpointFormatError: A file is missing or broken, or the adapter is of a kind that is not merged exactly.
        TensorMismatchError: A tensor is missing, unknown or of a shape that does not belong to a LoRA adapter.
    """
    config = read_json(folder / "adapter_config.json")
    _reject_unsupported(name, config)
    tensors = SafetensorsSource([adapter_file(name, folder)], rename=str)
    modules: dict[str, dict[str, str]] = {}
    for key in sorted(tensors.shapes):
        match = _KEY.fullmatch(key.removeprefix(_PREFIX))
        if match is None or not key.startswith(_PREFIX):
            raise TensorMismatchError(
                f"adapter {name!r} holds {key!r}, which is not a tensor of a LoRA adapter"
            )
        tensors.dtype(key)
        part = match["part"].removeprefix("base_layer.").removesuffix(".weight")
        modules.setdefault(match["module"], {})[part] = key
    replaced = {
        full_name(f"{module}.{part}"): parts[part]
        for module, parts in modules.items()
        for part in ("weight", "bias")
        if part in parts
    }
    low_rank = {
        full_name(f"{module}.weight"): _read_low_rank(name, config, tensors, module, parts, weight)
        for module, parts in modules.items()
        if parts.keys() - {"weight", "bias"}
    }
    if weight != 1 and (replaced or any(change.magnitude for change in low_rank.values())):
        raise CheckpointFormatError(
            f"adapter {name!r} has the weight {weight:g}, but replaces or scales whole tensors, such as "
            f"{next(iter(replaced or low_rank))}; only 1 is possible"
        )
    return Adapter(
        name=name,
        folder=folder,
        revision=revision,
        weight=weight,
        base=str(config.get("base_model_name_or_path") or ""),
        base_revision=None if config.get("revision") is None else str(config["revision"]),
        tensors=tensors,
        low_rank=low_rank,
        replaced=replaced,
    )


def _reject_unsupported(name: str, config: Mapping[str, Any]) -> None:
    """Reject adapters that are not exactly a base plus products of two matrices."""
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise CheckpointFormatError(
            f"adapter {name!r} is of the type {kind!r}; only LORA is supported. Merge it with PEFT, and use the result"
        )
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_BASE_CHANGING):
        raise CheckpointFormatError(
            f"adapter {name!r} was initialised by {start!r}, which changes the base; save it with PEFT's "
            f"path_initial_model_for_weight_conversion"
        )
    unknown = sorted(key for key, value in config.items() if value and key not in _READ | _OF_TRAINING)
    if unknown:
        raise CheckpointFormatError(
            f"adapter {name!r} sets {', '.join(unknown)}, which is not supported; merge it with PEFT, and use the result"
        )


def _read_low_rank(
    name: str,
    config: Mapping[str, Any],
    tensors: SafetensorsSource,
    module: str,
    parts: Mapping[str, str],
    weight: float,
) -> _LowRank:
    is_embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    names = [f"lora_{'embedding_' if is_embedding else ''}{letter}" for letter in "AB"]
    missing = [part for part in names if part not in parts]
    if missing:
        raise TensorMismatchError(f"adapter {name!r} lacks {module}.{' and '.join(missing)}; save it again")
    a, b = (parts[part] for part in names)
    rank = tensors.shapes[a][0] if tensors.shapes[a] else 0
    if rank < 1 or [len(tensors.shapes[key]) for key in (a, b)] != [2, 2] or tensors.shapes[b][1] != rank:
        raise TensorMismatchError(
            f"adapter {name!r} has the shapes {tensors.shapes[a]} and {tensors.shapes[b]} for A and B of {module}; "
            f"they must be (rank, in) and (out, rank), with a rank of at least 1"
        )
    if rank not in [config.get("r"), *_mapping(name, config, "rank_pattern").values()]:
        raise TensorMismatchError(
            f"adapter {name!r} has the rank {rank} in {module}, which its adapter_config.json does not name; "
            f"check that both belong together"
        )
    scale = weight * _alpha(name, config, module) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return _LowRank(a, b, scale, is_embedding, parts.get("lora_magnitude_vector"))


def _alpha(name: str, config: Mapping[str, Any], module: str) -> float:
    """Return the module's alpha: that of the first pattern that matches, as PEFT's `get_pattern_key` chooses it."""
    patterns = _mapping(name, config, "alpha_pattern")
    try:
        matching = (patterns[key] for key in patterns if _matches(key, module))
        alpha = float(next(matching, config.get("lora_alpha", 8)))
        if math.isfinite(alpha):
            return alpha
    except (TypeError, ValueError, OverflowError, re.error):
        pass
    raise CheckpointFormatError(
        f"adapter {name!r} has the lora_alpha {config.get('lora_alpha')!r} and the alpha_pattern {patterns!r}; they must "
        f"hold finite numbers by plain patterns"
    )


def _matches(pattern: str, module: str) -> bool:
    if not is_plain_pattern(pattern):
        raise ValueError(pattern)
    return re.match(rf"(?:.*\.)?(?:{pattern})$", module) is not None


def _mapping(name: str, config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise CheckpointFormatError(f"adapter {name!r} has the {key} {value!r}; it must be an object")
    return value


class AdaptedSource:
    """A base's tensors with adapters merged into them, as a `TensorSource`.

    An adapter that changes the embedding or a head tied to it unties them, as it did in training: both are then read
    from the same base tensor, each with its own changes.

    Args:
        base: The base's tensors.
        adapters: The adapters, in the order in which they are added.
        unties: Whether the base's head is its embedding, and an adapter changes one of them.

    Attributes:
        shapes: The shape of every tensor.

    Raises:
        TensorMismatchError: An adapter does not fit the base, or two adapters replace the same tensor.
    """

    def __init__(self, base: TensorSource, adapters: Sequence[Adapter], *, unties: bool) -> None:
        self._base = base
        self._adapters = adapters
        self.shapes = dict(base.shapes)
        self._aliases = {"lm_head.weight": "model.embed_tokens.weight"} if unties else {}
        for name, stored in self._aliases.items():
            if stored in base.shapes:
                self.shapes[name] = base.shapes[stored]
        self._replaced: dict[str, tuple[Adapter, str]] = {}
        for adapter in adapters:
            for name, key in adapter.replaced.items():
                if name == "score.weight":  # a causal base has none
                    self.shapes.setdefault(name, adapter.tensors.shapes[key])
                self._check_shape(adapter, name, adapter.tensors.shapes[key])
                if self._replaced.setdefault(name, (adapter, key))[0] is not adapter:
                    raise TensorMismatchError(
                        f"adapters {self._replaced[name][0].name!r} and {adapter.name!r} both replace {name}; use one of them"
                    )
            for name, change in adapter.low_rank.items():
                self._check_low_rank(adapter, name, change)

    def _check_low_rank(self, adapter: Adapter, name: str, change: _LowRank) -> None:
        a, b = adapter.tensors.shapes[change.a], adapter.tensors.shapes[change.b]
        shape = (a[1], b[0]) if change.is_embedding else (b[0], a[1])
        self._check_shape(adapter, name, shape)
        if change.magnitude is None:
            return
        if adapter.tensors.shapes[change.magnitude] != shape[:1] or change.is_embedding:
            raise TensorMismatchError(
                f"adapter {adapter.name!r} has a DoRA vector of another shape for {name}"
            )
        if len(self._adapters) > 1:
            raise TensorMismatchError(
                f"adapter {adapter.name!r} uses DoRA, which cannot be added to other adapters; use it alone"
            )

    def _check_shape(self, adapter: Adapter, name: str, shape: tuple[int, ...]) -> None:
        found = self.shapes.get(name)
        if found != shape:
            problem = "the model does not have" if found is None else f"has the shape {found} in the model"
            raise TensorMismatchError(
                f"adapter {adapter.name!r}, trained on {adapter.base!r}, does not fit this model: it changes {name} of "
                f"the shape {shape}, which {problem}"
            )

    def dtype(self, name: str) -> torch.dtype:
        """Return fp32 for a changed tensor, and the base's dtype for another one."""
        if name in self._replaced or any(name in adapter.low_rank for adapter in self._adapters):
            return torch.float32
        return self._base.dtype(self._aliases.get(name, name))

    def read_rows(self, name: str, target: Tensor, first_row: int = 0) -> None:
        """Copy merged rows into `target`. They are summed in fp32 on its device, and rounded once."""
        changes = [
            _Change(adapter.tensors, adapter.low_rank[name], target.device)
            for adapter in self._adapters
            if name in adapter.low_rank
        ]
        if not changes:
            self._read_unchanged(name, target, first_row)
            return
        num_rows = max(1, _MERGE_BLOCK_BYTES // max(1, 4 * target[:1].numel()))
        is_wide = target.dtype is torch.float32
        buffer = target if is_wide else torch.empty_like(target[:num_rows], dtype=torch.float32)
        for start in range(0, len(target), num_rows):
            part = target[start : start + num_rows]
            merged = part if is_wide else buffer[: len(part)]
            self._read_unchanged(name, merged, first_row + start)
            for change in changes:
                change.add_to(merged, first_row + start)
            if not is_wide:
                part.copy_(merged)

    def _read_unchanged(self, name: str, target: Tensor, first_row: int) -> None:
        if name in self._replaced:
            adapter, key = self._replaced[name]
            adapter.tensors.read_rows(key, target, first_row)
        else:
            self._base.read_rows(self._aliases.get(name, name), target, first_row)


class _Change:
    """The matrices of a product, in fp32."""

    def __init__(self, tensors: SafetensorsSource, change: _LowRank, device: torch.device) -> None:
        a, b = (read_tensor(tensors, key, torch.float32, device) for key in (change.a, change.b))
        self._left, self._right = (a.T, b.T) if change.is_embedding else (b, a)
        self._scale = change.scale
        self._magnitude = (
            read_tensor(tensors, change.magnitude, torch.float32, device) if change.magnitude else None
        )

    def add_to(self, rows: Tensor, first_row: int) -> None:
        """Add the product to rows of the base, and scale them to DoRA's norms if it has any."""
        part = slice(first_row, first_row + len(rows))
        rows.addmm_(self._left[part], self._right, alpha=self._scale)
        if self._magnitude is not None:
            rows.mul_((self._magnitude[part] / torch.linalg.vector_norm(rows, dim=1))[:, None])
