"""Engines over checkpoints in a folder, without text and without a scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qwen_rerank_plugins.core.checkpoints.checkpoint import open_checkpoint
from qwen_rerank_plugins.core.checkpoints.weights import load_weights
from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.int8 import get_quantizer

CPU = torch.device("cpu")


def decoder_of(
    folder: Path,
    answers: tuple[int, int | None] = (5, 9),
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Decoder:
    checkpoint = open_checkpoint(str(folder))
    return Decoder(checkpoint.architecture, load_weights(checkpoint, answers, device, dtype))


def quantized(decoder: Decoder, kind: str = "int8") -> Decoder:
    """Quantise a decoder's layers in place, and return a decoder of them."""
    convert = get_quantizer(kind, CPU, decoder.dtype, decoder.architecture.linear_shapes)
    if convert:
        for layer in decoder.weights.layers:
            convert(layer)
    return Decoder(decoder.architecture, decoder.weights)


def engine_of(
    folder: Path,
    answers: tuple[int, int | None] = (5, 9),
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Engine:
    return Engine(decoder_of(folder, answers, dtype), **options)
