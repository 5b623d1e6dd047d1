"""Find a checkpoint's files on disk or on a hub, and read its JSON files.

This module knows file names, and nothing of tensors.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from qwen_rerank_plugins.core.checkpoints import foreign
from qwen_rerank_plugins.core.checkpoints.hub import Hub, download
from qwen_rerank_plugins.errors import CheckpointFormatError, CheckpointNotFoundError, ConfigurationError

__all__ = [
    "DEMO",
    "adapter_file",
    "find_gguf",
    "is_adapter",
    "is_gguf",
    "locate",
    "locate_adapter",
    "read_config",
    "read_json",
    "trained_answers",
    "weight_files",
]

DEMO = "demo"
"""Name of the checkpoint that ships with the package."""

_INDEX = "model.safetensors.index.json"
_ANSWERS_FILE = "1_LogitScore/config.json"
_HUB_FILES = [
    *("config.json", "model.safetensors", _INDEX, "model-*.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "rerank_recipe.json"),
    # These identify an embedding model, and the answers of a fine-tune.
    *("modules.json", "config_sentence_transformers.json", _ANSWERS_FILE),
]
_ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors", _ANSWERS_FILE]
_HUB_IDS = tuple(f"Qwen/Qwen3-Reranker-{size}" for size in ("0.6B", "4B", "8B"))


def locate(model: str, revision: str | None, hub: Hub = "huggingface") -> tuple[Path, str | None]:
    """Return the checkpoint's folder or GGUF file, and its commit if it comes from a hub that names it.

    Raises:
        CheckpointNotFoundError: The folder does not exist, or the download failed.
        CheckpointFormatError: The name is that of a file of another kind than GGUF.
        ConfigurationError: A revision was given for a folder.
        MissingDependencyError: The hub's package is not installed.
    """
    folder = Path(model).expanduser()
    if model == DEMO:
        from qwen_rerank_plugins.demo import CHECKPOINT_DIR

        folder = Path(CHECKPOINT_DIR)
    place, _, file = model.partition(":")
    if file.endswith(".gguf") and not folder.exists():
        return _locate_hub_file(place, revision, PurePosixPath(file), hub)
    return _locate(model, folder, revision, [*_HUB_FILES, *_ADAPTER_FILES], hub)


def _locate_hub_file(
    repository: str, revision: str | None, file: PurePosixPath, hub: Hub
) -> tuple[Path, str | None]:
    """Return a GGUF file of a repository, and its commit."""
    if file.is_absolute() or ".." in file.parts:
        raise CheckpointNotFoundError(f"{str(file)!r} is outside of the repository {repository!r}")
    parts = re.sub(r"-\d{5}-of-(\d{5}\.gguf)$", r"-*-of-\1", str(file))
    files = [parts, str(file.with_name("rerank_recipe.json"))]
    folder, commit = _locate(repository, Path(repository), revision, files, hub)
    if not (folder / file).is_file():
        raise CheckpointNotFoundError(f"{repository!r} has no file {str(file)!r}")
    return folder / file, commit


def locate_adapter(name: str, hub: Hub = "huggingface") -> tuple[Path, str | None]:
    """Return an adapter's folder, and its commit if it comes from the hub.

    Raises:
        CheckpointNotFoundError: The folder does not exist, or the download failed.
        CheckpointFormatError: The name is that of a file.
    """
    return _locate(name, Path(name).expanduser(), None, _ADAPTER_FILES, hub)


def _locate(
    model: str, folder: Path, revision: str | None, hub_files: list[str], hub: Hub
) -> tuple[Path, str | None]:
    if model and folder.is_dir():
        if revision is not None:
            raise ConfigurationError(
                f"revision {revision!r} was given, but {model!r} is a folder, which has none; leave it out"
            )
        return folder, None
    if folder.is_file() and is_gguf(folder):
        return folder, None
    if folder.is_file():
        problem = foreign.file_kind(folder) or "a file"
        raise CheckpointFormatError(f"{model!r} is {problem}. Give the folder of a checkpoint")
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise CheckpointNotFoundError(
            f"no such folder: {model!r}; give a folder, a hub id such as 'Qwen/Qwen3-Reranker-0.6B', "
            f"or 'demo'{_suggestion(model)}"
        )
    try:
        return download(model, revision, hub_files, hub)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(f"{error}{_suggestion(model)}") from error.__cause__


def _suggestion(model: str) -> str:
    """Return a question with the hub id that a name most likely means, or nothing."""
    known = {name.casefold().rpartition("/")[2]: name for name in _HUB_IDS}
    near = difflib.get_close_matches(model.casefold().rstrip("/").rpartition("/")[2], known, 1, 0.75)
    return f". Did you mean {known[near[0]]!r}?" if near and known[near[0]] != model else ""


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter and no model."""
    return not _has_weights(folder) and (folder / "adapter_config.json").is_file()


