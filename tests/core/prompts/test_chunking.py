"""Chunks: every visible character is in one, none is too long, and neighbours overlap."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_rerank_plugins.core.prompts.chunking import chunk_spans, clip_at_token_boundary
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from tests.core.texts import long_texts, texts

PROSE = "Wash a cat once a month, in water below 36 °C, and speak to it softly. " * 40
CHINESE = "给猫洗澡要用低于三十六度的水，一个月一次就够了。" * 40


def covered(spans: list[tuple[int, int]]) -> set[int]:
    return set(itertools.chain.from_iterable(itertools.starmap(range, spans)))


@given(
    text=st.one_of(long_texts, texts, st.text(max_size=300)),
    limit=st.integers(1, 40),
    overlap=st.integers(0, 20),
)
def test_chunks_hold_every_visible_character(
    qwen: PromptTokenizer, text: str, limit: int, overlap: int
) -> None:
    spans = chunk_spans(text, qwen, limit, min(overlap, limit // 2))
    visible = {place for place, character in enumerate(text) if not character.isspace()}
    assert visible <= covered(spans)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)


@given(text=st.one_of(long_texts, st.text(max_size=300)), limit=st.integers(8, 40))
@example(text="the " * 17 + "\n", limit=8)
def test_chunks_are_in_order_and_none_is_too_long(qwen: PromptTokenizer, text: str, limit: int) -> None:
    spans = chunk_spans(text, qwen, limit, limit // 4)
    assert spans == sorted(spans)
    assert all(before < after for (_, before), (_, after) in itertools.pairwise(spans))
    assert all(len(qwen.encode([" " + text[start:end]])[0]) <= limit for start, end in spans)


@pytest.mark.parametrize("text", [PROSE, CHINESE])
def test_neighbours_share_about_the_overlap(qwen: PromptTokenizer, text: str) -> None:
    spans = chunk_spans(text, qwen, 64, 16)
    shared = [len(qwen.encode([text[b:a]])[0]) for (_, a), (b, _) in itertools.pairwise(spans)]
    assert len(spans) > 5
    assert all(12 <= tokens <= 18 for tokens in shared)


@pytest.mark.parametrize("text", [PROSE, CHINESE])
def test_without_overlap_nothing_is_read_twice(qwen: PromptTokenizer, text: str) -> None:
    spans = chunk_spans(text, qwen, 64, 0)
    assert all(a <= b for (_, a), (b, _) in itertools.pairwise(spans))


def test_chunks_begin_and_end_at_words(qwen: PromptTokenizer) -> None:
    words = set(PROSE.split())
    for start, end in chunk_spans(PROSE, qwen, 32, 8):
        assert set(PROSE[start:end].split()) <= words


def test_chunks_are_filled(qwen: PromptTokenizer) -> None:
    """A chunk that ends early would cost an additional prompt, so each is at least three quarters full."""
    spans = chunk_spans(PROSE, qwen, 64, 0)
    lengths = [len(qwen.encode([" " + PROSE[start:end]])[0]) for start, end in spans[:-1]]
    assert min(lengths) >= 45


def test_a_word_without_end_is_cut_inside(qwen: PromptTokenizer) -> None:
    spans = chunk_spans("x" * 3000, qwen, 20, 5)
    assert covered(spans) == set(range(3000))


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000"])
def test_a_blank_text_has_no_chunks(qwen: PromptTokenizer, text: str) -> None:
    assert chunk_spans(text, qwen, 10, 2) == []


@pytest.mark.parametrize("unit", ["a plain sentence of words. ", "北京的医院。", "x"])
def test_a_megabyte_is_chunked_quickly(qwen: PromptTokenizer, unit: str) -> None:
    text = unit * (1_000_000 // len(unit.encode()))
    started = time.perf_counter()
    spans = chunk_spans(text, qwen, 512, 64)
    assert time.perf_counter() - started < 20
    assert spans[-1][1] == len(text.rstrip())


@given(text=long_texts, limit=st.integers(0, 400))
def test_a_clip_is_a_prefix_of_the_text(text: str, limit: int) -> None:
    clip = clip_at_token_boundary(text, limit)
    assert text.startswith(clip)
    assert len(clip) <= limit or len(text) <= limit


def test_a_clip_ends_at_the_last_safe_place() -> None:
    assert clip_at_token_boundary(PROSE, 100) == PROSE[:100].rpartition(" ")[0]


@given(text=st.one_of(long_texts, st.text(alphabet="a .,²Ⅷ\u0301北\n0'")), limit=st.integers(1, 100))
def test_what_is_clipped_at_a_safe_place_keeps_its_tokens(
    qwen: PromptTokenizer, text: str, limit: int
) -> None:
    clip = clip_at_token_boundary(text, limit)
    if clip == text or text[len(clip)] != " ":
        return  # there was no safe place
    clipped, all_ids = qwen.encode([clip, text])
    assert all_ids[: len(clipped)] == clipped


@pytest.mark.parametrize("overlap", [0, 16, 63])
def test_a_text_has_about_as_many_chunks_as_its_length_asks_for(qwen: PromptTokenizer, overlap: int) -> None:
    """An overlap of half a chunk or less at most doubles the chunks."""
    num_tokens = len(qwen.encode([PROSE])[0])
    chunks = chunk_spans(PROSE, qwen, 64, min(overlap, 32))
    assert num_tokens / 64 <= len(chunks) <= 2 * num_tokens / (64 * 3 // 4) + 2
