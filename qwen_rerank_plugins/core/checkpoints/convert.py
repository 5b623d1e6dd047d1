"""Write a checkpoint of any form as a safetensors folder that transformers loads.

Adapters are merged and codes dequantised while the tensors are copied, a block of rows at a time, so that the model is never in memory.
The folder appears when it is complete, and not before.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen_rerank_plugins.core.checkpoints.adapters import Adapter
from qwen_rerank_plugins.core.checkpoints.checkpoint import Checkpoint, fingerprint
from qwen_rerank_plugins.core.checkpoints.folder import read_json
from qwen_rerank_plugins.core.checkpoints.quantized_source import QuantizedSource
from qwen_rerank_plugins.core.checkpoints.safetensors_writer import SafetensorsWriter, TensorForm, num_bytes
from qwen_rerank_plugins.core.checkpoints.tensors import READ_BLOCK_BYTES, TensorSource
from qwen_rerank_plugins.core.checkpoints.weights import checked_shapes
from qwen_rerank_plugins.core.model.int8 import INT8_MAX, quantize_rows
from qwen_rerank_plugins.errors import CheckpointFormatError, ConfigurationError
from qwen_rerank_plugins.fsync import fsync_path

__all__ = ["ConversionReport", "convert_checkpoint"]

MAX_FILE_BYTES = 5_000_000_000
"""Largest safetensors file; more tensors are written to several. One tensor is never divided."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SCALE = "_scale"
_COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "generation_config.json", "rerank_recipe.json"),
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
)
_ANSWERS = "1_LogitScore/config.json"
_PAD_TOKEN = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What was written.

    Attributes:
        folder: The folder.
        num_files: Its safetensors files.
        num_bytes: Bytes of its tensors.
        number_format: The dtype, and the quantisation if there is one.
    """

    folder: Path
    num_files: int
    num_bytes: int
    number_format: str


def convert_checkpoint(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    dtype: str | None = None,
    quantization: str = "none",
    on_progress: Callable[[int, int], None] | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> ConversionReport:
    """Write a checkpoint as a folder with config.json, safetensors, the tokenizer, and a card of what was done.

    Args:
        checkpoint: The checkpoint.
        folder: The folder to write: a new one, or an empty one.
        dtype: "float32", "bfloat16" or "float16"; None for that of the checkpoint's configuration.
        quantization: "none", or "int8": compressed-tensors' W8A8, in which the linear layers of the decoder have 8-bit
            weights with one scale per row, and activations are quantised per token.
        on_progress: Called with the bytes that are written, and with all bytes.
        max_file_bytes: Largest safetensors file.

    Raises:
        ConfigurationError: The folder is not empty, or an option is unknown.
        CheckpointFormatError: A file cannot be read, or a weight is too large for the dtype.
        TensorMismatchError: A tensor is missing, unexpected or of another shape.
    """
    dtype = dtype or checkpoint.dtype
    if dtype not in _DTYPES or quantization not in ("none", "int8"):
        raise ConfigurationError(
            f"dtype {dtype!r} with quantization {quantization!r} cannot be written; use one of {', '.join(_DTYPES)}, and "
            f"'none' or 'int8'"
        )
    source = checkpoint.open_tensors()
    forms = _tensor_forms(checked_shapes(checkpoint, source), _DTYPES[dtype], is_int8=quantization == "int8")
    files = _assign_files(forms, max_file_bytes)
    report = ConversionReport(
        folder, len(files), sum(map(num_bytes, forms.values())), dtype + ", int8" * (quantization == "int8")
    )
    with _new_folder(folder) as place:
        done = 0
        for name, contents in files.items():
            with SafetensorsWriter(place / name, contents) as writer:
                for written in _write_tensors(source, contents, writer):
                    done += written
                    if on_progress is not None:
                        on_progress(done, report.num_bytes)
        if len(files) > 1:
            _write_index(place, files, report.num_bytes)
        padding_id = _write_tokenizer(place, checkpoint)
        _write_json(place / "config.json", _config(checkpoint, dtype, quantization, padding_id))
        (place / "README.md").write_text(_card(checkpoint, report), encoding="utf-8")
    return report


def _tensor_forms(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, *, is_int8: bool
) -> dict[str, TensorForm]:
    """Return dtype and shape of each tensor to write; the codes of a linear layer are followed by its scales."""
    forms: dict[str, TensorForm] = {}
    for name, shape in shapes.items():
        is_coded = is_int8 and name.startswith("model.layers.") and len(shape) == 2  # noqa: PLR2004
        forms[name] = (torch.int8 if is_coded else dtype, shape)
        if is_coded:
            forms[name + _SCALE] = (torch.float32, (shape[0], 1))
    return forms


def _assign_files(forms: Mapping[str, TensorForm], max_bytes: int) -> dict[str, dict[str, TensorForm]]:
    """Return the tensors of each file, in order; a layer's scales are in the file of its codes."""
    groups: list[dict[str, TensorForm]] = [{}]
    size = 0
    for name, form in forms.items():
        size += num_bytes(form)
        if size > max_bytes and groups[-1] and not name.endswith(_SCALE):
            groups.append({})
            size = num_bytes(form)
        groups[-1][name] = form
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


