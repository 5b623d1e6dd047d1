"""Folders that are not a reranker's checkpoint: the error says in one sentence what the folder is and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.checkpoints.checkpoint import open_checkpoint
from qwen_rerank_plugins.core.runtime import load_runtime
from qwen_rerank_plugins.errors import CheckpointFormatError
from tests.core.gguf_files import write_gguf
from tests.core.tiny_checkpoints import (
    Shape,
    changed,
    make,
    with_demo_tokenizer,
    without_prefix,
    write_checkpoint,
    write_config,
    write_sharded,
)

SHAPE = Shape()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1192\n"
Change = Callable[[Path], object]


def renamed_to(name: str) -> Change:
    """The weights under another name."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").rename(folder / name)

    return change


def containing(name: str, content: bytes = b"{}") -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def configured(**changes: Any) -> Change:
    return lambda folder: write_config(folder, changed(SHAPE.config, **changes))


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def sharded_without_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_sharded(folder, SHAPE.config, SHAPE.tensors())
    (folder / "model.safetensors.index.json").unlink()


def with_half_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_sharded(folder, SHAPE.config, SHAPE.tensors())
    shard = folder / "model-00002-of-00003.safetensors"
    shard.rename(f"{shard}.incomplete")


DOWNLOAD = "run the download again"
ORIGINAL = "give the folder of the original safetensors"
RERANKER = "use a reranker such as 'Qwen/Qwen3-Reranker-0.6B'"
CASES: list[tuple[str, Change, str]] = [
    (
        "a pointer's recipe",
        containing("rerank_recipe.json", LFS),
        "recipe.json' is a Git LFS pointer.*'git lfs pull'",
    ),
    ("pickle", renamed_to("pytorch_model.bin"), r"in pickle files.*\(pytorch_model\.bin\); convert them"),
    (
        "shards",
        renamed_to("pytorch_model-00001-of-00002.bin"),
        "in pickle files.*convert them to safetensors",
    ),
    ("embedding", containing("config_sentence_transformers.json"), f"is an embedding model, .*{RERANKER}"),
    ("Qwen3-VL", configured(model_type="qwen3_vl"), f"is a vision-language model, .*only text.*{RERANKER}"),
    ("jina-m0", configured(vision_config={}), f"is a vision-language model, .*{RERANKER}"),
    (
        "bitsandbytes",
        configured(quantization_config={"quant_method": "bitsandbytes"}),
        "that bitsandbytes quantised, .*give the model that they were made from, with quantization 'int8'",
    ),
    (
        "bitsandbytes, old",
        configured(quantization_config={"load_in_8bit": True}),
        "that bitsandbytes quantised",
    ),
    (
        "MLX",
        configured(quantization={"bits": 4}),
        "is a conversion for MLX, .*give the model that it was made from",
    ),
    ("ONNX", renamed_to("onnx/model.onnx"), rf"holds an ONNX model \(onnx/model\.onnx\), .*{ORIGINAL}"),
    (
        "OpenVINO",
        renamed_to("openvino_model.xml"),
        rf"holds an OpenVINO model \(openvino_model\.xml\), .*{ORIGINAL}",
    ),
    ("TensorFlow", renamed_to("tf_model.h5"), f"holds TensorFlow weights .*{ORIGINAL}"),
    ("Flax", renamed_to("flax_model.msgpack"), f"holds Flax weights .*{ORIGINAL}"),
    (
        "hub",
        renamed_to("model.safetensors.incomplete"),
        rf"is not downloaded completely \(model.*\); {DOWNLOAD}",
    ),
    (
        "hub's folder",
        renamed_to(".cache/huggingface/download/x.incomplete"),
        f"not downloaded completely.*{DOWNLOAD}",
    ),
    ("ModelScope", renamed_to("._____temp/model.safetensors"), f"not downloaded completely.*{DOWNLOAD}"),
    ("aria2", lambda folder: [renamed_to("m.aria2")(folder)], f"not downloaded completely.*{DOWNLOAD}"),
    ("browser", renamed_to("m.safetensors.crdownload"), f"not downloaded completely.*{DOWNLOAD}"),
    (
        "half a shard",
        with_half_a_shard,
        r"lacks the files model-00002-of-00003\.safetensors; download it again",
    ),
    (
        "no index",
        sharded_without_index,
        r"but not their index model\.safetensors\.index\.json; download it too",
    ),
    (
        "another name",
        renamed_to("qwen3.safetensors"),
        r"in qwen3\.safetensors; rename it to model\.safetensors if",
    ),
]


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_folder_is_called_what_it_is_and_what_to_do_is_said(
    tmp_path: Path, change: Change, says: str
) -> None:
    change(make(tmp_path, SHAPE))
    with pytest.raises(CheckpointFormatError, match=says) as caught:
        open_checkpoint(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_downloaded_again(tmp_path: Path) -> None:
    truncated(make(tmp_path, SHAPE))
    with pytest.raises(CheckpointFormatError, match=r"or is cut short \(.*\); download it again"):
        open_checkpoint(str(tmp_path)).open_tensors()


def test_a_weights_file_beside_other_formats_is_read(tmp_path: Path) -> None:
    make(tmp_path, SHAPE)
    for name in ("pytorch_model.bin", "model.onnx", "openvino_model.xml", "old.incomplete", "tf_model.h5"):
        (tmp_path / name).write_bytes(LFS)
    settings = {"model_type": "CrossEncoder", "prompts": {}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert open_checkpoint(str(tmp_path)).files == (tmp_path / "model.safetensors",)


def test_an_embedding_model_that_was_saved_is_recognised(tmp_path: Path) -> None:
    """As sentence-transformers saves one, with and without the files of its layers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import Qwen3Config, Qwen3Model

    inner = tmp_path / "inner"
    kept = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"}
    sizes = {name: value for name, value in SHAPE.config.items() if name in kept}
    Qwen3Model(Qwen3Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).save_pretrained(inner)
    with_demo_tokenizer(inner)
    encoder = Transformer(str(inner))
    saved = tmp_path / "saved"
    SentenceTransformer(modules=[encoder, Pooling(48)], device="cpu").save(str(saved))
    write_config(saved, SHAPE.config)  # Qwen's own names a causal model
    for removed in ("", "1_Pooling", "modules.json"):
        (saved / removed).rename(saved / "gone") if removed else None
        with pytest.raises(CheckpointFormatError, match="is an embedding model"):
            open_checkpoint(str(saved))
        (saved / "gone").rename(tmp_path / f"gone {removed}") if removed else None


def test_weights_without_a_head_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Qwen3-Embedding's tensors are named so, and its config.json is that of a causal model."""
    open_checkpoint(str(make(tmp_path / "whole", SHAPE))).open_tensors()
    assert not caplog.messages
    bare = write_checkpoint(tmp_path / "bare", SHAPE.config, without_prefix(SHAPE.tensors()))
    open_checkpoint(str(bare)).open_tensors()
    assert "was saved without a head, as embedding models are" in caplog.text


@pytest.mark.parametrize(
    ("name", "pooling", "is_embedding"),
    [
        ("Qwen3-Embedding-0.6B", None, True),
        ("Qwen3-Embedding-0.6B", 3, True),
        ("Qwen3-Embedding-Reranker", None, False),
        ("Qwen3-Embedding-0.6B", 4, False),
        ("Qwen3-Reranker-0.6B", None, False),
    ],
)
def test_a_gguf_file_of_an_embedding_model_is_recognised_by_its_name_too(
    tmp_path: Path, name: str, pooling: int | None, is_embedding: bool
) -> None:
    more = {"general.name": name} | ({} if pooling is None else {"qwen3.pooling_type": pooling})
    path = tmp_path / "m.gguf"
    write_gguf(path, changes=more)
    if is_embedding:
        with pytest.raises(CheckpointFormatError, match=f"is an embedding model, .*the name '{name}'"):
            open_checkpoint(str(path))
    else:
        assert open_checkpoint(str(path)).known_names == [name]


def load(folder: Path) -> None:
    load_runtime(RerankConfig(model=str(folder), device="cpu", dtype="float32", self_check=False)).close()


def test_a_score_layer_of_zeros_is_refused(tmp_path: Path) -> None:
    """This is the result of training that did not include the head."""
    shape = Shape(has_classifier=True, vocab_size=10_000)
    tensors = shape.tensors() | {"score.weight": torch.zeros(1, shape.hidden_size)}
    with pytest.raises(Exception, match=r"score\.weight is zero, so every score would be 0\.5; convert"):
        load(with_demo_tokenizer(write_checkpoint(tmp_path, shape.config, tensors)))


def test_a_tokenizer_of_another_kind_is_named(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    folder = with_demo_tokenizer(make(tmp_path, Shape(vocab_size=10_000)))
    Tokenizer(models.WordPiece({"[UNK]": 0, "yes": 1}, unk_token="[UNK]")).save(
        str(folder / "tokenizer.json")
    )
    with pytest.raises(
        CheckpointFormatError, match=r"of the kind WordPiece, .*use the tokenizer\.json of the model"
    ):
        load(folder)


def test_a_tokenizer_with_other_ids_is_described_in_one_short_line(tmp_path: Path) -> None:
    folder = with_demo_tokenizer(make(tmp_path, Shape(vocab_size=10_000)))
    (folder / "rerank_recipe.json").unlink()
    with pytest.raises(
        Exception, match=r"'no' has the ids \[\d+\], but must have \[2152\]; use the tokenizer"
    ) as caught:
        load(folder)
    assert len(str(caught.value)) < 200
