"""What a `quantization_config` says about the storage of linear layers. Knows no files, and reads no tensor.

Read are compressed-tensors (FP8, INT8, INT4), AutoAWQ, GPTQ, and the FP8 of DeepSeek and Qwen; anything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwen_rerank_plugins.core.checkpoints.tensors import is_plain_pattern
from qwen_rerank_plugins.errors import CheckpointFormatError

__all__ = ["Quantization", "Scheme", "read_quantization"]

_BITS = 8
_MAX_PATTERNS = 256
_PLAIN_FORMATS = ("int-quantized", "float-quantized", "naive-quantized")
_REMEDY = (
    "Read are compressed-tensors (FP8, INT8, INT4), AutoAWQ (GEMM), GPTQ (4 and 8 bits) and FP8; use such a checkpoint, "
    "or the one that it was made from"
)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of a linear layer are stored.

    Attributes:
        layout: "plain": one code per element; "packed": compressed-tensors' packing; "awq"; "gptq".
        bits: Bits of a code.
        is_float: Whether codes are floating point, in E4M3.
        block: Rows and columns that share a scale; 0 for all of them.
        zero_offset: What is added to a stored zero point; 1 in the first version of GPTQ's format.
    """

    layout: Literal["plain", "packed", "awq", "gptq"]
    bits: int
    is_float: bool
    block: tuple[int, int]
    zero_offset: int = 0

    @property
    def number_format(self) -> str:
        """The format of the codes, such as "int8"."""
        return f"{'fp' if self.is_float else 'int'}{self.bits}"

    @property
    def is_int8(self) -> bool:
        """Whether weights are signed 8-bit codes with one scale per row."""
        return self.layout == "plain" and not self.is_float and self.block == (1, 0)


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a checkpoint is quantised.

    Attributes:
        method: The library or the format, such as "GPTQ".
        schemes: Schemes with the modules that they are for: names, "re:" and a pattern, or "Linear" and "Embedding".
        ignored: Modules that are not quantised, in the same form.
    """

    method: str
    schemes: Sequence[tuple[str, Scheme]]
    ignored: Sequence[str]

    @property
    def weight_format(self) -> str:
        """Method and number formats, such as "compressed-tensors int8"."""
        formats = dict.fromkeys(scheme.number_format for _, scheme in self.schemes)
        return self.method if self.method.startswith("FP8") else f"{self.method} {' and '.join(formats)}"

    @property
    def is_int8(self) -> bool:
        """Whether all quantised layers are stored as 8-bit codes with one scale per row."""
        return all(scheme.is_int8 for _, scheme in self.schemes)

    def scheme(self, module: str) -> Scheme | None:
        """Return the scheme of a module; None if it is not quantised.

        A name is stronger than a pattern, and a pattern than a class.
        """
        if any(_matches(target, module) for target in self.ignored):
            return None
        found = [(target, scheme) for target, scheme in self.schemes if _matches(target, module)]
        return min(found, key=lambda pair: _weakness(pair[0], module))[1] if found else None


def _matches(target: str, module: str) -> bool:
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), module) is not None
    return target in (module, "Embedding" if module.endswith("embed_tokens") else "Linear")


def _weakness(target: str, module: str) -> int:
    return 0 if target == module else 1 if target.startswith("re:") else 2


def read_quantization(model: str, config: Mapping[str, Any]) -> Quantization | None:
    """Return how a checkpoint is quantised; None if it is not.

    Args:
        model: Name of the checkpoint, for messages.
        config: The contents of config.json.

    Raises:
        CheckpointFormatError: The method is not supported, or its settings are broken.
    """
    settings = config.get("quantization_config")
    if not settings:
        return None
    try:
        method = settings["quant_method"]
        _require({f"the method {method!r:.60}": method not in _READERS})
        quantization = _READERS[method](settings)
        targets = [*quantization.ignored, *(target for target, _ in quantization.schemes)]
        _check_patterns(targets)
    except _UnsupportedError as error:
        raise CheckpointFormatError(
            f"{model!r} is quantised with {error}, which is not supported. {_REMEDY}"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, re.error) as error:
        raise CheckpointFormatError(
            f"the quantization_config of {model!r} has a missing or invalid field: {type(error).__name__}: {error}"
        ) from error
    return quantization if quantization.schemes else None


class _UnsupportedError(Exception):
    """A setting that is not supported; the message completes "is quantised with"."""


def _require(problems: Mapping[str, bool]) -> None:
    """Raise the first problem that is present."""
    found = next((name for name, present in problems.items() if present), None)
    if found is not None:
        raise _UnsupportedError(found)


def _check_patterns(targets: Iterable[str]) -> None:
    patterns = [target.removeprefix("re:") for target in targets if target.startswith("re:")]
    complex_ones = [pattern for pattern in patterns if not is_plain_pattern(pattern)]
    if complex_ones or len(patterns) > _MAX_PATTERNS:
        raise ValueError(
            f"the pattern {complex_ones[0]!r:.60} is too complex" if complex_ones else "too many patterns"
        )
    for pattern in patterns:
        re.compile(pattern)


def _block(rows: int, columns: Any) -> tuple[int, int]:
    """Return a block of some columns; -1 stands for all of them."""
    size = int(columns)
    if size != -1 and size < 1:
        raise ValueError(f"group_size {columns!r}")
    return rows, max(size, 0)


def _read_compressed_tensors(settings: Mapping[str, Any]) -> Quantization:
    sparsity = (settings.get("sparsity_config") or {}).get("format") or "dense"
    status = settings.get("quantization_status", "compressed")
    _require(
        {
            f"the sparsity {sparsity!r}": sparsity != "dense",
            "transforms of weights and activations": bool(settings.get("transform_config")),
            "8-bit keys and values, which change scores": bool(settings.get("kv_cache_scheme")),
            f"the status {status!r}": status != "compressed",
        }
    )
    schemes: list[tuple[str, Scheme]] = []
    for group in settings["config_groups"].values():
        storage = str(group.get("format") or settings.get("format"))
        _require({"quantised outputs": bool(group.get("output_activations"))})
        if group.get("weights"):
            scheme = _compressed_scheme(storage, group["weights"])
            schemes += [(str(target), scheme) for target in group["targets"]]
    return Quantization("compressed-tensors", schemes, [*map(str, settings.get("ignore") or ())])


def _compressed_scheme(storage: str, weights: Mapping[str, Any]) -> Scheme:
    bits, is_float = int(weights["num_bits"]), weights.get("type") == "float"
    group_size = weights.get("group_size")
    by_group = "group" if group_size not in (None, -1) else "tensor" if group_size is None else "channel"
    strategy = weights.get("strategy") or by_group
    is_packed = storage == "pack-quantized"
    _require(
        {
            f"the format {storage!r:.60}": not is_packed and storage not in _PLAIN_FORMATS,
            f"the strategy {strategy!r:.60}": strategy not in ("tensor", "channel", "group", "block"),
            f"{bits} bits": bits not in ((4, _BITS) if is_packed else (_BITS,)) or (is_float and is_packed),
        }
    )
    rows, columns = weights.get("block_structure") or (1, 1)
    blocks = {
        "tensor": (0, 0),
        "channel": (1, 0),
        "group": _block(1, -1 if group_size is None else group_size),
        "block": _block(max(1, int(rows)), columns),
    }
    return Scheme("packed" if is_packed else "plain", bits, is_float, blocks[strategy])


def _read_awq(settings: Mapping[str, Any]) -> Quantization:
    version, bits = str(settings.get("version", "gemm")).lower(), int(settings["bits"])
    _require({f"AWQ's version {version!r:.60}": version != "gemm", f"AWQ's {bits} bits": bits != 4})  # noqa: PLR2004
    scheme = Scheme("awq", bits, is_float=False, block=_block(1, settings["group_size"]))
    return Quantization("AWQ", [("Linear", scheme)], _unconverted(settings))


def _read_gptq(settings: Mapping[str, Any]) -> Quantization:
    storage = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
    bits, rules = int(settings["bits"]), settings.get("dynamic") or {}
    _require(
        {
            f"GPTQ's format {storage!r:.60}": storage not in ("gptq", "gptq_v2"),
            f"GPTQ's {bits} bits": bits not in (4, _BITS),
            f"GPTQ's packing into {settings.get('pack_dtype')!r:.60}": settings.get("pack_dtype", "int32")
            != "int32",
            "GPTQ's settings by module": any(not str(rule).startswith("-:") for rule in rules),
        }
    )
    scheme = Scheme("gptq", bits, is_float=False, block=_block(1, settings["group_size"]))
    scheme = replace(scheme, zero_offset=int(storage == "gptq"))
    targets = [("Linear", scheme), ("Embedding", scheme)]
    return Quantization("GPTQ", targets, [f"re:{rule.removeprefix('-:')}" for rule in rules])


def _read_fp8(settings: Mapping[str, Any]) -> Quantization:
    form, sizes = str(settings.get("fmt", "e4m3")).lower(), settings.get("weight_block_size")
    _require({f"FP8 of the form {form!r:.60}": form not in ("e4m3", "float8_e4m3fn")})
    rows, columns = (0, -1) if sizes is None else sizes
    if sizes is not None and (int(rows) < 1 or int(columns) < 1):
        raise ValueError(f"weight_block_size {sizes!r}")
    scheme = Scheme("plain", _BITS, is_float=True, block=_block(int(rows), columns))
    method = "FP8" if sizes is None else f"FP8 in blocks of {rows} x {columns}"
    return Quantization(method, [("Linear", scheme)], _unconverted(settings))


def _unconverted(settings: Mapping[str, Any]) -> list[str]:
    """Return the modules that transformers leaves as they are: those that begin or end with one of the names.

    Patterns among the names are passed over: a module with plain weights is plain without them.
    """
    names = [*(settings.get("modules_to_not_convert") or ()), *(settings.get("ignored_layers") or ())]
    names = [re.escape(name) for name in names if re.fullmatch(r"[\w.]+", name)]
    choice = "|".join(names)
    return [rf"re:({choice})(\.|$)", f"re:.*({choice})$"] if names else []


_READERS = {
    "compressed-tensors": _read_compressed_tensors,
    "awq": _read_awq,
    "gptq": _read_gptq,
    "fp8": _read_fp8,
}
