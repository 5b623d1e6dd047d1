"""A checkpoint: its files, its configuration, and its fingerprint. Its weights are read by `weights`."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.core.checkpoints import folder as folders
from qwen_rerank_plugins.core.checkpoints import gguf_model
from qwen_rerank_plugins.core.checkpoints.adapters import AdaptedSource, Adapter, read_adapter
from qwen_rerank_plugins.core.checkpoints.architecture import read_architecture, read_has_classifier
from qwen_rerank_plugins.core.checkpoints.gguf_file import GgufFile, read_gguf, split_parts
from qwen_rerank_plugins.core.checkpoints.hub import Hub
from qwen_rerank_plugins.core.checkpoints.quantization import Quantization, read_quantization
from qwen_rerank_plugins.core.checkpoints.quantized_source import QuantizedSource
from qwen_rerank_plugins.core.checkpoints.safetensors_file import SafetensorsSource
from qwen_rerank_plugins.core.checkpoints.tensors import TensorSource
from qwen_rerank_plugins.core.model.decoder import Architecture
from qwen_rerank_plugins.errors import CheckpointFormatError, CheckpointNotFoundError

logger = logging.getLogger(__name__)

__all__ = ["Checkpoint", "content_fingerprint", "fingerprint", "open_checkpoint"]

_TIED = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk whose configuration has been read.

    Attributes:
        name: The name as configured.
        folder: The folder of its files.
        revision: The hub's commit; None for a folder.
        config: The contents of config.json, or what a GGUF file says in its place.
        architecture: The decoder's shape.
        model_type: As in config.json.
        has_classifier: Whether it is a sequence-classification conversion, whose head is one row of its own.
        is_tied: Whether the head is the embedding.
        files: The safetensors or GGUF files.
        adapters: The adapters that are merged while the tensors are read.
        gguf: The headers of GGUF files; None for safetensors.
        tokenizer_json: The contents of a tokenizer.json, from a GGUF file; None where the folder has a tokenizer.
        quantization: How safetensors are quantised; None if they are not.
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
    adapters: tuple[Adapter, ...] = ()
    gguf: GgufFile | None = field(default=None, repr=False)
    tokenizer_json: str | None = field(default=None, repr=False)
    quantization: Quantization | None = None

    @property
    def dtype(self) -> str:
        """The dtype that config.json names; "float32" if it names none."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    @property
    def weight_format(self) -> str:
        """How the weights are stored: "safetensors", "compressed-tensors int8", or a number format such as "GGUF Q8_0"."""
        if self.gguf is not None:
            return f"GGUF {gguf_model.weight_format(self.gguf)}"
        return "safetensors" if self.quantization is None else self.quantization.weight_format

    @property
    def known_names(self) -> list[str]:
        """What the model is called: by the hub, by its configuration or by a GGUF file. A folder's name may be anything."""
        names = [self.name if self.revision else "", self.config.get("_name_or_path")]
        return [str(name) for name in names if name]

    def trained_answers(self) -> list[tuple[Any, Any]]:
        """Return the answers' token ids that a fine-tune, or an adapter, says it was trained with.

        Raises:
            CheckpointFormatError: A file that holds them is broken.
        """
        places = [self.folder, *(adapter.folder for adapter in self.adapters)]
        return [answers for place in places if (answers := folders.trained_answers(place))]

    def open_tensors(self) -> TensorSource:
        """Open the files and read their headers.

        Raises:
            CheckpointFormatError: A file is not valid.
            TensorMismatchError: A tensor is stored twice, or an adapter does not fit.
        """
        source: TensorSource
        if self.gguf is not None:
            source = gguf_model.GgufSource(self.gguf)
        else:
            stored = SafetensorsSource(self.files)
            if stored.is_bare and not self.has_classifier:
                logger.warning(
                    "checkpoint %r was saved without a head, as embedding models are; if it is one, its scores are noise",
                    self.name,
                )
            source = stored if self.quantization is None else QuantizedSource(stored, self.quantization)
        if not self.adapters:
            return source
        is_tied = bool(self.config.get("tie_word_embeddings")) and not self.is_tied
        return AdaptedSource(source, self.adapters, unties=is_tied)


def open_checkpoint(
    model: str,
    revision: str | None = None,
    adapters: Mapping[str, float] | None = None,
    hub: Hub = "huggingface",
) -> Checkpoint:
    """Find a checkpoint and read its configuration. Files from a hub are downloaded unless they are cached.

    Args:
        model: "demo", a folder, a GGUF file, or a hub id such as "Qwen/Qwen3-Reranker-0.6B", with a GGUF file of it behind a
            colon. For an adapter, its base is opened too.
        revision: Branch, tag or commit on the hub.
        adapters: Folder or hub id → weight, of the adapters that are merged into the model, in their order.
        hub: Where models and adapters that are not folders come from.

    Raises:
        CheckpointNotFoundError: The folder does not exist, or the download failed.
        CheckpointFormatError: The files are incomplete, broken or of an unsupported kind.
        TensorMismatchError: An adapter's tensors are not those of a LoRA adapter.
        ConfigurationError: A revision was given for a folder.
        MissingDependencyError: The package of the hub, or of a file's format, is not installed.
    """
    folder, commit = folders.locate(model, revision, hub)
    added = [
        read_adapter(name, *folders.locate_adapter(name, hub), weight)
        for name, weight in (adapters or {}).items()
    ]
    own = [read_adapter(model, folder, commit, 1.0)] if folders.is_adapter(folder) else []
    if own:
        folder, commit = _locate_base(own[0], hub)
    file = folder if folders.is_gguf(folder) else folders.find_gguf(model, folder)
    checkpoint = _open_folder(model, folder, commit) if file is None else _open_gguf(model, file, commit)
    for adapter in added:
        _warn_of_other_base(adapter, [own[0].base] if own else checkpoint.known_names)
    changed = {name for adapter in own + added for name in (*adapter.low_rank, *adapter.replaced)}
    return replace(
        checkpoint,
        has_classifier=checkpoint.has_classifier or "score.weight" in changed,
        is_tied=checkpoint.is_tied and changed.isdisjoint(_TIED),
        adapters=(*own, *added),
    )


