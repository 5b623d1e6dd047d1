"""Limits of a request: its texts are truncated exactly as if the caller had truncated them, or the configuration said so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import InputError, InputTypeError, InstructionTooLongError, TextLimits
from qwen_rerank_plugins.core.prompts.encoder import EncodedPair, PromptEncoder, TokenLimits
from qwen_rerank_plugins.core.prompts.families import FAMILIES
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.types import ScoreRequest
from tests.core.texts import long_texts, texts

WORDS = " ".join(f"word{number}" for number in range(60))


def encode(
    qwen: PromptTokenizer, query: str, document: str, limits: TextLimits | None = None, **configured: Any
) -> EncodedPair:
    encoder = PromptEncoder(qwen, FAMILIES["qwen3"], TokenLimits(**configured))
    (pair,) = encoder.encode([ScoreRequest(query, document, None, limits)])
    return pair


def ids(pair: EncodedPair) -> list[list[int]]:
    return [[number for segment in prompt.path() for number in segment.ids] for prompt in pair.prompts]


def first_tokens(qwen: PromptTokenizer, text: str, count: int) -> str:
    starts = qwen.token_offsets(text)
    return text[: starts[count]] if count < len(starts) else text


@given(document=st.one_of(texts, long_texts), count=st.integers(1, 60))
def test_a_document_is_truncated_to_its_tokens(qwen: PromptTokenizer, document: str, count: int) -> None:
    found = encode(qwen, "cat", document, TextLimits(max_document_tokens=count))
    kept = first_tokens(qwen, document, count)
    assert ids(found) == ids(encode(qwen, "cat", kept))
    assert found.truncated == (kept != document)


@given(query=texts, count=st.integers(1, 20))
def test_a_query_is_truncated_as_the_configured_limit_truncates_it(
    qwen: PromptTokenizer, query: str, count: int
) -> None:
    found = encode(qwen, query, "a cat", TextLimits(max_query_tokens=count))
    configured = encode(qwen, query, "a cat", max_query_tokens=count)
    assert (ids(found), found.query_truncated) == (ids(configured), configured.query_truncated)


@pytest.mark.parametrize("long_documents", ["truncate", "chunk"])
def test_a_prompt_is_limited_as_the_configured_limit_limits_it(
    qwen: PromptTokenizer, long_documents: str
) -> None:
    found = encode(qwen, "cat", WORDS, TextLimits(max_length=100), long_documents=long_documents)
    configured = encode(qwen, "cat", WORDS, max_length=100, long_documents=long_documents)
    assert (ids(found), found.truncated) == (ids(configured), configured.truncated)
    assert ids(found) != ids(encode(qwen, "cat", WORDS))


def test_no_limit_of_a_request_exceeds_the_configured_one(qwen: PromptTokenizer) -> None:
    configured = {"max_length": 100, "max_query_tokens": 5}
    larger = TextLimits(
        max_document_tokens=10_000, max_query_tokens=10_000, max_length=10_000, max_chunks=10_000
    )
    found, plain = (encode(qwen, WORDS, WORDS, limits, **configured) for limits in (larger, None))
    assert (ids(found), found.truncated, found.query_truncated) == (ids(plain), True, True)


def test_of_a_document_in_chunks_the_first_are_read(qwen: PromptTokenizer) -> None:
    settings: dict[str, Any] = {"long_documents": "chunk", "chunk_tokens": 40, "chunk_overlap": 0}
    whole = encode(qwen, "cat", WORDS, **settings)
    assert len(whole.spans) > 2
    two = encode(qwen, "cat", WORDS, TextLimits(max_chunks=2), **settings)
    assert (ids(two), two.spans, two.truncated) == (ids(whole)[:2], whole.spans[:2], True)
    every = encode(qwen, "cat", WORDS, TextLimits(max_chunks=len(whole.spans)), **settings)
    assert (every.spans, every.truncated) == (whole.spans, False)


def test_chunks_are_those_of_the_truncated_document(qwen: PromptTokenizer) -> None:
    settings: dict[str, Any] = {"long_documents": "chunk", "chunk_tokens": 40, "chunk_overlap": 0}
    found = encode(qwen, "cat", f"  {WORDS}", TextLimits(max_document_tokens=90), **settings)
    plain = encode(qwen, "cat", first_tokens(qwen, f"  {WORDS}", 90), **settings)
    assert (ids(found), found.spans) == (ids(plain), plain.spans)
    assert (found.truncated, plain.truncated) == (True, False)


def test_pairs_of_one_query_keep_their_own_limits(qwen: PromptTokenizer) -> None:
    encoder = PromptEncoder(qwen, FAMILIES["qwen3"], TokenLimits())
    limits = [None, TextLimits(max_query_tokens=3), TextLimits(max_document_tokens=3), None]
    pairs = encoder.encode([ScoreRequest(WORDS, WORDS, None, one) for one in limits])
    assert [ids(pair) for pair in pairs] == [ids(encode(qwen, WORDS, WORDS, one)) for one in limits]
    assert [(pair.query_truncated, pair.truncated) for pair in pairs] == [
        (False, False),
        (True, False),
        (False, True),
        (False, False),
    ]


def test_a_prompt_without_room_for_a_document_is_an_error(qwen: PromptTokenizer) -> None:
    with pytest.raises(InstructionTooLongError, match="max_length is 20"):
        encode(qwen, "cat", WORDS, TextLimits(max_length=20))


@pytest.mark.parametrize("name", ["max_document_tokens", "max_query_tokens", "max_length", "max_chunks"])
def test_a_limit_is_an_integer_of_at_least_one(name: str) -> None:
    with pytest.raises(InputError, match=f"`{name}` must be at least 1, got 0"):
        TextLimits(**{name: 0})
    for value in (True, 1.5, "3"):
        with pytest.raises(InputTypeError, match=f"`{name}` must be an integer or None"):
            TextLimits(**{name: value})  # type: ignore[arg-type]
