"""Finding a checkpoint: what is refused, and why, before one weight is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen_rerank_plugins.core.checkpoints.checkpoint import (
    content_fingerprint,
    fingerprint,
    open_checkpoint,
)
from qwen_rerank_plugins.demo import CHECKPOINT_DIR
from qwen_rerank_plugins.errors import CheckpointFormatError, CheckpointNotFoundError, ConfigurationError
from tests.core.tiny_checkpoints import Shape, changed, make, write_config, write_index, write_sharded

SHAPE = Shape()


class Boom:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_a_folder_is_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make(tmp_path, SHAPE, torch.bfloat16)))
    assert checkpoint.folder == tmp_path
    assert checkpoint.revision is None
    assert (checkpoint.model_type, checkpoint.dtype) == ("qwen3", "bfloat16")
    assert (checkpoint.is_tied, checkpoint.has_classifier) == (True, False)
    assert checkpoint.architecture.hidden_size == 48
    assert (checkpoint.architecture.rope_theta, checkpoint.architecture.max_positions) == (1e6, 40960)
    assert (checkpoint.architecture.qk_norm, checkpoint.architecture.qkv_bias) == (True, False)
    assert checkpoint.files == (tmp_path / "model.safetensors",)


def test_the_demo_is_part_of_the_package() -> None:
    assert open_checkpoint("demo").folder == CHECKPOINT_DIR


def test_a_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path / "model", SHAPE)
    assert open_checkpoint("~/model").folder == tmp_path / "model"


def test_qwen2_has_biases_and_no_norms_of_heads(tmp_path: Path) -> None:
    shape = open_checkpoint(str(make(tmp_path, Shape("qwen2", head_dim=12)))).architecture
    assert (shape.qk_norm, shape.qkv_bias, shape.attention.head_dim) == (False, True, 12)


def test_newer_files_keep_rope_parameters_in_an_object(tmp_path: Path) -> None:
    make(tmp_path, SHAPE)
    parameters = {"rope_type": "default", "rope_theta": 5e6}
    write_config(tmp_path, changed(SHAPE.config, rope_theta=None, rope_parameters=parameters))
    assert open_checkpoint(str(tmp_path)).architecture.rope_theta == 5e6


def test_shards_are_found_by_their_index(tmp_path: Path) -> None:
    write_sharded(tmp_path, SHAPE.config, SHAPE.tensors())
    assert [path.name for path in open_checkpoint(str(tmp_path)).files] == [
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"model_type": "llama"},
            "model type 'llama', which is not supported; use one of qwen2, qwen3, zeroentropy",
        ),
        ({"model_type": None}, "model type 'None'"),
        ({"architectures": ["Qwen3Model"]}, "architecture 'Qwen3Model'"),
        ({"architectures": None}, "architecture ''"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rotary embedding 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rotary embedding 'linear'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6}}, "rotary embedding 'dynamic'"),
        ({"use_sliding_window": True}, "sliding-window attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window attention"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            "weights that bitsandbytes quantised, which only",
        ),
        ({"attention_bias": True}, "a bias in every attention projection"),
        ({"hidden_act": "gelu"}, "the activation 'gelu'"),
        ({"hidden_size": None}, "missing or invalid field: 'hidden_size'"),
        ({"num_attention_heads": "many"}, "missing or invalid field"),
        ({"num_attention_heads": 0, "head_dim": None}, "missing or invalid field|impossible"),
        ({"num_key_value_heads": 3}, "impossible shape"),
        ({"head_dim": 15}, "impossible shape"),
        ({"num_hidden_layers": 0}, "impossible shape"),
        ({"hidden_size": -48}, "impossible shape"),
        ({"rope_parameters": [1]}, "rotary embedding as .*; it must be an object"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    make(tmp_path, SHAPE)
    write_config(tmp_path, changed(SHAPE.config, **changes))
    with pytest.raises(CheckpointFormatError, match=complaint):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "labels", [{"num_labels": 2}, {"id2label": {"0": "no", "1": "yes"}}, {"id2label": None}]
)
def test_a_classifier_of_two_labels_is_refused(tmp_path: Path, labels: dict[str, Any]) -> None:
    shape = Shape(has_classifier=True)
    make(tmp_path, shape)
    assert open_checkpoint(str(tmp_path)).has_classifier
    write_config(tmp_path, changed(shape.config, **labels))
    with pytest.raises(CheckpointFormatError, match="classifies into 2 labels; use a checkpoint with one"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"text"', "\x00"])
def test_a_broken_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointFormatError, match=r"config\.json"):
        open_checkpoint(str(tmp_path))


def test_a_folder_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFormatError, match=r"is not a checkpoint: it has no config\.json"):
        open_checkpoint(str(tmp_path))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, SHAPE.config)
    with pytest.raises(CheckpointFormatError, match=r"has neither model\.safetensors nor"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickles_are_refused_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, SHAPE.config)
    (tmp_path / name).write_bytes(pickle.dumps(Boom()))
    with pytest.raises(CheckpointFormatError, match="pickle files, which can run code and are rejected"):
        open_checkpoint(str(tmp_path))
    assert not (tmp_path / "exploded").exists()


def test_code_beside_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, SHAPE)
    remote = {"AutoModelForCausalLM": "modeling.Model", "AutoConfig": "modeling.Config"}
    write_config(tmp_path, changed(SHAPE.config, auto_map=remote))
    (tmp_path / "modeling.py").write_text("import os; os.mkdir('exploded')")
    open_checkpoint(str(tmp_path))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_may_not_point_out_of_its_folder(tmp_path: Path, name: str) -> None:
    write_config(tmp_path, SHAPE.config)
    write_index(tmp_path, {"model.norm.weight": name})
    with pytest.raises(CheckpointFormatError, match="names files outside its folder"):
        open_checkpoint(str(tmp_path))


def test_an_index_names_files_that_must_be_there(tmp_path: Path) -> None:
    write_sharded(tmp_path, SHAPE.config, SHAPE.tensors())
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointFormatError, match="lacks the files model-00002-of-00003"):
        open_checkpoint(str(tmp_path))
    write_index(tmp_path, {})
    with pytest.raises(CheckpointFormatError, match="lacks the files of its index"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("weight_map", [[], "x", 3])
def test_a_garbled_index_is_refused(tmp_path: Path, weight_map: Any) -> None:
    write_config(tmp_path, SHAPE.config)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointFormatError):
        open_checkpoint(str(tmp_path))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1192\n"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (LFS, r"a Git LFS pointer, not the file itself; run 'git lfs pull'"),
        (b"", "empty; download it again"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page, not the file itself; download it again"),
        (b"<html><body>404</body></html>", "a web page, not the file itself"),
        (
            b"GGUF\x03\x00\x00\x00\x10\x00\x00\x00",
            "a GGUF file; name the file itself as the model",
        ),
        (pickle.dumps({"a": 1}), "a pickle, which can run code and is rejected; convert it to safetensors"),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00", "a pickle, which can run code"),
    ],
)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "vocab.json", "merges.txt", "model-00002-of-00003.safetensors"]
)
def test_another_kind_of_file_in_the_place_of_a_file_is_named(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    write_sharded(tmp_path, SHAPE.config, SHAPE.tensors())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=rf"{name}' is {kind}"):
        open_checkpoint(str(tmp_path))


def test_files_that_are_not_read_may_be_anything(tmp_path: Path) -> None:
    make(tmp_path, SHAPE)
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in ("vocab.json", "generation_config.json", "model-00001-of-00002.safetensors", "x.gguf"):
        (tmp_path / name).write_bytes(LFS)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert open_checkpoint(str(tmp_path)).files == (tmp_path / "model.safetensors",)


def test_a_header_may_have_the_length_that_a_pickle_begins_with(tmp_path: Path) -> None:
    path = make(tmp_path, SHAPE) / "model.safetensors"
    content = path.read_bytes()
    old = int.from_bytes(content[:8], "little")
    new = (old // 256 + 1) * 256 + 0x80
    padded = new.to_bytes(8, "little") + content[8 : 8 + old] + b" " * (new - old) + content[8 + old :]
    path.write_bytes(padded)
    assert padded[0] == 0x80
    assert open_checkpoint(str(tmp_path)).files == (path,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.Q8_0.gguf", LFS, r"gguf' is a Git LFS pointer, not the file itself"),
        ("model.bin", pickle.dumps({}), r"bin' is a pickle, which can run code and is rejected"),
        ("model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}", r"' is a file\. Give the folder"),
    ],
)
def test_a_file_is_no_checkpoint(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=message):
        open_checkpoint(str(tmp_path / name))


def test_a_folder_with_a_gguf_file_that_is_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.Q8_0.gguf").write_bytes(LFS)
    with pytest.raises(CheckpointFormatError, match=r"gguf' is a Git LFS pointer, not the file itself"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("by", ["folder", "modules"])
def test_an_embedding_model_is_named(tmp_path: Path, by: str) -> None:
    make(tmp_path, SHAPE)
    if by == "folder":
        (tmp_path / "1_Pooling").mkdir()
    else:
        (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Pooling"}]')
    with pytest.raises(
        CheckpointFormatError, match="is an embedding model, and its scores would be noise; use a reranker"
    ):
        open_checkpoint(str(tmp_path))


def test_a_rerankers_own_modules_are_no_embedding_model(tmp_path: Path) -> None:
    make(tmp_path, SHAPE)
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.cross_encoder.LogitScore"}]')
    assert open_checkpoint(str(tmp_path)).files


@pytest.mark.parametrize(
    "model",
    [
        *(
            "Qwen/Qwen3-Rerankr-0.6B",
            "qwen/qwen3-reranker-0.6b",
            "Qwen3-Reranker-0.6B",
            "Qwen/Qwen3-Reranker-0.6",
        ),
        *("https://huggingface.co/Qwen/Qwen3-Reranker-0.6B/", "Qwen/Qwen3-Reranker-06B"),
    ],
)
def test_a_name_that_is_almost_a_hub_id_gets_a_suggestion(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(model: str, **_: Any) -> str:
        raise OSError(f"404 Client Error: {model}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointNotFoundError, match=r"\. Did you mean 'Qwen/Qwen3-Reranker-0\.6B'\?$"):
        open_checkpoint(model)


@pytest.mark.parametrize("model", ["Qwen/Qwen3-Reranker-0.6B", "nobody/nothing", "./none", "a/b/c"])
def test_another_name_gets_no_suggestion(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(model: str, **_: Any) -> str:
        raise OSError(f"404 Client Error: {model}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointNotFoundError) as caught:
        open_checkpoint(model)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("model", ["./none", "/none/there", "~/none", "none", "a/b/c", ""])
def test_a_missing_folder_is_named(model: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no such folder"):
        open_checkpoint(model)


def test_an_unknown_hub_id_without_network_says_what_to_do() -> None:
    with pytest.raises(
        CheckpointNotFoundError,
        match=r"was not found: no such folder, and the download from the hub failed.*'demo'",
    ):
        open_checkpoint("nobody/nothing")
    with pytest.raises(CheckpointNotFoundError, match="at revision 'v1' was not found"):
        open_checkpoint("nobody/nothing", "v1")


def test_a_hub_id_takes_the_cached_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from the hub is safetensors, configuration and tokenizer, at the commit that was asked for."""
    asked: list[Any] = []

    def download(model: str, revision: str | None, files: list[str], hub: str) -> tuple[Path, str]:
        asked.append((model, revision, files))
        return make(tmp_path / "0123abcd", SHAPE), "0123abcd"

    monkeypatch.setattr("qwen_rerank_plugins.core.checkpoints.folder.download", download)
    checkpoint = open_checkpoint("Qwen/Qwen3-Reranker-0.6B", "main")
    assert (checkpoint.revision, checkpoint.name) == ("0123abcd", "Qwen/Qwen3-Reranker-0.6B")
    ((model, revision, patterns),) = asked
    assert (model, revision) == ("Qwen/Qwen3-Reranker-0.6B", "main")
    assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in patterns)
    assert "adapter_config.json" in patterns


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    make(tmp_path, SHAPE)
    with pytest.raises(ConfigurationError, match=r"revision 'main' was given, but .* is a folder"):
        open_checkpoint(str(tmp_path), "main")


