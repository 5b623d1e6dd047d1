"""Quantised safetensors: dequantised as their own libraries do, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.checkpoints.checkpoint import fingerprint, open_checkpoint
from qwen_rerank_plugins.core.checkpoints.tensors import read_tensor
from qwen_rerank_plugins.core.checkpoints.weights import load_weights
from qwen_rerank_plugins.core.engine.engine import reference_log_odds
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.int8 import Int8Codes, Int8Linear, linear_converter
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import CheckpointError, CheckpointFormatError, TensorMismatchError
from qwen_rerank_plugins.types import ScoreRequest
from tests.core.oracle import OfficialModel
from tests.core.peft_adapters import make_adapter
from tests.core.quantized_files import SHAPE, awq, compressed, fp8, gptq, write_quantized
from tests.core.tiny_checkpoints import (
    Shape,
    Tensors,
    changed,
    with_demo_tokenizer,
    write_checkpoint,
    write_config,
)
from tests.core.tolerances import assert_close

CPU = torch.device("cpu")
BF16 = torch.bfloat16
ANSWERS = (20, 21)
Q = "model.layers.0.self_attn.q_proj"
FORMS: dict[str, Any] = {
    "ct-fp8-tensor": lambda *scales: compressed(
        "float-quantized", *scales, num_bits=8, type="float", strategy="tensor"
    ),
    "ct-fp8-channel": lambda *scales: compressed(
        "float-quantized", *scales, num_bits=8, type="float", strategy="channel"
    ),
    "ct-fp8-block": lambda *scales: compressed(
        "float-quantized", *scales, num_bits=8, type="float", strategy="block", block_structure=[32, 20]
    ),
    "ct-int8-channel": lambda *scales: compressed("int-quantized", *scales, num_bits=8, strategy="channel"),
    "ct-int8-tensor": lambda *scales: compressed("int-quantized", *scales, num_bits=8, strategy="tensor"),
    "ct-int8-channel-zeros": lambda *scales: compressed(
        "int-quantized", *scales, num_bits=8, strategy="channel", symmetric=False
    ),
    "ct-int8-tensor-zeros": lambda *scales: compressed(
        "int-quantized", *scales, num_bits=8, strategy="tensor", symmetric=False
    ),
    "ct-int4-group": lambda *scales: compressed(
        "pack-quantized", *scales, num_bits=4, strategy="group", group_size=16
    ),
    "ct-int4-group-zeros": lambda *scales: compressed(
        "pack-quantized", *scales, num_bits=4, strategy="group", group_size=16, symmetric=False
    ),
    "ct-int4-channel-zeros": lambda *scales: compressed(
        "pack-quantized", *scales, num_bits=4, strategy="channel", symmetric=False
    ),
    "ct-int8-packed": lambda *scales: compressed(
        "pack-quantized", *scales, num_bits=8, strategy="group", group_size=8
    ),
    "awq": awq,
    "awq-channel": lambda: awq(-1),
    "gptq": gptq,
    "gptq-v2": lambda: gptq(version=2),
    "gptq-desc-act": lambda: gptq(desc_act=True),
    "gptq-8-channel": lambda: gptq(8, -1),
    "gptq-8-desc-act": lambda: gptq(8, 8, desc_act=True, version=2),
    "fp8-block": fp8,
    "fp8-ragged-block": lambda: fp8((20, 36)),
    "fp8-tensor": lambda: fp8(None),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_dequantised_as_its_library_does_it(tmp_path: Path, form: str) -> None:
    settings, quantize = FORMS[form]()
    meant = write_quantized(tmp_path, settings, quantize)
    source = open_checkpoint(str(tmp_path)).open_tensors()
    assert set(source.shapes) == set(meant)
    for name, tensor in meant.items():
        assert source.shapes[name] == tuple(tensor.shape)
        assert torch.equal(read_tensor(source, name, torch.float32, CPU), tensor), name
        part = torch.empty(7, *tensor.shape[1:], dtype=BF16)
        source.read_rows(name, part, 5)
        assert torch.equal(part, tensor[5:12].to(BF16)), name


@pytest.mark.parametrize(
    ("form", "weight_format"),
    [
        ("ct-fp8-channel", "compressed-tensors fp8"),
        ("ct-int4-group", "compressed-tensors int4"),
        ("awq", "AWQ int4"),
        ("gptq-8-desc-act", "GPTQ int8"),
        ("fp8-block", "FP8 in blocks of 16 x 32"),
        ("fp8-tensor", "FP8"),
    ],
)
def test_scores_are_the_official_ones_of_the_dequantised_weights(
    tmp_path: Path, form: str, weight_format: str
) -> None:
    meant = write_quantized(tmp_path / "quantised", *FORMS[form]())
    checkpoint = open_checkpoint(str(tmp_path / "quantised"))
    official = OfficialModel(write_checkpoint(tmp_path / "twin", SHAPE.config, meant))
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6]]
    weights = load_weights(checkpoint, ANSWERS, CPU, torch.float32)
    segments = [Segment.after(None, tuple(ids)) for ids in prompts]
    found = reference_log_odds(Decoder(checkpoint.architecture, weights), segments)
    assert_close(found, official.log_odds(prompts, ANSWERS))
    assert checkpoint.weight_format == weight_format


@pytest.mark.parametrize("form", ["ct-fp8-channel", "ct-int8-channel", "ct-int4-group-zeros"])
def test_scales_of_16_bits_give_the_librarys_numbers_in_16_bits(tmp_path: Path, form: str) -> None:
    """The library computes in the dtype of the scales; the products are exact in fp32, and rounded once."""
    settings, quantize = FORMS[form](BF16)
    meant = write_quantized(tmp_path, settings, quantize)
    source = open_checkpoint(str(tmp_path)).open_tensors()
    for name, tensor in meant.items():
        assert torch.equal(read_tensor(source, name, BF16, CPU).float(), tensor), name


def test_modules_of_one_checkpoint_may_have_schemes_of_their_own(tmp_path: Path) -> None:
    """A name is stronger than a pattern, and a pattern than a class; what is ignored stays as it is."""
    four, quantize_four = FORMS["ct-int4-group"]()
    eight, quantize_eight = FORMS["ct-int8-channel"]()
    groups = {
        "a": four["config_groups"]["group_0"],
        "b": eight["config_groups"]["group_0"] | {"targets": [r"re:.*\.(q|k)_proj$"]},
        "c": four["config_groups"]["group_0"] | {"targets": [Q]},
    }
    config = four | {
        "config_groups": groups,
        "format": "mixed-precision",
        "ignore": ["re:.*o_proj", "lm_head"],
    }
    stored: Tensors = {}
    meant: Tensors = {}
    for name, tensor in SHAPE.tensors().items():
        module = name.removesuffix(".weight")
        parts, meant[name] = {"weight": tensor}, tensor
        if name.endswith("_proj.weight") and "o_proj" not in name:
            is_eight = module.endswith(("q_proj", "k_proj")) and module != Q
            parts, meant[name] = (quantize_eight if is_eight else quantize_four)(tensor)
        stored |= {f"{module}.{part}": value for part, value in parts.items()}
    write_checkpoint(tmp_path, SHAPE.config | {"quantization_config": config}, stored)
    checkpoint = open_checkpoint(str(tmp_path))
    source = checkpoint.open_tensors()
    assert set(source.shapes) == set(meant)
    for name, tensor in meant.items():
        assert torch.equal(read_tensor(source, name, torch.float32, CPU), tensor), name
    assert checkpoint.weight_format == "compressed-tensors int4 and int8"


@pytest.mark.parametrize("settings", [None, {}, {"quant_method": "compressed-tensors", "config_groups": {}}])
def test_a_configuration_that_quantises_nothing_is_plain(tmp_path: Path, settings: Any) -> None:
    write_checkpoint(tmp_path, SHAPE.config | {"quantization_config": settings}, SHAPE.tensors())
    assert open_checkpoint(str(tmp_path)).weight_format == "safetensors"


def test_a_gptq_module_that_a_rule_leaves_out_is_plain(tmp_path: Path) -> None:
    settings, quantize = gptq()
    meant = write_quantized(tmp_path, settings | {"dynamic": {r"-:.*k_proj": {}}}, quantize)
    tensors = load_file(tmp_path / "model.safetensors")
    plain = {name: tensor for name, tensor in meant.items() if "k_proj" in name}
    save_file({k: t for k, t in tensors.items() if "k_proj" not in k} | plain, tmp_path / "model.safetensors")
    source = open_checkpoint(str(tmp_path)).open_tensors()
    assert all(torch.equal(read_tensor(source, k, torch.float32, CPU), t) for k, t in meant.items())


def test_older_versions_of_compressed_tensors_are_read(tmp_path: Path) -> None:
    """They stored the zero points of symmetric schemes, scales as vectors, and the groups of sorted columns."""
    settings, quantize = FORMS["ct-int4-group"]()
    write_quantized(tmp_path, settings, quantize)
    tensors = load_file(tmp_path / "model.safetensors")
    columns = torch.randperm(48, generator=torch.Generator().manual_seed(3))
    groups = (torch.arange(48) // 16)[columns]
    tensors[f"{Q}.weight_g_idx"] = groups.int()
    shape = tensors[f"{Q}.weight_scale"].shape
    tensors[f"{Q}.weight_zero_point"] = torch.zeros(shape, dtype=torch.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    source = open_checkpoint(str(tmp_path)).open_tensors()
    found = read_tensor(source, f"{Q}.weight", torch.float32, CPU)
    words = tensors[f"{Q}.weight_packed"]
    codes = torch.stack([(words >> shift) & 15 for shift in range(0, 32, 4)], -1).flatten(1) - 8
    assert torch.equal(found, codes * tensors[f"{Q}.weight_scale"][:, groups])


def test_an_adapter_is_merged_into_dequantised_weights(tmp_path: Path) -> None:
    meant = write_quantized(tmp_path / "quantised", *gptq())
    write_checkpoint(tmp_path / "twin", SHAPE.config, meant)
    adapter = str(make_adapter(tmp_path / "twin", tmp_path / "adapter"))
    sources = [
        open_checkpoint(str(tmp_path / name), adapters={adapter: 1.0}).open_tensors()
        for name in ("quantised", "twin")
    ]
    found, wanted = (read_tensor(source, f"{Q}.weight", torch.float32, CPU) for source in sources)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, meant[f"{Q}.weight"])


# ------------------------------------------------------------------------------------- the int8 path


def int8_weights(folder: Path, **options: Any) -> Any:
    checkpoint = open_checkpoint(str(folder), **options)
    convert = linear_converter("int8", CPU, torch.float32, checkpoint.architecture.linear_shapes)
    return load_weights(checkpoint, ANSWERS, CPU, torch.float32, convert)


def test_stored_8_bit_codes_are_multiplied_as_they_are(tmp_path: Path) -> None:
    """Codes that quantising the dequantised weights anew would not give: no row has the code 127."""
    write_quantized(tmp_path, *FORMS["ct-int8-channel"](BF16))
    tensors = load_file(tmp_path / "model.safetensors")
    halved = {k: (t // 2 if t.dtype is torch.int8 else t) for k, t in tensors.items()}
    halved["model.layers.0.mlp.down_proj.weight"][0, 0] = -128
    save_file(halved, tmp_path / "model.safetensors")
    layer = int8_weights(tmp_path).layers[0]
    modules = {
        "query": ["self_attn.q_proj"],
        "key_value": ["self_attn.k_proj", "self_attn.v_proj"],
        "output": ["self_attn.o_proj"],
        "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
        "down": ["mlp.down_proj"],
    }
    for name, parts in modules.items():
        linear = getattr(layer, name)
        codes, scales = (
            torch.cat([halved[f"model.layers.0.{part}.{kind}"] for part in parts])
            for kind in ("weight", "weight_scale")
        )
        assert isinstance(linear, Int8Linear)
        assert torch.equal(linear.scale, scales.float()[:, 0]), name
        rows = torch.eye(codes.shape[1])[:9]
        exact = (codes.float() * scales.float()).T[:9]
        assert (linear(linear.encode(rows)) - exact).abs().max() < 1e-6, name


@pytest.mark.parametrize("form", ["ct-int8-tensor", "ct-int8-channel-zeros", "ct-int4-group", "fp8-block"])
def test_other_codes_are_dequantised_and_quantised_anew(tmp_path: Path, form: str) -> None:
    meant = write_quantized(tmp_path / "quantised", *FORMS[form]())
    write_checkpoint(tmp_path / "twin", SHAPE.config, meant)
    found, wanted = (int8_weights(tmp_path / name).layers[1] for name in ("quantised", "twin"))
    assert torch.equal(found.down.scale, wanted.down.scale)
    rows = torch.eye(96)
    assert torch.equal(found.down(found.down.encode(rows)), wanted.down(wanted.down.encode(rows)))


def test_rows_of_codes_share_their_memory() -> None:
    codes = Int8Codes(torch.ones(4, 3, dtype=torch.int8), torch.arange(4.0), torch.arange(4.0))
    part = codes.rows(slice(1, 3))
    assert part.weight.data_ptr() == codes.weight[1:].data_ptr()
    assert (part.scale.tolist(), part.bias.tolist()) == ([1, 2], [1, 2])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("form", "quantization", "weight_format"),
    [
        ("ct-int8-channel", "int8", "compressed-tensors int8, multiplied as stored"),
        ("ct-int8-channel", "none", "compressed-tensors int8, dequantised to float32"),
        ("gptq", "int8", "GPTQ int4, dequantised to float32"),
    ],
)
def test_info_says_what_was_loaded(tmp_path: Path, form: str, quantization: str, weight_format: str) -> None:
    settings, quantize = FORMS[form]()
    write_quantized(tmp_path, settings, quantize, Shape(vocab_size=10_000))
    with_demo_tokenizer(tmp_path)
    config: Any = {"device": "cpu", "dtype": "float32", "quantization": quantization}
    scorer = LocalScorer.from_config(RerankConfig(model=str(tmp_path), **config))
    info, score = scorer.info(), scorer.score([ScoreRequest("q", "d")])[0]
    scorer.close()
    assert (info["weight_format"], info["quantization"]) == (weight_format, quantization)
    assert info["self_check"]["status"] == "passed"
    assert score.log_odds is not None


def test_the_fingerprint_knows_how_codes_are_read(tmp_path: Path) -> None:
    settings, quantize = gptq()
    write_quantized(tmp_path, settings, quantize)
    first = fingerprint(open_checkpoint(str(tmp_path)))
    settings |= {"checkpoint_format": "gptq_v2"}
    write_config(tmp_path, SHAPE.config | {"dtype": "bfloat16", "quantization_config": settings})
    assert fingerprint(open_checkpoint(str(tmp_path))) != first


# ------------------------------------------------------------------------------------- what is refused


def group(**weights: Any) -> dict[str, Any]:
    """The settings of compressed-tensors with some changed for its weights."""
    content = {"num_bits": 8, "type": "int", "strategy": "channel"} | weights
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": content}},
    }


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"quant_method": "mxfp4"}, "the method 'mxfp4'"),
        ({"quant_method": ["awq"]}, "missing or invalid field"),
        ({"bits": 4}, "missing or invalid field: KeyError: 'quant_method'"),
        (["awq"], "missing or invalid field"),
        (group() | {"format": "nvfp4-pack-quantized"}, "the format 'nvfp4-pack-quantized'"),
        (group() | {"format": "marlin-24"}, "the format 'marlin-24'"),
        (group() | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "the sparsity 'sparse-24-bitmask'"),
        (group() | {"kv_cache_scheme": {"num_bits": 8}}, "8-bit keys and values, which change scores"),
        (group() | {"transform_config": {"config_groups": {}}}, "transforms of weights and activations"),
        (group() | {"quantization_status": "frozen"}, "the status 'frozen'"),
        (group(num_bits=4), "4 bits"),
        (group(num_bits=1 << 63), "9223372036854775808 bits"),
        (group(num_bits="many"), "missing or invalid field: ValueError"),
        (group(num_bits=float("inf")), "missing or invalid field: OverflowError"),
        (group(strategy="tensor_group", group_size=16), "the strategy 'tensor_group'"),
        (group(strategy="group", group_size=0), "missing or invalid field: ValueError: group_size 0"),
        (group(num_bits=3) | {"format": "pack-quantized"}, "3 bits"),
        (group(type="float") | {"format": "pack-quantized"}, "8 bits"),
        (group() | {"ignore": ["re:(a+)+b"]}, "the pattern '\\(a\\+\\)\\+b' is too complex"),
        (group() | {"ignore": ["re:("]}, "missing or invalid field"),
        (group() | {"ignore": ["re:a"] * 257}, "missing or invalid field: ValueError: too many patterns"),
        (fp8()[0] | {"modules_to_not_convert": [7]}, "missing or invalid field: TypeError"),
        (group() | {"config_groups": {"W8A8": ["Linear"]}}, "missing or invalid field: AttributeError"),
        (awq()[0] | {"version": "gemv"}, "AWQ's version 'gemv'"),
        (awq()[0] | {"bits": 3}, "AWQ's 3 bits"),
        (gptq()[0] | {"bits": 3}, "GPTQ's 3 bits"),
        (gptq()[0] | {"checkpoint_format": "marlin"}, "GPTQ's format 'marlin'"),
        (gptq()[0] | {"group_size": -7}, "group_size -7"),
        (gptq()[0] | {"pack_dtype": "int16"}, "GPTQ's packing into 'int16'"),
        (gptq()[0] | {"dynamic": {"+:.*k_proj": {"bits": 8}}}, "GPTQ's settings by module"),
        (fp8()[0] | {"fmt": "e5m2"}, "FP8 of the form 'e5m2'"),
        (fp8()[0] | {"weight_block_size": [0, 128]}, "weight_block_size"),
        (fp8()[0] | {"weight_block_size": [128]}, "missing or invalid field"),
    ],
)
def test_other_quantisations_are_refused_by_name(tmp_path: Path, settings: Any, complaint: str) -> None:
    write_config(tmp_path, SHAPE.config | {"quantization_config": settings})
    with pytest.raises(CheckpointFormatError, match=complaint) as error:
        open_checkpoint(str(tmp_path))
    if "invalid field" not in str(error.value):
        assert "use such a checkpoint, or the one that it was made from" in str(error.value)


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name != f"{Q}.{part}"}


def replaced(part: str, value: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {f"{Q}.{part}": value(tensors[f"{Q}.{part}"]).contiguous()}


@pytest.mark.parametrize(
    ("form", "damage", "complaint"),
    [
        ("ct-int8-channel", without("weight_scale"), "q_proj has codes but no scales"),
        (
            "ct-int8-channel",
            replaced("weight_scale", lambda t: t[:-1]),
            r"weight_scale has the shape \(63, 1\)",
        ),
        ("ct-int8-channel", replaced("weight_scale", lambda t: t.char()), "weight_scale is stored as I8"),
        (
            "ct-int8-channel",
            replaced("weight", lambda t: t.short()),
            "weight is stored as I16, but its format has I8",
        ),
        ("ct-int8-channel", replaced("weight", lambda t: t[0]), r"weight has the shape \(48,\)"),
        (
            "ct-fp8-channel",
            replaced("weight", lambda t: t.char()),
            "weight is stored as I8, but its format has F8_E4M3",
        ),
        ("ct-fp8-block", replaced("weight_scale", lambda t: t[:, :1]), "weight_scale has the shape"),
        ("ct-int4-group", without("weight_shape"), "lacks a weight_shape of two integers"),
        (
            "ct-int4-group",
            replaced("weight_shape", lambda t: t + (1 << 62)),
            "weight_shape is .* does not hold",
        ),
        ("ct-int4-group", replaced("weight_shape", lambda t: -t), "weight_shape is .* does not hold"),
        (
            "ct-int4-group",
            replaced("weight_shape", lambda t: t.double()),
            "lacks a weight_shape of two integers",
        ),
        ("ct-int4-group", replaced("weight_packed", lambda t: t[:, 1:]), "weight_shape is .* does not hold"),
        ("ct-int4-group", replaced("weight_scale", lambda t: t[:, :1]), "weight_scale has the shape"),
        (
            "ct-int4-group-zeros",
            replaced("weight_zero_point", lambda t: t[1:]),
            "weight_zero_point has the shape",
        ),
        ("awq", without("qzeros"), "q_proj has codes but no qzeros"),
        ("awq", replaced("scales", lambda t: t.T), "scales has the shape"),
        ("awq", replaced("qweight", lambda t: t[1:]), "47 columns, which are not groups of 16"),
        ("gptq", replaced("qzeros", lambda t: t[:, 1:]), "qzeros has the shape"),
        ("gptq", replaced("g_idx", lambda t: t[1:]), "g_idx has the shape"),
        ("gptq", replaced("qweight", lambda t: t[:0]), r"qweight has the shape \(0, 64\)"),
        ("fp8-block", replaced("weight_scale_inv", lambda t: t[1:]), "weight_scale_inv has the shape"),
        ("fp8-block", without("weight_scale_inv"), "q_proj has codes but no scales"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused_before_they_are_read(
    tmp_path: Path, form: str, damage: Callable[[Tensors], Tensors], complaint: str
) -> None:
    write_quantized(tmp_path, *FORMS[form]())
    save_file(damage(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(str(tmp_path))
    with pytest.raises((CheckpointFormatError, TensorMismatchError), match=complaint):
        checkpoint.open_tensors()


@pytest.mark.parametrize(
    ("form", "damage", "complaint"),
    [
        ("gptq-desc-act", replaced("g_idx", lambda t: t + 1), "g_idx names groups outside of 0 to 2"),
        ("gptq-desc-act", replaced("g_idx", lambda t: t - 1), "g_idx names groups outside of 0 to 2"),
        ("gptq", replaced("scales", lambda t: t * torch.inf), "scales has values that are not finite"),
        (
            "fp8-block",
            replaced("weight_scale_inv", lambda t: t * torch.nan),
            "scale_inv has values that are not finite",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(
    tmp_path: Path, form: str, damage: Callable[[Tensors], Tensors], complaint: str
) -> None:
    write_quantized(tmp_path, *FORMS[form]())
    save_file(damage(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointFormatError, match=complaint):
        load_weights(open_checkpoint(str(tmp_path)), ANSWERS, CPU, torch.float32)


@pytest.mark.parametrize("code", [127, -1])
def test_codes_that_are_no_numbers_are_refused(tmp_path: Path, code: int) -> None:
    write_quantized(tmp_path, *fp8())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[f"{Q}.weight"].view(torch.int8)[63, 47] = code
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointFormatError, match=r"q_proj\.weight has values that are not finite"):
        load_weights(open_checkpoint(str(tmp_path)), ANSWERS, CPU, torch.float32)


def test_every_number_of_8_bits_is_read(tmp_path: Path) -> None:
    """Also those close to zero, and both zeros."""
    write_quantized(tmp_path, *fp8(None))
    tensors = load_file(tmp_path / "model.safetensors")
    codes = torch.tensor([code for code in range(256) if code & 127 != 127], dtype=torch.uint8).view(
        torch.float8_e4m3fn
    )
    tensors[f"{Q}.weight"].flatten()[: len(codes)] = codes
    tensors[f"{Q}.weight_scale_inv"] = torch.ones(())
    save_file(tensors, tmp_path / "model.safetensors")
    for dtype in (torch.float32, BF16, torch.float16):
        found = read_tensor(open_checkpoint(str(tmp_path)).open_tensors(), f"{Q}.weight", dtype, CPU)
        assert torch.equal(found.flatten()[: len(codes)], codes.to(dtype))


def test_zero_points_that_the_bits_cannot_hold_are_refused(tmp_path: Path) -> None:
    write_quantized(tmp_path, *FORMS["ct-int4-group"]())
    tensors = load_file(tmp_path / "model.safetensors")
    shape = tensors[f"{Q}.weight_scale"].shape
    tensors[f"{Q}.weight_zero_point"] = torch.full(shape, 9, dtype=torch.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointFormatError, match="weight_zero_point has values that 4 bits cannot hold"):
        load_weights(open_checkpoint(str(tmp_path)), ANSWERS, CPU, torch.float32)


@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        ("self_attn.q_proj", False),
        ("model.layers.0", False),
        ("model.layers.0.self_attn.q", True),
        ("q_pro.", True),
    ],
)
def test_names_to_leave_out_begin_or_end_a_modules_name(tmp_path: Path, name: str, is_read: bool) -> None:
    """As in transformers; the codes of a module that is left out are not read as such."""
    settings, quantize = fp8()
    write_quantized(tmp_path, settings | {"modules_to_not_convert": ["score", name]}, quantize)
    assert (f"{Q}.weight_scale_inv" not in open_checkpoint(str(tmp_path)).open_tensors().shapes) == is_read


@pytest.mark.parametrize("form", ["ct-int8-channel", "gptq"])
def test_a_module_that_is_ignored_must_be_plain(tmp_path: Path, form: str) -> None:
    settings, quantize = FORMS[form]()
    ignored: dict[str, Any] = {"dynamic": {rf"-:{Q}": {}}} if form == "gptq" else {"ignore": [Q]}
    write_quantized(tmp_path, settings | ignored, quantize)
    with pytest.raises(CheckpointError, match=r"q_proj\.(weight|g_idx)"):
        load_weights(open_checkpoint(str(tmp_path)), ANSWERS, CPU, torch.float32)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write_quantized(tmp_path, *awq())
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointFormatError, match="is not a valid safetensors file"):
        open_checkpoint(str(tmp_path)).open_tensors()


DTYPES = [
    torch.int8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float8_e4m3fn,
    torch.uint8,
]
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("bits", "num_bits", "group_size"), st.integers(-2, 1 << 64) | st.floats() | st.none()),
    **dict.fromkeys(("weight_block_size", "block_structure"), st.lists(st.integers(-1, 1 << 64), max_size=3)),
    "format": st.sampled_from(["gptq_v2", "int-quantized", "pack-quantized", "float-quantized"]),
    "ignore": st.lists(st.sampled_from([Q, "re:.*", "Linear", "re:[", 7])),
    "strategy": st.sampled_from(["tensor", "channel", "group", "block", 3]),
    "modules_to_not_convert": st.lists(st.text(max_size=8), max_size=2) | st.integers(),
    "dynamic": st.dictionaries(st.text(max_size=8), st.none(), max_size=2),
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Tensors]]:
    """The config.json and the tensors of some forms."""
    shape = Shape(num_layers=1, is_tied=False)
    found = {}
    for form in (
        "ct-int8-channel",
        "ct-int4-group-zeros",
        "ct-fp8-block",
        "awq",
        "gptq-desc-act",
        "fp8-block",
    ):
        folder = tmp_path_factory.mktemp(form)
        settings, quantize = FORMS[form]()
        write_quantized(folder, settings, quantize, shape)
        found[form] = (
            json.loads((folder / "config.json").read_text()),
            load_file(folder / "model.safetensors"),
        )
    return found


@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_raises_anything_but_a_checkpoints_error(
    valid: dict[str, tuple[dict[str, Any], Tensors]], tmp_path: Path, data: st.DataObject
) -> None:
    """Whatever still loads has finite weights of the right shapes."""
    config, tensors = valid[data.draw(st.sampled_from(sorted(valid)))]
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from([name for name in sorted(tensors) if name.startswith(Q)]))
        size = data.draw(
            st.sampled_from([tuple(tensors[name].shape)]) | st.lists(st.integers(0, 70), max_size=3)
        )
        values = torch.randint(-128, 128, tuple(size), generator=torch.Generator().manual_seed(0))
        changes = {name: values.to(data.draw(st.sampled_from([tensors[name].dtype, *DTYPES])))}
        write_checkpoint(tmp_path, config, tensors | changes)
    else:
        key = data.draw(st.sampled_from(sorted(SETTINGS)))
        change = {key: data.draw(SETTINGS[key])}
        quantization = config["quantization_config"] | change
        if "config_groups" in quantization:
            scheme = quantization["config_groups"]["group_0"]
            inner = scheme | {"weights": scheme["weights"] | change}
            quantization |= {"config_groups": {"group_0": inner}}
        write_checkpoint(tmp_path, changed(config, quantization_config=quantization), tensors)
    try:
        weights = load_weights(open_checkpoint(str(tmp_path)), ANSWERS, CPU, torch.float32)
    except CheckpointError:
        return
    assert weights.layers[0].query.weight.shape == (64, 48)
    assert torch.isfinite(weights.layers[0].query.weight).all()
