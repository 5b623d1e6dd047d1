"""Qwen3's prompt as two texts, for services that score a raw pair of texts by joining them.

The strings are those of the `qwen3` family, which is the core's; a test holds them equal. Nothing here knows a
tokenizer, so control tokens in user text cannot be encoded as plain pieces, as the local model does it. They are
broken up instead: a space after the `<` that begins them. To refuse such a text would let one poisoned document fail
every search that finds it.
"""

from __future__ import annotations

import re

__all__ = ["DEFAULT_INSTRUCTION", "PREFIX", "SUFFIX", "clean", "document_part", "inert", "query_part"]

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

_CONTROL = re.compile(r"<(?=\|[^\s|<>]{1,64}\|>|/?(?:think|tool_call|tool_response)>)")
_SURROGATES = re.compile("[\ud800-\udfff]")


def query_part(query: str, instruction: str | None) -> str:
    """The first text of the pair: everything before `<Document>:`."""
    wanted = DEFAULT_INSTRUCTION if instruction is None else instruction
    return f"{PREFIX}<Instruct>: {inert(wanted)}\n<Query>: {inert(query)}\n"


def document_part(document: str) -> str:
    """The second text of the pair: the document, and what follows it."""
    return f"<Document>: {inert(document)}{SUFFIX}"


def inert(text: str) -> str:
    """The text with every control token of Qwen's vocabularies broken up; other text is not changed."""
    return _CONTROL.sub("< ", text)


def clean(text: str) -> str:
    """The text without lone surrogates, which have no bytes; of the same length, so that spans stay true."""
    return _SURROGATES.sub("\ufffd", text)
