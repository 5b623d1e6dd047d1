"""Quantised checkpoints: compressed-tensors' by its own library, the others packed here as their formats are documented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.core.tiny_checkpoints import Shape, Tensors, write_checkpoint

SHAPE = Shape(is_tied=False)
LAYER_MODULES = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]
Quantize = Callable[[Tensor], tuple[Tensors, Tensor]]
"""Weights → the tensors that are stored for them, and the weights that these stand for."""


def write_quantized(
    folder: Path, settings: dict[str, Any], quantize: Quantize, shape: Shape = SHAPE, seed: int = 0
) -> Tensors:
    """A checkpoint whose linear layers are quantised; returns the weights that it stands for, in fp32."""
    stored, meant = {}, {}
    for name, tensor in shape.tensors(torch.bfloat16, seed).items():
        module = name.removesuffix(".weight")
        if module.partition(".layers.")[2].partition(".")[2] not in LAYER_MODULES:
            stored[name], meant[name] = tensor, tensor.float()
            continue
        parts, meant[name] = quantize(tensor.float())
        stored |= {f"{module}.{part}": value.contiguous() for part, value in parts.items()}
    write_checkpoint(folder, shape.config | {"dtype": "bfloat16", "quantization_config": settings}, stored)
    return meant


# ------------------------------------------------------------------------------------ compressed-tensors


def compressed(
    storage: str, scale_dtype: torch.dtype = torch.float32, **weights: Any
) -> tuple[dict[str, Any], Quantize]:
    """The settings and the quantiser of a scheme of compressed-tensors, by its own library."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=storage)
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=storage,
        quantization_status="compressed",
        ignore=["lm_head"],
    )
    compressor: Any = BaseCompressor.get_value_from_registry(storage)

    def quantize(weight: Tensor) -> tuple[Tensors, Tensor]:
        scale, zeros = _scales(weight, args)
        state = {"weight": weight, "weight_scale": scale.to(scale_dtype), "weight_zero_point": zeros}
        parts = compressor.compress(state, scheme)
        return parts, compressor.decompress(parts, scheme)["weight"].float()

    return config.model_dump(mode="json"), quantize


def _scales(weight: Tensor, args: Any) -> tuple[Tensor, Tensor]:
    from compressed_tensors.quantization.utils import calculate_qparams

    rows, columns = weight.shape
    height, width = {
        "tensor": (rows, columns),
        "channel": (1, columns),
        "group": (1, args.group_size),
        "block": args.block_structure,
    }[args.strategy]
    padded = torch.nn.functional.pad(weight, (0, -columns % width, 0, -rows % height))
    blocks = padded.unflatten(1, (-1, width)).unflatten(0, (-1, height))
    scale, zeros = calculate_qparams(blocks.amin((1, 3)), blocks.amax((1, 3)), args)
    return (scale.view(1), zeros.view(1)) if args.strategy == "tensor" else (scale, zeros)


# ---------------------------------------------------------------------------------- packed by the formats


def pack_words(codes: Tensor, bits: int, order: list[int] | None = None) -> Tensor:
    """int32 words along the last dimension; code `order[i]` is at bit `i * bits`, and the first at bit 0 by default."""
    per_word = 32 // bits
    words = torch.zeros(*codes.shape[:-1], -(-codes.shape[-1] // per_word), dtype=torch.int64)
    for place, column in enumerate(order or range(per_word)):
        for word in range(words.shape[-1]):
            if word * per_word + column < codes.shape[-1]:
                words[..., word] |= codes[..., word * per_word + column].long() << (bits * place)
    return words.to(torch.int32)


def _group_codes(weight: Tensor, bits: int, groups: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes [out, in], scales and zero points [out, groups] of the groups that `groups` [in] names, and the weights."""
    count = int(groups.max()) + 1
    parts = [weight[:, groups == group] for group in range(count)]
    low = torch.stack([part.amin(1).clamp(max=0) for part in parts], 1)
    high = torch.stack([part.amax(1).clamp(min=0) for part in parts], 1)
    scales = ((high - low) / (2**bits - 1)).half().float()
    zeros = (-low / scales).round().clamp(0, 2**bits - 1)
    codes = (weight / scales[:, groups] + zeros[:, groups]).round().clamp(0, 2**bits - 1)
    return codes, scales, zeros, (codes - zeros[:, groups]) * scales[:, groups]


def awq(group_size: int = 16) -> tuple[dict[str, Any], Quantize]:
    """AutoAWQ's GEMM layout: [in, out] with eight outputs per word, in the order 0, 2, 4, 6, 1, 3, 5, 7."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def quantize(weight: Tensor) -> tuple[Tensors, Tensor]:
        size = weight.shape[1] if group_size == -1 else group_size
        codes, scales, zeros, meant = _group_codes(weight, 4, torch.arange(weight.shape[1]) // size)
        parts = {"qweight": pack_words(codes.T, 4, order), "qzeros": pack_words(zeros.T, 4, order)}
        return parts | {"scales": scales.T.half()}, meant

    settings = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "version": "gemm",
        "zero_point": True,
    }
    return settings | {"modules_to_not_convert": None}, quantize


def gptq(
    bits: int = 4, group_size: int = 16, *, desc_act: bool = False, version: int = 1
) -> tuple[dict[str, Any], Quantize]:
    """GPTQ's layout: codes along `in`, zero points along `out`; version 1 subtracts 1 from each zero point.

    It subtracts from whole words, so that a zero point of 0 borrows from its neighbour.
    """

    def quantize(weight: Tensor) -> tuple[Tensors, Tensor]:
        columns = weight.shape[1]
        size = columns if group_size == -1 else group_size
        groups = torch.arange(columns) // size
        if desc_act:
            groups = groups[torch.randperm(columns, generator=torch.Generator().manual_seed(1))]
        codes, scales, zeros, meant = _group_codes(weight, bits, groups)
        words = pack_words(zeros.T, bits)
        if version == 1:
            words = (words.long() - sum(1 << shift for shift in range(0, 32, bits))).to(torch.int32)
        parts = {"qweight": pack_words(codes, bits).T, "qzeros": words, "scales": scales.T.half()}
        return parts | {"g_idx": groups.int()}, meant

    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "desc_act": desc_act,
        "sym": False,
    }
    return settings | {"checkpoint_format": "gptq" if version == 1 else "gptq_v2"}, quantize


def fp8(block: tuple[int, int] | None = (16, 32)) -> tuple[dict[str, Any], Quantize]:
    """The FP8 of DeepSeek and Qwen: E4M3 codes, and `weight_scale_inv`, which multiplies a block; None: one per tensor."""

    def quantize(weight: Tensor) -> tuple[Tensors, Tensor]:
        height, width = block or weight.shape
        rows, columns = torch.arange(weight.shape[0]) // height, torch.arange(weight.shape[1]) // width
        grid = torch.zeros(int(rows[-1]) + 1, int(columns[-1]) + 1)
        for row in range(grid.shape[0]):
            for column in range(grid.shape[1]):
                grid[row, column] = weight[rows == row][:, columns == column].abs().max() / 448
        each = grid[rows][:, columns]
        codes = (weight / each).to(torch.float8_e4m3fn)
        return {"weight": codes, "weight_scale_inv": grid if block else grid.view(())}, codes.float() * each

    settings = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    return settings | {
        "weight_block_size": block and list(block),
        "modules_to_not_convert": ["lm_head"],
    }, quantize
