"""Prompts: exactly the published ids; truncation, caps and chunks respect the limits."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.core.prompts.encoder import EncodedPair, PromptEncoder, TokenLimits
from qwen_rerank_plugins.core.prompts.families import FAMILIES, PromptFamily
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import InputError, InstructionTooLongError
from qwen_rerank_plugins.types import ScoreRequest
from tests.core import oracle
from tests.core.oracle import Recipes
from tests.core.prompts.test_tokenizer import PREFIX_IDS, SUFFIX_IDS
from tests.core.qwen_vocabulary import qwen_tokenizer
from tests.core.texts import NASTY, long_texts, texts

CHINA = ("What is the capital of China?", "The capital of China is Beijing.")
CHINA_IDS = (
    *(27, 641, 1235, 26818, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429, 4226, 279, 3239),
    *(198, 27, 2859, 26818, 3555, 374, 279, 6722, 315, 5616, 5267, 75692, 26818, 576, 6722, 315, 5616),
    *(374, 26549, 13),
)


def encoder(qwen: PromptTokenizer, family: str = "qwen3", **limits: object) -> PromptEncoder:
    return PromptEncoder(qwen, FAMILIES[family], TokenLimits(**limits))  # type: ignore[arg-type]


def encode(
    qwen: PromptTokenizer,
    query: str,
    document: str,
    instruction: str | None = None,
    family: str = "qwen3",
    **limits: object,
) -> EncodedPair:
    (pair,) = encoder(qwen, family, **limits).encode([ScoreRequest(query, document, instruction)])
    return pair


def total(pair: EncodedPair) -> int:
    """Tokens of all prompts of a pair."""
    return sum(prompt.end for prompt in pair.prompts)


def whole(prompt: Segment) -> list[int]:
    """The ids of a prompt."""
    return [number for segment in prompt.path() for number in segment.ids]


def ids(qwen: PromptTokenizer, *texts_: str | None, **settings: object) -> list[int]:
    """The ids of a pair that is not read in chunks."""
    (prompt,) = encode(qwen, *texts_, **settings).prompts  # type: ignore[arg-type]
    return whole(prompt)


# ------------------------------------------------------------------------------------------- exact ids


def test_the_readmes_pair_has_its_published_ids(qwen: PromptTokenizer) -> None:
    pair = encode(qwen, *CHINA)
    assert whole(pair.prompts[0]) == [*PREFIX_IDS, *CHINA_IDS, *SUFFIX_IDS]
    assert (total(pair), pair.truncated, pair.query_truncated, pair.spans) == (85, False, False, (None,))


@pytest.mark.parametrize("text", NASTY)
def test_qwen3_is_tokenised_as_one_string_would_be(
    qwen: PromptTokenizer, recipes: Recipes, text: str
) -> None:
    for query, document in [(text, "x"), ("x", text), (text, text)]:
        assert ids(qwen, query, document, text) == recipes.ids(oracle.qwen3_text(query, document, text))


@given(query=texts, document=texts, instruction=texts)
def test_the_split_is_exact_for_any_text(
    qwen: PromptTokenizer, recipes: Recipes, query: str, document: str, instruction: str
) -> None:
    """Head and tail together are the joined string's ids, so sharing the head changes nothing."""
    expected = recipes.ids(oracle.qwen3_text(query, document, instruction))
    assert ids(qwen, query, document, instruction) == expected
    expected = recipes.ids(oracle.eval_text(query, document, instruction) + oracle.SUFFIX)
    assert ids(qwen, query, document, instruction, "qwen3-eval") == expected
    assert ids(qwen, query, document, family="zerank") == recipes.zerank((query, document))


@given(query=texts, document=texts, instruction=st.none() | texts.filter(bool))
def test_mxbai_is_tokenised_piece_by_piece_as_its_authors_do(
    qwen: PromptTokenizer, recipes: Recipes, query: str, document: str, instruction: str | None
) -> None:
    expected = recipes.mxbai((query, document), instruction)
    assert ids(qwen, query, document, instruction, "mxbai") == expected


