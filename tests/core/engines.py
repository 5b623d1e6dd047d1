"""Engines over checkpoints in a folder, without text and without a scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qwen_rerank_plugins.core.checkpoints.checkpoint import open_checkpoint
from qwen_rerank_plugins.core.checkpoints.weights import load_weights
from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.int8 import linear_converter

CPU = torch.device("cpu")


def decoder_of(
    folder: Path,
    answers: tuple[int, int | None] = (5, 9),
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    quantization: str | None = "none",
) -> Decoder:
    """Return a checkpoint's decoder; with the quantisation None, its linear layers as they are read."""
    checkpoint = open_checkpoint(str(folder))
    shapes = checkpoint.architecture.linear_shapes
    convert = linear_converter(quantization, device, dtype, shapes) if quantization else None
    return Decoder(checkpoint.architecture, load_weights(checkpoint, answers, device, dtype, convert))


def engine_of(
    folder: Path,
    answers: tuple[int, int | None] = (5, 9),
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Engine:
    return Engine(decoder_of(folder, answers, dtype), **options)
