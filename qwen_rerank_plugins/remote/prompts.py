"""Qwen3's prompt as two texts, for services that concatenate a pair of texts and score the result.

The strings equal those of the core's `qwen3` family; a test compares them. Nothing here knows a tokenizer, so control
tokens in user text cannot be encoded as plain text as the local model does. They are broken up instead, by a space
after the initial `<`. Rejecting such a text would let one poisoned document fail every search that finds it.
"""

from __future__ import annotations

import re

__all__ = [
    "DEFAULT_INSTRUCTION",
    "PREFIX",
    "SUFFIX",
    "break_control_tokens",
    "document_part",
    "query_part",
    "replace_surrogates",
]

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

_CONTROL = re.compile(r"<(?=\|[^\s|<>]{1,64}\|>|/?(?:think|tool_call|tool_response)>)")
_SURROGATES = re.compile("[\ud800-\udfff]")


def query_part(query: str, instruction: str | None) -> str:
    """Return the first text of the pair: everything before `<Document>:`."""
    chosen = break_control_tokens(DEFAULT_INSTRUCTION if instruction is None else instruction)
    return f"{PREFIX}<Instruct>: {chosen}\n<Query>: {break_control_tokens(query)}\n"


def document_part(document: str) -> str:
    """Return the second text of the pair: the document and the suffix."""
    return f"<Document>: {break_control_tokens(document)}{SUFFIX}"


def break_control_tokens(text: str) -> str:
    """Return the text with every control token of Qwen's vocabularies broken up, otherwise unchanged."""
    return _CONTROL.sub("< ", text)


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD. The length stays, so that spans remain valid."""
    return _SURROGATES.sub("\ufffd", text)
