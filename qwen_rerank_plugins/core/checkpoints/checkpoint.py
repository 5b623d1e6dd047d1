"""A checkpoint: its files, its configuration, and its fingerprint. Its weights are read by `weights`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.core.checkpoints import folder as folders
from qwen_rerank_plugins.core.checkpoints.architecture import read_architecture, read_has_classifier
from qwen_rerank_plugins.core.checkpoints.safetensors_file import SafetensorsSource
from qwen_rerank_plugins.core.checkpoints.tensors import TensorSource
from qwen_rerank_plugins.core.model.decoder import Architecture

__all__ = ["Checkpoint", "fingerprint", "open_checkpoint"]


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

    def open_tensors(self) -> TensorSource:
        """Open the files and read their headers.

        Raises:
            CheckpointFormatError: A file is not valid.
            TensorMismatchError: A tensor is stored twice.
        """
        return SafetensorsSource(self.files)


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
    folder, commit = folders.locate(model, revision)
    folders.reject_other_models(model, folder)
    config = folders.read_config(folder)
    return Checkpoint(
        name=model,
        folder=folder,
        revision=commit,
        config=config,
        architecture=read_architecture(model, config),
        model_type=str(config["model_type"]),
        has_classifier=read_has_classifier(model, config),
        is_tied=bool(config.get("tie_word_embeddings", False)),
        files=folders.weight_files(model, folder),
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
