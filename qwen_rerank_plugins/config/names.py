"""Suggest the setting that an unknown name most likely means. Imports nothing of the package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ENV_PREFIX", "nearest_name", "suggestion"]

ENV_PREFIX = "QWEN_RERANK_"
"""What the variable of a setting begins with; it has no part in a comparison of names."""

CUTOFF = 0.66
"""Lowest similarity, as `difflib.SequenceMatcher.ratio` counts it, at which a name counts as a misspelling: two of
three letters in their order."""

FOREIGN_NAMES = {
    "adapter": "adapters",
    "adapter_name_or_path": "adapters",
    "api_base": "base_url",
    "api_url": "base_url",
    "batch_size": "max_batch_tokens",
    "ca_bundle": "ca_file",
    "ca_certs": "ca_file",
    "cafile": "ca_file",
    "endpoint": "base_url",
    "load_in_8bit": "quantization",
    "lora": "adapters",
    "lora_modules": "adapters",
    "lora_path": "adapters",
    "max_model_len": "max_length",
    "max_retries": "retries",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
    "max_tokens": "max_length",
    "model_id": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "model_path": "model",
    "num_results": "top_n",
    "prompt": "instruction",
    "query_instruction": "instruction",
    "request_timeout": "timeout_s",
    "score_threshold": "min_score",
    "similarity_cutoff": "min_score",
    "similarity_threshold": "min_score",
    "threshold": "min_score",
    "top_k": "top_n",
    "topk": "top_n",
    "torch_dtype": "dtype",
    "url": "base_url",
    "use_bf16": "dtype",
    "use_fp16": "dtype",
    "verify": "ca_file",
    "verify_ssl": "ca_file",
}
"""Names that other reranking projects use → the setting of the same purpose here."""

REMARKS = {
    "cache_dir": "the variable HF_HOME names the folder for downloaded models",
    "normalize": "relevance_score is always a probability, and log_odds its raw score",
    "trust_remote_code": "it is not supported, because code of a checkpoint is never run",
}
"""Names that other projects use and that have no setting here → what to know instead."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` most likely means, or None if no known name is near.

    Another project's name for a setting is looked up first, then the spelling is compared. Case, hyphens in place
    of underscores, and the prefix of variables make no difference.

    Args:
        name: The unknown name.
        known: The names to choose from; of equally near ones the first in the alphabet is returned.
    """
    by_folded = {_folded(one): one for one in sorted(known, reverse=True)}
    folded = _folded(name)
    if FOREIGN_NAMES.get(folded) in by_folded:
        return by_folded[FOREIGN_NAMES[folded]]
    if folded in REMARKS:
        return None
    similarity = {one: difflib.SequenceMatcher(None, folded, one).ratio() for one in sorted(by_folded)}
    best = max(similarity, key=similarity.__getitem__, default=None)
    return None if best is None or similarity[best] < CUTOFF else by_folded[best]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return what to do about an unknown name, as the end of a sentence: the near name, a remark, or all names."""
    names = sorted(known)
    near = nearest_name(name, names)
    if near is not None:
        return f"did you mean {near!r}?"
    return REMARKS.get(_folded(name)) or f"use one of: {', '.join(names)}"


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_").removeprefix(ENV_PREFIX.casefold())
