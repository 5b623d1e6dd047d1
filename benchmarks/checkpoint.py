"""A random checkpoint of Qwen3-Reranker-0.6B's shape in bf16, with Qwen's own tokenizer.

    python -m benchmarks.checkpoint FOLDER

Speed does not depend on the weights' values. They are larger than a trained model's initial ones, so that scores
depend on the text and a peer that reads another prompt is detected. The vocabulary comes from the dashscope package.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.core.qwen_vocabulary import write_qwen_tokenizer

INITIALIZER_RANGE = 0.05

SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def make(folder: Path, shape: Mapping[str, int] = SHAPE, device: str = "cpu") -> None:
    """Write the checkpoint, and finally an empty file `complete`.

    Args:
        folder: Where it is written.
        shape: The decoder's shape by the names of its config.json.
        device: Where the weights are drawn.
    """
    config = Qwen3Config(
        **shape,
        vocab_size=151669,
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(6)
    write_qwen_tokenizer(folder)
    with torch.device(device):
        model = Qwen3ForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    (folder / "complete").touch()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
