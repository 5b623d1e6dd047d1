"""Qwen3-Reranker's prompt as literal strings, what replaces text that UTF-8 cannot encode, and warnings about texts.

Source of the strings: https://huggingface.co/Qwen/Qwen3-Reranker-0.6B. Knows no tokenizer and no model.
"""

from __future__ import annotations

import re

__all__ = [
    "DEFAULT_INSTRUCTION",
    "PREFIX",
    "REMOVED_TEMPLATE",
    "REPAIRED_TEXT",
    "SUFFIX",
    "TEMPLATE_IN_TEXT",
    "TEXT_WARNINGS",
    "repair_json",
    "replace_surrogates",
]

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

REPAIRED_TEXT = "a text had lone surrogates, which were replaced by U+FFFD"
"""A warning of a score: UTF-8 cannot encode the query, the instruction or the document."""

TEMPLATE_IN_TEXT = "a text already has a prompt template around it; set `unwrap` to 'strip' to remove it"
"""A warning of a score: the prompt has the template twice."""

REMOVED_TEMPLATE = "a prompt template around a text was removed"
"""A warning of a score: the text inside the template was scored."""

TEXT_WARNINGS = (REPAIRED_TEXT, TEMPLATE_IN_TEXT, REMOVED_TEMPLATE)
"""All warnings that a local score can have."""

_SURROGATES = re.compile("[\ud800-\udfff]")
_HEX = "[0-9a-fA-F]{2}"
_LONE_ESCAPE = re.compile(
    rf"\\u[dD](?:[89abAB]{_HEX}(?!\\u[dD][c-fC-F]{_HEX})|(?<!\\u[dD][89abAB]{_HEX}\\u[dD])[c-fC-F]{_HEX})"
)


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD. The length stays, so that spans remain valid."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def repair_json(text: str) -> str:
    """Replace each escape of a lone surrogate in JSON by that of U+FFFD. The length stays; other text is returned as it is."""
    if "\\" not in text or not _LONE_ESCAPE.search(text) or "\0" in text:  # JSON has no zero characters
        return text
    # Zeros stand for escaped backslashes, so that each other backslash begins an escape.
    masked = text.replace("\\\\", "\0\0")
    return _LONE_ESCAPE.sub(r"\\ufffd", masked).replace("\0\0", "\\\\")