def test_the_fingerprint_changes_with_what_a_score_depends_on(tmp_path: Path) -> None:
    def current() -> str:
        return fingerprint(open_checkpoint(str(tmp_path)))

    make(tmp_path, SHAPE)
    seen = [current()]
    assert current() == seen[0]
    write_config(tmp_path, changed(SHAPE.config, rope_theta=5e5))
    seen.append(current())
    (tmp_path / "tokenizer.json").write_text("{}")
    seen.append(current())
    for name in ("vocab.json", "merges.txt", "rerank_recipe.json"):
        (tmp_path / name).write_text("{}")
        seen.append(current())
    make(tmp_path, Shape(num_layers=2))
    seen.append(current())
    os.utime(tmp_path / "model.safetensors", (1, 1))
    seen.append(current())
    assert len(set(seen)) == len(seen)


def test_the_fingerprint_of_contents_is_the_same_anywhere_and_changes_with_one_weight(tmp_path: Path) -> None:
    """A fine-tune of the last layer differs in a few bytes, with the same names, shapes and size."""

    def current(folder: Path) -> str:
        return content_fingerprint(open_checkpoint(str(folder)))

    first = current(make(tmp_path / "first", SHAPE))
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    weights = tmp_path / "second" / "model.safetensors"
    os.utime(weights, (1, 1))
    assert current(tmp_path / "second") == first
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert current(tmp_path / "second") != first
    write_config(tmp_path / "first", changed(SHAPE.config, rope_theta=5e5))
    assert current(tmp_path / "first") != first
