"""Find a checkpoint's files on disk or on the hub, and reject those of other kinds by what they are.

This module knows file names and first bytes, and nothing of tensors. No pickle is ever read.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

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
    "reject_other_models",
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
    *("modules.json", _ANSWERS_FILE),  # these identify an embedding model, and the answers of a fine-tune
]
_ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors", _ANSWERS_FILE]
_HUB_IDS = tuple(f"Qwen/Qwen3-Reranker-{size}" for size in ("0.6B", "4B", "8B"))
_PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_PICKLE = "a pickle, which can run code and is rejected; convert it to safetensors"
_FOREIGN_STARTS = {
    b"": "empty; download it again",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder",
    b"<!doctype": "a web page, not the file itself; download it again",
    b"<html": "a web page, not the file itself; download it again",
    b"gguf": "a GGUF file; name the file itself as the model",
    b"pk\x03\x04": _PICKLE,
    b"\x80": _PICKLE,
}
"""First bytes of a file, in lower case → what the file is instead of a part of a checkpoint."""


def locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the checkpoint's folder or GGUF file, and its commit if it comes from the hub.

    Raises:
        CheckpointNotFoundError: The folder does not exist, or the download failed.
        CheckpointFormatError: The name is that of a file of another kind than GGUF.
        ConfigurationError: A revision was given for a folder.
    """
    folder = Path(model).expanduser()
    if model == DEMO:
        from qwen_rerank_plugins.demo import CHECKPOINT_DIR

        folder = Path(CHECKPOINT_DIR)
    place, _, file = model.partition(":")
    if file.endswith(".gguf") and not folder.exists():
        return _locate_hub_file(place, revision, PurePosixPath(file))
    return _locate(model, folder, revision, [*_HUB_FILES, *_ADAPTER_FILES])


def _locate_hub_file(repository: str, revision: str | None, file: PurePosixPath) -> tuple[Path, str | None]:
    """Return a GGUF file of a repository, and its commit."""
    if file.is_absolute() or ".." in file.parts:
        raise CheckpointNotFoundError(f"{str(file)!r} is outside of the repository {repository!r}")
    parts = re.sub(r"-\d{5}-of-(\d{5}\.gguf)$", r"-*-of-\1", str(file))
    files = [parts, str(file.with_name("rerank_recipe.json"))]
    folder, commit = _locate(repository, Path(repository), revision, files)
    if not (folder / file).is_file():
        raise CheckpointNotFoundError(f"{repository!r} has no file {str(file)!r}")
    return folder / file, commit


def locate_adapter(name: str) -> tuple[Path, str | None]:
    """Return an adapter's folder, and its commit if it comes from the hub.

    Raises:
        CheckpointNotFoundError: The folder does not exist, or the download failed.
        CheckpointFormatError: The name is that of a file.
    """
    return _locate(name, Path(name).expanduser(), None, _ADAPTER_FILES)


def _locate(model: str, folder: Path, revision: str | None, hub_files: list[str]) -> tuple[Path, str | None]:
    if model and folder.is_dir():
        if revision is not None:
            raise ConfigurationError(
                f"revision {revision!r} was given, but {model!r} is a folder, which has none; leave it out"
            )
        return folder, None
    if folder.is_file() and is_gguf(folder):
        return folder, None
    if folder.is_file():
        problem = _foreign_kind(folder) or "a file"
        raise CheckpointFormatError(f"{model!r} is {problem}. Give the folder of a checkpoint")
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise CheckpointNotFoundError(
            f"no such folder: {model!r}; give a folder, a hub id such as 'Qwen/Qwen3-Reranker-0.6B', "
            f"or 'demo'{_suggestion(model)}"
        )
    return _download(model, revision, hub_files)


def _download(model: str, revision: str | None, files: list[str]) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=files))
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
    _reject_foreign_files(file for file in models if not is_gguf(file))
    return models[0] if models else None


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("model*.safetensors*"))


def reject_other_models(model: str, folder: Path) -> None:
    """Reject what looks like a checkpoint of a reranker and is none.

    Raises:
        CheckpointFormatError: The folder holds something else.
    """
    if not _has_weights(folder) and model.casefold().endswith("-gguf"):
        raise CheckpointFormatError(f"{model!r} holds GGUF files; name one, as in '{model}:Model-Q8_0.gguf'")
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


def read_config(folder: Path) -> dict[str, Any]:
    """Return the contents of config.json.

    Raises:
        CheckpointFormatError: It is missing or broken, or a file beside it is not what its name says.
    """
    tokenizer = ("tokenizer.json",) if (folder / "tokenizer.json").is_file() else ("vocab.json", "merges.txt")
    _reject_foreign_files(folder / name for name in ("config.json", *tokenizer, _INDEX))
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointFormatError: The file is missing, or does not hold an object.
    """
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
    elif any(next(folder.glob(pattern), None) for pattern in _PICKLE_PATTERNS):
        raise CheckpointFormatError(
            f"{model!r} has its weights in pickle files, which can run code and are rejected; "
            f"convert them to safetensors"
        )
    else:
        raise CheckpointFormatError(f"{str(folder)!r} has neither {single.name} nor {index.name}")
    _reject_foreign_files(files)
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
        pickle = f"; adapter_model.bin is {_PICKLE}" if (folder / "adapter_model.bin").is_file() else ""
        raise CheckpointFormatError(f"adapter {name!r} has no {path.name}{pickle}")
    _reject_foreign_files([path])
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
