"""Weights: every tensor is checked by name and shape and read once, and the head is the difference of the answers' rows."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwen_rerank_plugins.core.checkpoints.checkpoint import open_checkpoint
from qwen_rerank_plugins.core.checkpoints.weights import load_weights, weight_bytes
from qwen_rerank_plugins.core.model.decoder import Weights
from qwen_rerank_plugins.errors import CheckpointFormatError, TensorMismatchError
from tests.core.tiny_checkpoints import (
    Shape,
    Tensors,
    as_classifier,
    changed,
    dropped,
    make,
    without_prefix,
    write_checkpoint,
    write_sharded,
)

CPU = torch.device("cpu")
ANSWERS = (5, 9)
TIED, UNTIED, CLASSIFIER = Shape(), Shape(is_tied=False), Shape(has_classifier=True)
QWEN2 = Shape("qwen2", head_dim=12)


def load(
    folder: Path, answers: tuple[int, int | None] = ANSWERS, dtype: torch.dtype = torch.float32
) -> Weights:
    return load_weights(open_checkpoint(str(folder)), answers, CPU, dtype)


def all_tensors(weights: Weights) -> list[Tensor]:
    """Everything that is loaded, in a fixed order."""
    found: list[Tensor | None] = [weights.embedding, weights.final_norm, weights.head]
    for layer in weights.layers:
        found += [layer.input_norm, layer.mlp_norm, layer.query_norm, layer.key_norm]
        for linear in layer.linears:
            found += [linear.weight, linear.bias]
    return [tensor for tensor in found if tensor is not None]


def assert_equal(found: Weights, expected: Weights) -> None:
    for a, b in zip(all_tensors(found), all_tensors(expected), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "shape", [TIED, UNTIED, QWEN2, CLASSIFIER], ids=["tied", "untied", "qwen2", "classifier"]
)
def test_every_tensor_arrives_in_its_place(tmp_path: Path, shape: Shape) -> None:
    tensors = shape.tensors()
    weights = load(make(tmp_path, shape))
    layer, prefix = weights.layers[1], "model.layers.1."
    query, key, value = (tensors[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkv")
    assert torch.equal(layer.query.weight, query)
    assert torch.equal(layer.key_value.weight, torch.cat([key, value]))
    gate_up = [tensors[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up")]
    assert torch.equal(layer.gate_up.weight, torch.cat(gate_up))
    assert torch.equal(layer.down.weight, tensors[f"{prefix}mlp.down_proj.weight"])
    assert torch.equal(layer.mlp_norm, tensors[f"{prefix}post_attention_layernorm.weight"])
    assert (layer.query.bias is not None) == (layer.key_value.bias is not None) == (shape is QWEN2)
    assert (layer.query_norm is None) == (shape is QWEN2)
    assert torch.equal(weights.embedding, tensors["model.embed_tokens.weight"])
    assert torch.equal(weights.final_norm, tensors["model.norm.weight"])


@pytest.mark.parametrize(("shape", "matrix"), [(TIED, "model.embed_tokens"), (UNTIED, "lm_head")])
def test_the_head_is_the_difference_of_the_answers_rows(tmp_path: Path, shape: Shape, matrix: str) -> None:
    """In fp32 whatever the checkpoint's dtype: the difference of two bf16 logits would be rounded to a step of 0.1."""
    rows = shape.tensors(torch.bfloat16)[f"{matrix}.weight"].float()
    folder = make(tmp_path, shape, torch.bfloat16)
    weights = load(folder, dtype=torch.bfloat16)
    assert torch.equal(weights.head, rows[5] - rows[9])
    assert weights.head.dtype is torch.float32
    assert torch.equal(load(folder, (5, None)).head, rows[5])


def test_a_classifiers_row_is_the_head(tmp_path: Path) -> None:
    expected = CLASSIFIER.tensors()["score.weight"][0]
    assert torch.equal(load(make(tmp_path, CLASSIFIER)).head, expected)


def test_a_conversion_gives_the_weights_of_what_it_was_made_from(tmp_path: Path) -> None:
    tensors = UNTIED.tensors()
    original = load(make(tmp_path / "causal", UNTIED))
    shape = Shape(is_tied=False, has_classifier=True)
    converted = write_checkpoint(tmp_path / "seq-cls", shape.config, as_classifier(tensors, *ANSWERS))
    assert_equal(load(converted), original)


