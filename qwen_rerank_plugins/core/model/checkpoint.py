"""Find a checkpoint, read its configuration, and compute its fingerprint.

This module knows files and configurations, and nothing of text. Only safetensors are accepted, no pickle and
no remote code; what the decoder does not compute is rejected here.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.core.model.attention import AttentionShape
from qwen_rerank_plugins.core.model.decoder import Architecture
from qwen_rerank_plugins.errors import CheckpointFormatError, CheckpointNotFoundError, ConfigurationError

__all__ = ["DEMO", "Checkpoint", "fingerprint", "open_checkpoint"]

logger = logging.getLogger(__name__)

DEMO = "demo"
"""Name of the checkpoint that ships with the package."""

_HUB_FILES = [
    *("config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "rerank_recipe.json"),
    *("adapter_config.json", "modules.json"),  # these identify an adapter or an embedding model
]
_HUB_IDS = tuple(f"Qwen/Qwen3-Reranker-{size}" for size in ("0.6B", "4B", "8B"))
_PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_GGUF = "a GGUF file, which is not supported yet; use the safetensors checkpoint that it was converted from"
_PICKLE = "a pickle, which can run code and is rejected; convert it to safetensors"
_FOREIGN_STARTS = {
    b"": "empty; download it again",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder",
    b"<!doctype": "a web page, not the file itself; download it again",
    b"<html": "a web page, not the file itself; download it again",
    b"gguf": _GGUF,
    b"pk\x03\x04": _PICKLE,
    b"\x80": _PICKLE,
}
"""First bytes of a file, in lower case → what the file is instead of a part of a checkpoint."""

_MODEL_TYPES = {"qwen2": "qwen2", "qwen3": "qwen3", "zeroentropy": "qwen3"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk whose configuration has been read.

    Attributes:
        name: The name as configured.
        folder: The folder of its files.
        revision: The hub's commit; None for a folder.
        config: The contents of config.json.
        architecture: The decoder's shape.
        model_type: As in config.json.
        has_classifier: Whether it is a sequence-classification conversion, whose head is one row of its own.
        is_tied: Whether the head is the embedding.
        files: The safetensors files.
    """

    name: str
    folder: Path
    revision: str | None
    config: Mapping[str, Any]
    architecture: Architecture
    model_type: str
    has_classifier: bool
    is_tied: bool
    files: tuple[Path, ...]

    @property
    def dtype(self) -> str:
        """The dtype that config.json names; "float32" if it names none."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint and read its configuration. Files from the hub are downloaded unless they are cached.

    Args:
        model: "demo", a folder, or a hub id such as "Qwen/Qwen3-Reranker-0.6B".
        revision: Branch, tag or commit on the hub.

    Raises:
        CheckpointNotFoundError: The folder does not exist, or the download failed.
        CheckpointFormatError: The files are incomplete, broken or of an unsupported kind.
        ConfigurationError: A revision was given for a folder.
    """
    folder, commit = _locate(model, revision)
    _reject_other_models(model, folder)
    tokenizer = ("tokenizer.json",) if (folder / "tokenizer.json").is_file() else ("vocab.json", "merges.txt")
    index = "model.safetensors.index.json"
    _reject_foreign_files(folder / name for name in ("config.json", *tokenizer, index))
    config = _read_json(folder / "config.json")
    model_type = str(config.get("model_type"))
    if model_type not in _MODEL_TYPES:
        raise CheckpointFormatError(
            f"{model!r} has the model type {model_type!r}, which is not supported; use one of "
            f"{', '.join(sorted(_MODEL_TYPES))}"
        )
    has_classifier = _has_classifier(model, config)
    files = _weight_files(model, folder)
    _reject_foreign_files(files)
    return Checkpoint(
        name=model,
        folder=folder,
        revision=commit,
        config=config,
        architecture=_architecture(model, config, _MODEL_TYPES[model_type]),
        model_type=model_type,
        has_classifier=has_classifier,
        is_tied=bool(config.get("tie_word_embeddings", False)),
        files=files,
    )


