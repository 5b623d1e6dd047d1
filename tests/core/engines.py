"""Engines over checkpoints in a folder, without text and without a scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.model.checkpoint import open_checkpoint
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.weights import load_weights

CPU = torch.device("cpu")


def decoder_of(
    folder: Path, answers: tuple[int, int | None] = (5, 9), dtype: torch.dtype = torch.float32
) -> Decoder:
    checkpoint = open_checkpoint(str(folder))
    return Decoder(checkpoint.architecture, load_weights(checkpoint, answers, CPU, dtype))


def engine_of(
    folder: Path,
    answers: tuple[int, int | None] = (5, 9),
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Engine:
    return Engine(decoder_of(folder, answers, dtype), **options)