def test_shards_and_bare_names_give_the_same_weights(tmp_path: Path) -> None:
    tensors = UNTIED.tensors()
    expected = load(make(tmp_path / "plain", UNTIED))
    assert_equal(load(write_sharded(tmp_path / "sharded", UNTIED.config, tensors)), expected)
    bare = write_checkpoint(tmp_path / "bare", UNTIED.config, without_prefix(tensors))
    assert_equal(load(bare), expected)


def test_weights_take_the_dtype_of_the_computation(tmp_path: Path) -> None:
    """The embedding keeps its 16-bit dtype: only the rows of a batch are converted."""
    folder = make(tmp_path, TIED, torch.bfloat16)
    weights = load(folder, dtype=torch.float32)
    assert weights.embedding.dtype is torch.bfloat16
    assert weights.layers[0].query.weight.dtype is weights.final_norm.dtype is torch.float32
    narrow = load(make(tmp_path, TIED), dtype=torch.bfloat16)
    assert narrow.embedding.dtype is narrow.layers[0].down.weight.dtype is torch.bfloat16


# ------------------------------------------------------------------------------------------- allowed


def test_a_redundant_head_is_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = TIED.tensors()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    expected = load(make(tmp_path / "tied", TIED))
    with caplog.at_level(logging.WARNING):
        assert_equal(load(write_checkpoint(tmp_path / "both", TIED.config, tensors)), expected)
    assert not caplog.records


def test_a_redundant_head_that_differs_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = TIED.tensors()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + torch.eye(64, 48)
    expected = load(make(tmp_path / "tied", TIED))
    with caplog.at_level(logging.WARNING):
        assert_equal(load(write_checkpoint(tmp_path / "both", TIED.config, tensors)), expected)
    (record,) = caplog.records
    assert "holds a lm_head.weight that differs" in record.getMessage()


def test_rotary_buffers_are_ignored(tmp_path: Path) -> None:
    tensors = TIED.tensors() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    load(write_checkpoint(tmp_path, TIED.config, tensors))


# ------------------------------------------------------------------------------------------- refused

Damage = Callable[[Tensors], Tensors]


def with_shape(name: str, *size: int) -> Damage:
    return lambda tensors: tensors | {name: torch.zeros(size)}


def without(*names: str) -> Damage:
    return lambda tensors: dropped(tensors, names)


@pytest.mark.parametrize(
    ("shape", "damage", "complaint"),
    [
        (TIED, without("model.norm.weight"), r"lacks model\.norm\.weight;"),
        (TIED, without("model.layers.2.mlp.up_proj.weight"), r"lacks model\.layers\.2\.mlp\.up_proj\.weight"),
        (TIED, without("model.layers.0.self_attn.q_norm.weight"), "self_attn.q_norm"),
        (QWEN2, without("model.layers.0.self_attn.k_proj.bias"), "self_attn.k_proj.bias"),
        (UNTIED, without("lm_head.weight"), r"no lm_head\.weight, so its head would be random"),
        (CLASSIFIER, without("score.weight"), r"no score\.weight, so its head would be random"),
        (TIED, with_shape("model.layers.3.mlp.up_proj.weight", 96, 48), "does not describe: model.layers.3"),
        (TIED, with_shape("score.weight", 1, 48), "does not describe: score.weight"),
        (CLASSIFIER, with_shape("score.bias", 1), "does not describe: score.bias"),
        (TIED, with_shape("adapter.weight", 4), "does not describe: model.adapter.weight"),
        (TIED, with_shape("model.layers.0.self_attn.o_proj.bias", 48), "o_proj.bias"),
        (
            TIED,
            with_shape("model.norm.weight", 47),
            r"norm\.weight has the shape \(47,\), .* describes \(48,\)",
        ),
        (TIED, with_shape("model.embed_tokens.weight", 63, 48), r"\(63, 48\).*\(64, 48\)"),
        (CLASSIFIER, with_shape("score.weight", 2, 48), r"score\.weight has the shape \(2, 48\)"),
        (UNTIED, with_shape("lm_head.weight", 48, 64), r"lm_head\.weight has the shape"),
    ],
)
def test_tensors_that_are_not_the_configurations_are_refused_by_name(
    tmp_path: Path, shape: Shape, damage: Damage, complaint: str
) -> None:
    write_checkpoint(tmp_path, shape.config, damage(shape.tensors()))
    with pytest.raises(TensorMismatchError, match=complaint):
        load(tmp_path)