def _write_tensors(
    source: TensorSource, forms: Mapping[str, TensorForm], writer: SafetensorsWriter
) -> Iterator[int]:
    """Copy tensors, and yield the bytes that each step writes."""
    for name, (dtype, shape) in forms.items():
        if dtype is torch.int8:
            yield from _write_codes(source, name, shape, writer)
        elif not name.endswith(_SCALE):
            for first_row, rows in _blocks(source, name, shape, dtype):
                writer.write_rows(name, rows, first_row)
                yield rows.nbytes


def _write_codes(
    source: TensorSource, name: str, shape: tuple[int, ...], writer: SafetensorsWriter
) -> Iterator[int]:
    """Write the codes of a linear layer, then its scales; codes that the checkpoint has are copied."""
    stored = source if isinstance(source, QuantizedSource) and source.has_int8_rows(name) else None
    scales = [] if stored is None else [stored.row_scales(name)[:, None]]
    for first_row, rows in _blocks(source, name, shape, torch.float32 if stored is None else torch.int8):
        codes = rows
        if stored is None:
            codes, scale = quantize_rows(rows, INT8_MAX)
            scales.append(scale)
        writer.write_rows(name, codes, first_row)
        yield codes.nbytes
    writer.write_rows(name + _SCALE, torch.cat(scales))
    yield sum(scale.nbytes for scale in scales)


def _blocks(
    source: TensorSource, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the rows of each block of a tensor, in one buffer.

    Raises:
        CheckpointFormatError: A number is not finite.
    """
    num_rows = max(1, READ_BLOCK_BYTES // max(1, dtype.itemsize * math.prod(shape[1:])))
    buffer = torch.empty(min(shape[0], num_rows), *shape[1:], dtype=dtype)
    for first_row in range(0, shape[0], num_rows):
        rows = buffer[: shape[0] - first_row]
        source.read_rows(name, rows, first_row)
        if not all(math.isfinite(bound.item()) for bound in torch.aminmax(rows)):
            raise CheckpointFormatError(
                f"{name} has weights that are not finite in {str(dtype).removeprefix('torch.')}; use another dtype"
            )
        yield first_row, rows


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder` that is synchronised and renamed to it at the end, and removed after an error."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            f"{str(folder)!r} exists and is not an empty folder; name another one, or remove it"
        )
    if folder.exists() and (folder.is_mount() or folder.samefile(Path.cwd())):
        raise ConfigurationError(
            f"{str(folder)!r} is the working folder or a mount point, which cannot be replaced; name a folder in it"
        )
    if not folder.absolute().parent.is_dir():
        raise ConfigurationError(
            f"there is no folder {str(folder.absolute().parent)!r}, in which to write; create it"
        )
    place = folder.absolute().with_name(f".{folder.name}.{secrets.token_hex(4)}")
    place.mkdir()
    try:
        yield place
        for path in [*place.rglob("*"), place]:
            fsync_path(path)
        place.rename(folder)
        fsync_path(folder.absolute().parent)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_index(place: Path, files: Mapping[str, Mapping[str, TensorForm]], total: int) -> None:
    weight_map = {name: file for file, contents in files.items() for name in contents}
    _write_json(
        place / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _config(checkpoint: Checkpoint, dtype: str, quantization: str, padding_id: int | None) -> dict[str, Any]:
    """Return the contents of config.json: the checkpoint's own, with what was changed.

    What a GGUF file does not say is left to transformers, whose classifiers need a padding token for more than one text.
    """
    dropped = ("quantization_config", "torch_dtype", "auto_map")
    config = {key: value for key, value in checkpoint.config.items() if key not in dropped}
    if checkpoint.gguf is not None:
        config = {key: value for key, value in config.items() if value is not None}
    task = "SequenceClassification" if checkpoint.has_classifier else "CausalLM"
    name = re.sub(r"For\w+$", f"For{task}", str(checkpoint.config["architectures"][0]))
    config |= {"architectures": [name], "tie_word_embeddings": checkpoint.is_tied, "dtype": dtype}
    if checkpoint.has_classifier and config.get("pad_token_id") is None:
        config["pad_token_id"] = padding_id
    if checkpoint.has_classifier and len(config.get("id2label") or ()) != 1:
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if quantization == "int8":
        config["quantization_config"] = _w8a8(["score" if checkpoint.has_classifier else "lm_head"])
    return config


def _w8a8(ignored: list[str]) -> dict[str, Any]:
    """Return the settings of compressed-tensors' W8A8: symmetric codes per row and, when they are computed, per token."""
    common = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": common | {"strategy": "channel", "dynamic": False},
        "input_activations": common | {"strategy": "token", "dynamic": True},
        "format": "int-quantized",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
    }