def _open_folder(model: str, folder: Path, commit: str | None) -> Checkpoint:
    config = folders.read_config(model, folder)
    quantization = read_quantization(model, config)
    files = folders.weight_files(model, folder)
    return _checkpoint(model, folder, commit, config, files=files, quantization=quantization)


def _open_gguf(model: str, path: Path, commit: str | None) -> Checkpoint:
    files = split_parts(path)
    gguf = read_gguf(files)
    config = gguf_model.read_config(model, gguf)
    tokenizer_json = gguf_model.read_tokenizer(model, gguf)
    tensors = GgufFile({}, gguf.tensors)  # the vocabulary is in the tokenizer now
    return _checkpoint(
        model, path.parent, commit, config, files=files, gguf=tensors, tokenizer_json=tokenizer_json
    )


def _checkpoint(
    model: str, folder: Path, commit: str | None, config: Mapping[str, Any], **others: Any
) -> Checkpoint:
    return Checkpoint(
        name=model,
        folder=folder,
        revision=commit,
        config=config,
        architecture=read_architecture(model, config),
        model_type=str(config["model_type"]),
        has_classifier=read_has_classifier(model, config),
        is_tied=bool(config.get("tie_word_embeddings", False)),
        **others,
    )


def _locate_base(adapter: Adapter, hub: Hub) -> tuple[Path, str | None]:
    """Return the folder and the commit of the model that an adapter was trained on."""
    hint = f"; set `model` to that model, and `adapters` to {adapter.name!r}"
    try:
        folder, commit = folders.locate(adapter.base, adapter.base_revision, hub)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(f"{adapter.name!r} is an adapter whose base {error}{hint}") from error
    if folders.is_adapter(folder):
        raise CheckpointFormatError(
            f"{adapter.name!r} is an adapter of {adapter.base!r}, which is an adapter itself{hint}"
        )
    return folder, commit


def _warn_of_other_base(adapter: Adapter, names: list[str]) -> None:
    """Log a warning if an adapter was trained on another model than that of these names. A folder's name may be anything."""
    if not adapter.base or adapter.base.startswith((".", "/", "~")) or not names:
        return
    base, *others = (
        re.sub(r"[^a-z0-9]", "", name.casefold().rpartition("/")[2]) for name in (adapter.base, *names)
    )
    if not any(base in other or other in base for other in others):
        logger.warning(
            "adapter %r was trained on %r, but is merged into %r; if that is another model, scores are noise",
            *(adapter.name, adapter.base, names[0]),
        )


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return a digest of the checkpoint: configuration, tokenizer, headers, sizes, times or revision, and adapters."""
    return _digest(_fingerprint_parts(checkpoint, _file_parts))


def content_fingerprint(checkpoint: Checkpoint) -> str:
    """Return a digest of the checkpoint's contents, the same wherever its files are. Reads the whole weights."""
    return _digest(_fingerprint_parts(checkpoint, _content_parts))


def _digest(parts: Iterator[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _fingerprint_parts(
    checkpoint: Checkpoint, file_parts: Callable[[Path, str | None], Iterator[bytes]]
) -> Iterator[bytes]:
    names = ("config.json", "tokenizer.json", "vocab.json", "merges.txt") if checkpoint.gguf is None else ()
    for name in (*names, "rerank_recipe.json"):
        path = checkpoint.folder / name
        yield path.read_bytes() if path.is_file() else b""
    for path in checkpoint.files:
        yield from file_parts(path, checkpoint.revision)
    for adapter in checkpoint.adapters:
        yield f"adapter {adapter.weight!r}".encode()
        yield (adapter.folder / "adapter_config.json").read_bytes()
        yield from file_parts(folders.adapter_file(adapter.name, adapter.folder), adapter.revision)


def _file_parts(path: Path, revision: str | None) -> Iterator[bytes]:
    status = path.stat()
    with path.open("rb") as file:
        # In a GGUF file, whose header has no size, this is an enormous number.
        header_size = int.from_bytes(file.read(8), "little")
        yield file.read(min(header_size, 1 << 24))
    yield f"{path.name} {status.st_size} {revision or status.st_mtime_ns}".encode()


def _content_parts(path: Path, _: str | None) -> Iterator[bytes]:
    status = path.stat()
    yield _content_digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _content_digest(path: Path, _size: int, _mtime_ns: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