@pytest.mark.parametrize(
    ("shape", "matrix", "complaint"),
    [
        (CLASSIFIER, "score.weight", r"score\.weight is zero, so every score would be 0\.5"),
        (UNTIED, "lm_head.weight", "the difference of the answers' rows is zero"),
        (TIED, "model.embed_tokens.weight", "the difference of the answers' rows is zero"),
    ],
)
def test_a_head_of_zeros_is_refused(tmp_path: Path, shape: Shape, matrix: str, complaint: str) -> None:
    """Equal rows are as bad as zeros, because the head is their difference."""
    tensors = shape.tensors()
    write_checkpoint(tmp_path, shape.config, tensors | {matrix: torch.zeros_like(tensors[matrix])})
    with pytest.raises(TensorMismatchError, match=complaint):
        load(tmp_path)


def test_many_missing_tensors_are_listed_shortly(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, changed(TIED.config, num_hidden_layers=9), TIED.tensors())
    with pytest.raises(TensorMismatchError, match=r"lacks (\S+, ){4}\S+ and \d+ more"):
        load(tmp_path)


def test_an_untied_head_that_the_configuration_calls_tied_is_a_warning_not_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path, TIED.config, UNTIED.tensors())
    load(tmp_path)
    assert "the embedding is used" in caplog.text


def test_a_tensor_that_is_stored_twice_is_rejected(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TIED.config, TIED.tensors() | without_prefix(TIED.tensors()))
    with pytest.raises(TensorMismatchError, match="is stored twice"):
        load(tmp_path)


def test_integers_are_refused(tmp_path: Path) -> None:
    tensors = TIED.tensors() | {"model.norm.weight": torch.ones(48, dtype=torch.int8)}
    write_checkpoint(tmp_path, TIED.config, tensors)
    with pytest.raises(
        CheckpointFormatError, match=r"model\.norm\.weight is stored as I8; convert it to one of F64"
    ):
        load(tmp_path)


@pytest.mark.parametrize("answers", [(64, 9), (5, 64), (-1, 9)])
def test_an_answer_outside_of_the_vocabulary_is_refused(tmp_path: Path, answers: tuple[int, int]) -> None:
    with pytest.raises(TensorMismatchError, match="has 64 rows, but the answer's token id is"):
        load(make(tmp_path, TIED), answers)


@pytest.mark.parametrize("kept", [4, 100, -10])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, kept: int) -> None:
    path = make(tmp_path, TIED) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointFormatError, match="is not a valid safetensors file"):
        load(tmp_path)


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    make(tmp_path, TIED)
    (tmp_path / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointFormatError, match="is not a valid safetensors file"):
        load(tmp_path)


# -------------------------------------------------------------------------------------------- memory


def test_the_size_of_the_weights_is_known(tmp_path: Path) -> None:
    weights = load(make(tmp_path, UNTIED))
    assert weight_bytes(weights) == sum(tensor.nbytes for tensor in all_tensors(weights))


MEASURE = """
import json, re, sys
import torch
from qwen_rerank_plugins.core.checkpoints.checkpoint import open_checkpoint
from qwen_rerank_plugins.core.checkpoints.weights import load_weights, weight_bytes

def status(name):  # getrusage would tell the peak of the process that started this one
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10

checkpoint = open_checkpoint(sys.argv[1])
before = status("VmRSS")
weights = load_weights(checkpoint, (5, 9), torch.device("cpu"), getattr(torch, sys.argv[2]))
print(json.dumps({"growth": status("VmHWM") - before, "weights": weight_bytes(weights)}))
"""


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 MB in bf16, in layers of 23 MB, the largest tensor having 31 MB."""
    shape = Shape(
        hidden_size=1024, intermediate_size=3072, num_layers=8, num_heads=8, num_kv_heads=4, head_dim=64,
        vocab_size=15_000,
    )  # fmt: skip
    return make(tmp_path_factory.mktemp("large"), shape, torch.bfloat16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_are_never_held_twice(large_folder: Path, dtype: str) -> None:
    """The peak while loading is the weights, the file's pages of one layer, and a little."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(large_folder), dtype], check=True, capture_output=True, text=True
    )
    measured = json.loads(run.stdout)
    slack = 80 << 20  # a layer's files and the largest tensor are 54 MB
    print({name: f"{value / 2**20:.0f} MB" for name, value in measured.items()})
    assert measured["growth"] < measured["weights"] + slack
    assert slack < measured["weights"] // 2