def test_the_default_instruction_is_the_model_cards(qwen: PromptTokenizer) -> None:
    assert ids(qwen, "q", "d") == ids(qwen, "q", "d", oracle.INSTRUCTION)
    assert ids(qwen, "q", "d", "") != ids(qwen, "q", "d")


def test_pairs_of_one_query_share_their_first_segments(qwen: PromptTokenizer) -> None:
    """Root and query are the very same segments, so that packing merges them."""
    requests = [ScoreRequest("q", "one"), ScoreRequest("q", "two"), ScoreRequest("other", "one")]
    first, second, third = (pair.prompts[0].path() for pair in encoder(qwen).encode(requests))
    assert first[:2] == second[:2]
    assert first[0] == third[0]
    assert first[1] != third[1]


def test_pairs_come_back_in_input_order(qwen: PromptTokenizer, recipes: Recipes) -> None:
    pairs = [(q, d) for q in ("a", "b", "") for d in ("北京", "", "a", "北京")]
    encoded = encoder(qwen).encode([ScoreRequest(*pair) for pair in pairs])
    assert [whole(e.prompts[0]) for e in encoded] == [recipes.qwen3(pair) for pair in pairs]


def test_nothing_to_encode_gives_nothing(qwen: PromptTokenizer) -> None:
    assert encoder(qwen).encode([]) == []
    assert encoder(qwen, long_documents="chunk").encode([]) == []


# ---------------------------------------------------------------------------------------------- limits


@given(document=long_texts, max_length=st.integers(90, 300))
def test_a_long_document_is_cut_as_the_recipe_cuts_it(
    qwen: PromptTokenizer, recipes: Recipes, document: str, max_length: int
) -> None:
    """Only the document's end is removed, and the flag says whether it was."""
    query = "how to wash a cat"
    pair = encode(qwen, query, document, max_length=max_length)
    assert whole(pair.prompts[0]) == recipes.qwen3((query, document), max_length=max_length)
    assert total(pair) <= max_length
    assert pair.truncated == (len(recipes.ids(oracle.qwen3_text(query, document))) > max_length)


@given(document=long_texts, max_length=st.integers(90, 300))
def test_the_evaluation_variant_loses_its_second_end_of_turn_first(
    qwen: PromptTokenizer, recipes: Recipes, document: str, max_length: int
) -> None:
    pair = encode(qwen, "cat", document, family="qwen3-eval", max_length=max_length)
    assert whole(pair.prompts[0]) == recipes.qwen3_eval(("cat", document), max_length=max_length)


def test_the_suffix_stands_whatever_is_cut(qwen: PromptTokenizer) -> None:
    for family in FAMILIES:
        end = qwen.control_ids(FAMILIES[family].pieces[-1].text)
        pair = encode(qwen, "q", "word " * 500, family=family, max_length=150)
        assert tuple(whole(pair.prompts[0])[-len(end) :]) == end
        assert total(pair) == 150
        assert pair.truncated


def test_a_family_of_ones_own_keeps_the_limit_without_saying_that_its_document_may_be_cut(
    qwen: PromptTokenizer,
) -> None:
    """307 tokens came out at a `max_length` of 200: only a piece with `cut: true` was ever cut."""
    own = FAMILIES["qwen3"].model_dump()
    own["name"] = "own"
    for piece in own["document"]:
        piece["cut"] = False
    request = ScoreRequest("q", "word " * 300)
    pairs = [
        PromptEncoder(qwen, family, TokenLimits(max_length=200)).encode([request])[0]
        for family in (FAMILIES["qwen3"], PromptFamily.model_validate(own))
    ]
    assert pairs[1] == pairs[0]
    assert (total(pairs[1]), pairs[1].truncated) == (200, True)