def _locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the checkpoint's folder, and its commit if it comes from the hub."""
    folder = Path(model).expanduser()
    if model == DEMO:
        from qwen_rerank_plugins.demo import CHECKPOINT_DIR

        folder = Path(CHECKPOINT_DIR)
    if model and folder.is_dir():
        if revision is not None:
            raise ConfigurationError(
                f"revision {revision!r} was given, but {model!r} is a folder, which has none; leave it out"
            )
        return folder, None
    if folder.is_file():
        problem = _foreign_kind(folder) or "a file"
        raise CheckpointFormatError(f"{model!r} is {problem}. Give the folder of a checkpoint")
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise CheckpointNotFoundError(
            f"no such folder: {model!r}; give a folder, a hub id such as 'Qwen/Qwen3-Reranker-0.6B', "
            f"or 'demo'{_suggestion(model)}"
        )
    return _download(model, revision)


def _download(model: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client raises errors of several libraries
        raise CheckpointNotFoundError(
            f"{model!r}{f' at revision {revision!r}' if revision else ''} was not found: no such folder, "
            f"and the download from the hub failed ({type(error).__name__}: {_first_line(error)}). Without a "
            f"network, give a local folder, or 'demo' for the small checkpoint that ships with the package{_suggestion(model)}"
        ) from error
    return folder, folder.name


def _suggestion(model: str) -> str:
    """Return a question with the hub id that a name most likely means, or nothing."""
    known = {name.casefold().rpartition("/")[2]: name for name in _HUB_IDS}
    near = difflib.get_close_matches(model.casefold().rstrip("/").rpartition("/")[2], known, 1, 0.75)
    return f". Did you mean {known[near[0]]!r}?" if near and known[near[0]] != model else ""


def _reject_other_models(model: str, folder: Path) -> None:
    """Reject what looks like a checkpoint of a reranker and is none."""
    has_weights = any(folder.glob("model*.safetensors*"))
    if not has_weights and (folder / "adapter_config.json").is_file():
        base = _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise CheckpointFormatError(
            f"{model!r} is an adapter of {base!r}, which is not supported yet; merge it into that model (PEFT: "
            f"merge_and_unload), save the result as safetensors, and give that folder"
        )
    if not has_weights and (any(folder.glob("*.gguf")) or model.casefold().endswith("-gguf")):
        raise CheckpointFormatError(f"{model!r} holds {_GGUF}")
    modules = folder / "modules.json"
    if (folder / "1_Pooling").is_dir() or (modules.is_file() and b"Pooling" in modules.read_bytes()):
        raise CheckpointFormatError(
            f"{model!r} is an embedding model, with a pooling layer, and its scores would be noise; use a reranker "
            f"such as 'Qwen/Qwen3-Reranker-0.6B'"
        )


def _reject_foreign_files(paths: Iterable[Path]) -> None:
    for path in paths:
        kind = _foreign_kind(path) if path.is_file() else None
        if kind is not None:
            raise CheckpointFormatError(f"{str(path)!r} is {kind}")


def _foreign_kind(path: Path) -> str | None:
    """Return what a file is, if its first bytes are not those of a part of a checkpoint."""
    with path.open("rb") as file:
        start = file.read(32)
    if start[8:9] == b"{":  # safetensors: the length of the header may begin with any bytes
        return None
    kinds = (kind for magic, kind in _FOREIGN_STARTS.items() if magic and start.lower().startswith(magic))
    return next(kinds, None) if start else _FOREIGN_STARTS[b""]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no details"])[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointFormatError(
            f"{str(path.parent)!r} is not a checkpoint: it has no {path.name}"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointFormatError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointFormatError(
            f"{str(path)!r} holds a JSON {type(content).__name__}; it must hold an object"
        )
    return content


def _has_classifier(model: str, config: Mapping[str, Any]) -> bool:
    names = config.get("architectures") or [""]
    if str(names[0]).endswith("ForSequenceClassification"):
        labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
        if labels != 1:
            raise CheckpointFormatError(
                f"{model!r} classifies into {labels} labels; use a checkpoint with one"
            )
        return True
    if not str(names[0]).endswith("ForCausalLM"):
        raise CheckpointFormatError(
            f"{model!r} has the unsupported architecture {names[0]!r}; use one that ends in ForCausalLM or "
            f"ForSequenceClassification"
        )
    return False


def _architecture(model: str, config: Mapping[str, Any], model_type: str) -> Architecture:
    _reject_unsupported(model, config)
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        shape = AttentionShape(
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or _default_head_dim(model_type, hidden, heads)),
        )
        architecture = Architecture(
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            attention=shape,
            vocab_size=int(config["vocab_size"]),
            max_positions=int(config.get("max_position_embeddings") or 32768),
            rms_eps=float(config.get("rms_norm_eps") or 1e-6),
            rope_theta=float(_rope(config).get("rope_theta") or config.get("rope_theta") or 10000.0),
            qk_norm=model_type == "qwen3",
            qkv_bias=model_type == "qwen2",
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointFormatError(
            f"config.json of {model!r} has a missing or invalid field: {error}"
        ) from error
    if not _is_valid_shape(architecture):
        raise CheckpointFormatError(f"config.json of {model!r} describes an impossible shape: {architecture}")
    return architecture


def _is_valid_shape(shape: Architecture) -> bool:
    heads = shape.attention
    sizes = (
        shape.hidden_size,
        shape.intermediate_size,
        shape.num_layers,
        shape.vocab_size,
        shape.max_positions,
    )
    if min(*sizes, heads.num_heads, heads.num_kv_heads, heads.head_dim) < 1:
        return False
    return heads.num_heads % heads.num_kv_heads == 0 and heads.head_dim % 2 == 0


def _default_head_dim(model_type: str, hidden: int, heads: int) -> int:
    """Return the head size where config.json names none, with transformers' defaults."""
    return 128 if model_type == "qwen3" else hidden // heads


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of the rotary embedding, which newer files keep in a separate object."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise CheckpointFormatError(
            f"config.json describes the rotary embedding as {parameters!r}; it must be an object"
        )
    return parameters


