"""Qwen3-Reranker's prompt as literal strings, and what replaces text that UTF-8 cannot encode.

Source of the strings: https://huggingface.co/Qwen/Qwen3-Reranker-0.6B. Knows no tokenizer and no model.
"""

from __future__ import annotations

import re

__all__ = ["DEFAULT_INSTRUCTION", "PREFIX", "SUFFIX", "replace_surrogates"]

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

_SURROGATES = re.compile("[\ud800-\udfff]")


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD. The length stays, so that spans remain valid."""
    return _SURROGATES.sub("\ufffd", text)
