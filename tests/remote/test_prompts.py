"""The prompt that is sent to a raw service is the one that the local model is asked with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import recipe
from qwen_rerank_plugins.core.prompts.families import QWEN3, PromptFamily
from qwen_rerank_plugins.remote import prompts
from tests.core.qwen_vocabulary import qwen_tokenizer

CONTROL_TOKENS = sorted(token.content for token in qwen_tokenizer().get_added_tokens_decoder().values())
HOSTILE = st.lists(
    st.sampled_from([*CONTROL_TOKENS, "<", "<|", "|>", "/", " ", "think>", "im_end", "text", "中"]),
    max_size=12,
).map("".join)


def local_prompt(family: PromptFamily, **values: str) -> str:
    return "".join(piece.render(values) for piece in family.pieces)


@given(st.text(), st.text(), st.none() | st.text())
def test_both_parts_joined_are_the_family_s_prompt(
    query: str, document: str, instruction: str | None
) -> None:
    query, document = prompts.break_control_tokens(query), prompts.break_control_tokens(document)
    wanted = prompts.break_control_tokens(
        QWEN3.default_instruction or "" if instruction is None else instruction
    )
    joined = prompts.query_part(query, instruction) + prompts.document_part(document)
    assert joined == local_prompt(QWEN3, instruction=wanted, query=query, document=document)


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_every_control_token_of_the_vocabulary_is_broken_up(token: str) -> None:
    control = set(qwen_tokenizer().get_added_tokens_decoder())
    assert control & set(qwen_tokenizer().encode(f"a {token} b").ids)
    assert not control & set(qwen_tokenizer().encode(prompts.break_control_tokens(f"a {token} b")).ids)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_no_text_adds_a_control_token_to_the_prompt(query: str, document: str, instruction: str) -> None:
    control = set(qwen_tokenizer().get_added_tokens_decoder())

    def control_ids(query: str, document: str, instruction: str) -> list[int]:
        prompt = prompts.query_part(query, instruction) + prompts.document_part(document)
        return [one for one in qwen_tokenizer().encode(prompt).ids if one in control]

    assert control_ids(query, document, instruction) == control_ids("q", "d", "i")


@given(st.text(alphabet=st.characters(exclude_characters="<")))
def test_other_text_is_not_changed(text: str) -> None:
    assert prompts.break_control_tokens(text) == text


@pytest.mark.parametrize(
    "text", ["a < b", "<p>think</p>", "<|>", "a <| b |>", "<thinking>", "x<y|z>", "<| im |>"]
)
def test_text_that_only_looks_like_control_is_not_changed(text: str) -> None:
    assert prompts.break_control_tokens(text) == text


@given(st.text(alphabet=st.characters(categories=["L", "Cs"])))
def test_cleaning_keeps_every_place(text: str) -> None:
    cleaned = recipe.replace_surrogates(text)
    assert len(cleaned) == len(text)
    assert cleaned.encode().decode() == cleaned
    changed = {one for one, other in zip(text, cleaned, strict=True) if one != other}
    assert all("\ud800" <= one <= "\udfff" for one in changed)