def is_gguf(path: Path) -> bool:
    """Return whether a path is a GGUF file, by its first bytes: Ollama's files have no suffix."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def find_gguf(model: str, folder: Path) -> Path | None:
    """Return the GGUF file of a folder without safetensors, the first part of a split one; None if there is none.

    Raises:
        CheckpointFormatError: There are several, or the file is not what its name says.
    """
    files = [] if _has_weights(folder) else sorted(folder.glob("*.gguf"))
    models = [file for file in files if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", file.name)]
    if len(models) > 1:
        names = ", ".join(file.name for file in models)
        raise CheckpointFormatError(f"{model!r} holds several GGUF files; name one of them: {names}")
    foreign.reject_files(file for file in models if not is_gguf(file))
    return models[0] if models else None


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("model*.safetensors*"))


def read_config(model: str, folder: Path) -> dict[str, Any]:
    """Return the contents of config.json.

    Raises:
        CheckpointFormatError: It is missing or broken, the model is of another kind, or a file beside it is not what its name says.
    """
    if not _has_weights(folder) and model.casefold().endswith("-gguf"):
        raise CheckpointFormatError(f"{model!r} holds GGUF files; name one, as in '{model}:Model-Q8_0.gguf'")
    legacy = ("vocab.json", "merges.txt", "tokenizer_config.json")
    tokenizer = ("tokenizer.json",) if (folder / "tokenizer.json").is_file() else legacy
    foreign.reject_files(folder / name for name in (*tokenizer, "rerank_recipe.json"))
    config = read_json(folder / "config.json")
    foreign.reject_other_models(model, folder, config)
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointFormatError: The file is missing, or does not hold an object.
    """
    foreign.reject_files([path])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointFormatError(
            f"{str(path.parent)!r} is not a checkpoint: it has no {path.name}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointFormatError(
            f"{str(path)!r} holds a JSON {type(content).__name__}; it must hold an object"
        )
    return content


def weight_files(model: str, folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a checkpoint.

    Raises:
        CheckpointFormatError: One is missing, or is not what its name says.
    """
    single, index = folder / "model.safetensors", folder / _INDEX
    if single.is_file():
        files: tuple[Path, ...] = (single,)
    elif index.is_file():
        files = _indexed_files(model, index)
    else:
        raise CheckpointFormatError(
            f"{model!r} {foreign.other_weights(folder) or f'has neither {single.name} nor {index.name}'}"
        )
    foreign.reject_files(files)
    return files


def trained_answers(folder: Path) -> tuple[Any, Any] | None:
    """Return the answers' token ids that sentence-transformers wrote beside a fine-tune, if it did.

    Raises:
        CheckpointFormatError: The file is broken.
    """
    path = folder / _ANSWERS_FILE
    if not path.is_file():
        return None
    config = read_json(path)
    return config.get("true_token_id"), config.get("false_token_id")


def adapter_file(name: str, folder: Path) -> Path:
    """Return the file of an adapter's tensors.

    Raises:
        CheckpointFormatError: It is missing, or is not what its name says.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        pickle = (
            f"; adapter_model.bin is {foreign.PICKLE}" if (folder / "adapter_model.bin").is_file() else ""
        )
        raise CheckpointFormatError(f"adapter {name!r} has no {path.name}{pickle}")
    foreign.reject_files([path])
    return path


def _indexed_files(model: str, index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map") or {}
    if not isinstance(weight_map, dict):
        raise CheckpointFormatError(f"{str(index)!r} has the weight_map {weight_map!r}; it must be an object")
    names = sorted(set(map(str, weight_map.values())))
    if any(Path(name).name != name for name in names):
        raise CheckpointFormatError(f"{str(index)!r} names files outside its folder; they must be beside it")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise CheckpointFormatError(
            f"{model!r} lacks the files {', '.join(missing) or 'of its index'}; download it again"
        )
    return tuple(index.parent / name for name in names)