def _reject_unsupported(model: str, config: Mapping[str, Any]) -> None:
    """Reject what this decoder does not compute."""
    rope = str(_rope(config).get("rope_type") or _rope(config).get("type") or "default")
    layer_types = set(config.get("layer_types") or ["full_attention"])
    problems = {
        f"the rotary embedding {rope!r}": rope != "default",
        f"the activation {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "sliding-window attention": bool(config.get("use_sliding_window"))
        or layer_types != {"full_attention"},
        "a bias in every attention projection": bool(config.get("attention_bias")),
        "quantised weights": bool(config.get("quantization_config")),
    }
    found = [name for name, present in problems.items() if present]
    if found:
        raise CheckpointFormatError(f"{model!r} has {' and '.join(found)}, which is not supported")


def _weight_files(model: str, folder: Path) -> tuple[Path, ...]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        weight_map = _read_json(index).get("weight_map") or {}
        if not isinstance(weight_map, dict):
            raise CheckpointFormatError(
                f"{str(index)!r} has the weight_map {weight_map!r}; it must be an object"
            )
        names = sorted(set(map(str, weight_map.values())))
        if any(Path(name).name != name for name in names):
            raise CheckpointFormatError(
                f"{str(index)!r} names files outside its folder; they must be beside it"
            )
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise CheckpointFormatError(
                f"{model!r} lacks the files {', '.join(missing) or 'of its index'}; download it again"
            )
        return tuple(folder / name for name in names)
    if any(next(folder.glob(pattern), None) for pattern in _PICKLE_PATTERNS):
        raise CheckpointFormatError(
            f"{model!r} has its weights in pickle files, which can run code and are rejected; "
            f"convert them to safetensors"
        )
    raise CheckpointFormatError(
        f"{str(folder)!r} has neither model.safetensors nor model.safetensors.index.json"
    )


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return a digest of the checkpoint: configuration, tokenizer, headers, sizes, and times or revision."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _fingerprint_parts(checkpoint):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _fingerprint_parts(checkpoint: Checkpoint) -> Iterator[bytes]:
    for name in ("config.json", "tokenizer.json", "vocab.json", "merges.txt", "rerank_recipe.json"):
        path = checkpoint.folder / name
        yield path.read_bytes() if path.is_file() else b""
    for path in checkpoint.files:
        status = path.stat()
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            yield file.read(min(header_size, 1 << 24))
        version = checkpoint.revision or str(status.st_mtime_ns)
        yield f"{path.name} {status.st_size} {version}".encode()