def test_a_long_word_is_cut_as_the_whole_of_it_would_be(qwen: PromptTokenizer, recipes: Recipes) -> None:
    """Without spaces there is no safe place to clip, so the tokens before the clip need a margin.

    Words of 8 to 10 characters a token, of which the text is clipped at 8: the last tokens before the clip differ
    from those of the whole word.
    """
    draw = random.Random(5)
    pieces = sorted(
        token
        for token in qwen_tokenizer().get_vocab()
        if token.isascii() and token.isalpha() and token.islower() and 8 <= len(token) <= 10
    )
    for _ in range(150):
        word = "".join(draw.choices(pieces, k=60))
        max_length = draw.randrange(90, 130)
        pair = encode(qwen, "q", word, max_length=max_length)
        assert whole(pair.prompts[0]) == recipes.qwen3(("q", word), max_length=max_length)


@pytest.mark.parametrize("chunk_overlap", [64, 16, 0])
def test_chunks_are_few_whatever_the_overlap_asks_for(qwen: PromptTokenizer, chunk_overlap: int) -> None:
    """An overlap is at most half a chunk. At a token less than a chunk, 400 words made 257 chunks instead of 13."""
    words = "Wash a cat once a month, in lukewarm water, and speak to it softly. " * 25
    num_tokens = len(qwen.encode([words])[0])
    limits: dict[str, Any] = {"long_documents": "chunk", "chunk_tokens": 48, "chunk_overlap": chunk_overlap}
    assert (
        num_tokens / 48
        <= len(encode(qwen, "q", words, **limits).prompts)
        <= 2 * num_tokens / (48 * 3 // 4) + 2
    )


def test_one_token_more_than_fits_is_cut_and_flagged(qwen: PromptTokenizer) -> None:
    """At the very limit nothing is lost; a token further one is."""
    needed = total(encode(qwen, *CHINA))
    assert not encode(qwen, *CHINA, max_length=needed).truncated
    cut = encode(qwen, *CHINA, max_length=needed - 1)
    assert cut.truncated
    assert total(cut) == needed - 1


def test_a_long_query_is_cut_to_its_cap_and_flagged(qwen: PromptTokenizer) -> None:
    pair = encode(qwen, "cat " * 100, "d", max_query_tokens=10)
    assert whole(pair.prompts[0]) == ids(qwen, "cat" + " cat" * 9, "d")
    assert pair.query_truncated
    assert not pair.truncated


@given(query=long_texts, cap=st.integers(1, 60))
def test_a_query_never_takes_more_than_its_cap(qwen: PromptTokenizer, query: str, cap: int) -> None:
    """What is cut is cut before a token that did not fit, so the rest has at most as many tokens, or a split's more."""
    pair = encode(qwen, query, "d", max_query_tokens=cap)
    length = len(pair.prompts[0].path()[1].ids) - len(encode(qwen, "", "d").prompts[0].path()[1].ids)
    assert length <= cap + 2
    if len(qwen.encode([query])[0]) <= cap:
        assert not pair.query_truncated
        assert ids(qwen, query, "d") == whole(pair.prompts[0])
    else:
        assert pair.query_truncated


def test_an_instruction_that_leaves_no_room_is_an_error(qwen: PromptTokenizer) -> None:
    with pytest.raises(InstructionTooLongError, match=r"leave no room for a document; max_length is 100"):
        encode(qwen, "q", "d", "word " * 100, max_length=100)
    with pytest.raises(InstructionTooLongError):
        encode(qwen, "q", "d", max_length=10)


def test_a_family_without_an_instruction_refuses_one(qwen: PromptTokenizer) -> None:
    with pytest.raises(InputError, match="'zerank' takes no instruction, but one of 5 characters was given"):
        encode(qwen, "q", "d", "judge", family="zerank")


def test_lone_surrogates_become_the_replacement_character(qwen: PromptTokenizer) -> None:
    broken = "a\ud800b\udfff"
    mended = "a\ufffdb\ufffd"
    assert ids(qwen, broken, broken, broken) == ids(qwen, mended, mended, mended)
    assert encode(qwen, "q", broken * 300, long_documents="chunk", chunk_tokens=50).spans[-1] is not None


# ------------------------------------------------------------------------------------------ long texts


@pytest.mark.parametrize(
    "unit",
    [
        "word ",
        "a ",
        "北京",
        "=",
        "ab",
        "0",
        " ",
        "\n",
        "😀",
        "e\u0301 ",
        "x" * 5000 + " ",
        "², ",
        "한",
        ". \n",
    ],
)
@pytest.mark.parametrize("max_length", [100, 250])
def test_a_clipped_text_gives_the_ids_of_the_whole_text(
    qwen: PromptTokenizer, recipes: Recipes, unit: str, max_length: int
) -> None:
    """Texts are clipped before they are tokenised, so that a long one costs what is used of it."""
    document = unit * (20_000 // len(unit) + 2)
    pair = encode(qwen, "q", document, max_length=max_length)
    assert whole(pair.prompts[0]) == recipes.qwen3(("q", document), max_length=max_length)
    assert pair.truncated == (len(recipes.ids(oracle.qwen3_text("q", document))) > max_length)


@pytest.mark.parametrize("unit", [" ", "=", "word ", "北京", "x"])
def test_a_long_query_that_fits_its_cap_is_not_cut(
    qwen: PromptTokenizer, recipes: Recipes, unit: str
) -> None:
    query = unit * 3000
    cap = len(qwen.encode([query])[0]) + 1
    pair = encode(qwen, query, "d", max_query_tokens=cap)
    assert not pair.query_truncated
    assert whole(pair.prompts[0]) == recipes.qwen3((query, "d"))


@pytest.mark.parametrize("unit", ["a plain sentence of words. ", "北京的医院。", "=", "x", "\n", "😀"])
def test_a_document_of_ten_megabytes_is_cut_quickly(qwen: PromptTokenizer, unit: str) -> None:
    document = unit * (10_000_000 // len(unit.encode()))
    started = time.perf_counter()
    pair = encode(qwen, "q", document, max_length=8192)
    assert time.perf_counter() - started < 20
    assert pair.truncated
    assert total(pair) == 8192


# ---------------------------------------------------------------------------------------------- chunks


@given(document=long_texts, chunk_tokens=st.integers(8, 60), overlap=st.integers(0, 7))
def test_a_chunk_scores_as_that_text_alone(
    qwen: PromptTokenizer, document: str, chunk_tokens: int, overlap: int
) -> None:
    """Each chunk's prompt is the prompt of the text in its span, and no chunk is longer than the limit."""
    pair = encode(
        qwen, "q", document, long_documents="chunk", chunk_tokens=chunk_tokens, chunk_overlap=overlap
    )
    assert not pair.truncated
    for prompt, span in zip(pair.prompts, pair.spans, strict=True):
        text = document if span is None else document[slice(*span)]
        assert whole(prompt) == ids(qwen, "q", text)
        assert len(qwen.encode([" " + text])[0]) <= chunk_tokens


def test_a_document_that_fits_is_read_whole(qwen: PromptTokenizer) -> None:
    pair = encode(qwen, *CHINA, long_documents="chunk", chunk_tokens=20)
    assert pair.spans == (None,)
    assert whole(pair.prompts[0]) == ids(qwen, *CHINA)


def test_chunks_fit_what_the_prompt_leaves(qwen: PromptTokenizer) -> None:
    """A chunk is never longer than max_length allows, whatever chunk_tokens says."""
    pair = encode(qwen, "q", "word " * 300, long_documents="chunk", chunk_tokens=500, max_length=120)
    assert len(pair.prompts) > 1
    assert max(prompt.end for prompt in pair.prompts) <= 120
    assert not pair.truncated


def test_a_long_blank_document_is_one_prompt(qwen: PromptTokenizer) -> None:
    pair = encode(qwen, "q", " \n" * 500, long_documents="chunk", chunk_tokens=20, max_length=100)
    assert len(pair.prompts) == 1
    assert total(pair) <= 100
