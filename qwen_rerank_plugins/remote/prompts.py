"""Qwen3's prompt as two texts, for services that concatenate a pair of texts and score the result.

Nothing here knows a tokenizer, so control tokens in user text cannot be encoded as plain text as the local model does.
They are broken up instead, by a space after the initial `<`. Rejecting such a text would let one poisoned document
fail every search that finds it.
"""

from __future__ import annotations

import re

from qwen_rerank_plugins.recipe import DEFAULT_INSTRUCTION, PREFIX, SUFFIX

__all__ = ["break_control_tokens", "document_part", "query_part"]

_CONTROL = re.compile(r"<(?=\|[^\s|<>]{1,64}\|>|/?(?:think|tool_call|tool_response)>)")


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
