"""What a file or a folder is, if it is not a reranker's checkpoint that can be read, and what to do about it.

This module knows names, first bytes and configurations, and nothing of tensors. No pickle is ever opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.errors import CheckpointFormatError

__all__ = ["PICKLE", "file_kind", "other_weights", "reject_files", "reject_other_models"]

PICKLE = "a pickle, which can run code and is rejected; convert it to safetensors"
_RERANKER = "use a reranker such as 'Qwen/Qwen3-Reranker-0.6B'"
_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder",
    b"<!doctype": "a web page, not the file itself; download it again",
    b"<html": "a web page, not the file itself; download it again",
    b"gguf": "a GGUF file; name the file itself as the model",
    b"pk\x03\x04": PICKLE,
    b"\x80": PICKLE,
}
"""First bytes of a file, in lower case → what the file is instead of a part of a checkpoint."""

_ORIGINAL = "give the folder of the original safetensors"
_OTHER_WEIGHTS = {
    **dict.fromkeys(
        ("._____temp/**/*.safetensors", "**/*.incomplete", "*.part", "*.aria2", "*.crdownload"),
        "is not downloaded completely ({}); run the download again",
    ),
    "model-*-of-*.safetensors": "has shards such as {}, but not their index model.safetensors.index.json; download it too",
    "*.safetensors": "has its weights in {}; rename it to model.safetensors if it is the whole model",
    "**/openvino*.xml": f"holds an OpenVINO model ({{}}), which is not supported; {_ORIGINAL}",
    "**/*.onnx": f"holds an ONNX model ({{}}), which is not supported; {_ORIGINAL}",
    "*.h5": f"holds TensorFlow weights ({{}}), which are not supported; {_ORIGINAL}",
    "*.msgpack": f"holds Flax weights ({{}}), which are not supported; {_ORIGINAL}",
    **dict.fromkeys(
        ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"),
        "has its weights in pickle files, which can run code and are rejected ({}); convert them to safetensors",
    ),
}
"""Files in a folder without safetensors, in the order of their weight → what the folder is."""


def reject_files(paths: Iterable[Path]) -> None:
    """Reject files whose first bytes are not those of a part of a checkpoint; missing ones are not looked at.

    Raises:
        CheckpointFormatError: A file is another one than its name says.
    """
    for path in paths:
        kind = file_kind(path) if path.is_file() else None
        if kind is not None:
            raise CheckpointFormatError(f"{str(path)!r} is {kind}")


def file_kind(path: Path) -> str | None:
    """Return what a file is, if its first bytes are not those of a part of a checkpoint."""
    with path.open("rb") as file:
        start = file.read(32)
    if start[8:9] == b"{":  # safetensors: the length of the header may begin with any bytes
        return None
    kinds = (kind for magic, kind in _STARTS.items() if start.lower().startswith(magic))
    return next(kinds, None) if start else "empty; download it again"


def other_weights(folder: Path) -> str | None:
    """Return what is wrong with a folder without readable weights, by the weights that it has."""
    for pattern, problem in _OTHER_WEIGHTS.items():
        found = next(iter(sorted(folder.glob(pattern))), None)
        if found is not None:
            return problem.format(found.relative_to(folder))
    return None


def reject_other_models(model: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Reject folders that look like a reranker's checkpoint but are not.

    Args:
        model: Name of the checkpoint, for messages.
        folder: Its folder.
        config: The contents of config.json.

    Raises:
        CheckpointFormatError: The folder holds something else.
    """
    quantisation = config.get("quantization_config")
    settings = quantisation if isinstance(quantisation, Mapping) else {}
    problems = {
        f"is an embedding model, and its scores would be noise; {_RERANKER}": _is_embedding_model(folder),
        f"is a vision-language model, and only text is supported; {_RERANKER}": "vision_config" in config
        or "_vl" in str(config.get("model_type")),
        "holds weights that bitsandbytes quantised, which only that package reads; give the model that they were made from, with "
        "quantization 'int8' if memory is short": settings.get("quant_method") == "bitsandbytes"
        or bool(settings.get("load_in_4bit") or settings.get("load_in_8bit")),
        "is a conversion for MLX, whose quantised weights are not supported; give the model that it was made from": isinstance(
            config.get("quantization"), Mapping
        ),
    }
    problem = next((text for text, is_so in problems.items() if is_so), None)
    if problem is not None:
        raise CheckpointFormatError(f"{model!r} {problem}")


def _is_embedding_model(folder: Path) -> bool:
    """Whether sentence-transformers would load a folder as an embedding model; weights and architecture are a reranker's."""
    if (folder / "1_Pooling").is_dir():
        return True
    modules, settings = folder / "modules.json", folder / "config_sentence_transformers.json"
    if modules.is_file():
        return b"Pooling" in modules.read_bytes()
    try:
        saved = json.loads(settings.read_bytes())
        return bool(saved.get("model_type", "SentenceTransformer") != "CrossEncoder")
    except (OSError, ValueError, AttributeError):
        return False
