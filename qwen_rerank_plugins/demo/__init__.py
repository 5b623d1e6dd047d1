"""The demo checkpoint: a very small Qwen3-architecture reranker that ships inside the package.

It serves a first run without a download, tests and CI; README.md beside this file is its card. scripts/train_demo
trained it. Importing this module loads nothing but the standard library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

CHECKPOINT_DIR: Final[Path] = Path(__file__).resolve().parent / "checkpoint"
"""The folder with the configuration, the weights, the tokenizer and rerank_recipe.json."""

__all__ = ["CHECKPOINT_DIR"]
