"""Score and rank the rows of files. Uses neither the command line nor the service."""

from __future__ import annotations

from qwen_rerank_plugins.batch.formulas import escape_formula, unescape_formula
from qwen_rerank_plugins.batch.job import run_batch
from qwen_rerank_plugins.batch.options import BatchOptions
from qwen_rerank_plugins.batch.progress import BatchProgress, BatchReport, Guess

__all__ = [
    "BatchOptions",
    "BatchProgress",
    "BatchReport",
    "Guess",
    "escape_formula",
    "run_batch",
    "unescape_formula",
]