def _write_tokenizer(place: Path, checkpoint: Checkpoint) -> int | None:
    """Copy the tokenizer and the records of a fine-tune, or write a GGUF file's tokenizer; return the padding's id."""
    for name in _COPIED if checkpoint.gguf is None else ("rerank_recipe.json",):
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, place / name)
    for origin in (checkpoint.folder, *(adapter.folder for adapter in checkpoint.adapters)):
        if (origin / _ANSWERS).is_file():
            (place / _ANSWERS).parent.mkdir(exist_ok=True)
            shutil.copyfile(origin / _ANSWERS, place / _ANSWERS)
    stored = place / "tokenizer.json"
    if checkpoint.tokenizer_json is not None:
        stored.write_text(checkpoint.tokenizer_json, encoding="utf-8")
    padding_id = _padding_id(read_json(stored)) if stored.is_file() else None
    if checkpoint.tokenizer_json is not None:
        padding = {} if padding_id is None else {"pad_token": _PAD_TOKEN}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"} | padding
        _write_json(place / "tokenizer_config.json", settings)
    return padding_id


def _padding_id(tokenizer: Mapping[str, Any]) -> int | None:
    """Return the id of Qwen's padding token in the contents of a tokenizer.json."""
    added = [token for token in tokenizer.get("added_tokens") or () if isinstance(token, dict)]
    return next((token.get("id") for token in added if token.get("content") == _PAD_TOKEN), None)


def _card(checkpoint: Checkpoint, report: ConversionReport) -> str:
    """Return the text of README.md."""
    revision = f" at revision `{checkpoint.revision}`" if checkpoint.revision else ""
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("qwen-rerank-plugins", "torch", "safetensors")
    )
    origin = f"Read `{_public_name(checkpoint.name)}`{revision}, stored as {checkpoint.weight_format}"
    steps = [
        f"{origin}, with the fingerprint `{fingerprint(checkpoint)}`.",
        *map(_merged, checkpoint.adapters),
        f"Wrote {report.num_bytes:,} bytes of tensors as {report.number_format}, each number rounded once.",
    ]
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-ranking\n---\n\n"
        f"# {report.folder.name}\n\nMade by `qwen-rerank convert`, with {versions}. The licence of its source holds.\n\n{numbered}\n"
    )


def _merged(adapter: Adapter) -> str:
    names = f"`{_public_name(adapter.name)}`, trained on `{_public_name(adapter.base)}`"
    return f"Merged the adapter {names}, with the weight {adapter.weight:g}."


def _public_name(name: str) -> str:
    """Return a hub id as it is, and the last part of a path, which says nothing about the machine."""
    return (
        name if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not Path(name).exists() else Path(name).name
    )
