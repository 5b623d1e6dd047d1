"""Texts that clients have damaged or wrapped in a template are repaired, unwrapped and marked; other texts are unchanged."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import recipe
from qwen_rerank_plugins.core.prompts import cleaning
from qwen_rerank_plugins.core.prompts.cleaning import TextCleaner
from qwen_rerank_plugins.core.prompts.encoder import EncodedPair, PromptEncoder, TokenLimits
from qwen_rerank_plugins.core.prompts.families import FAMILIES
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.recipe import REMOVED_TEMPLATE, REPAIRED_TEXT, TEMPLATE_IN_TEXT
from qwen_rerank_plugins.types import ScoreRequest
from tests.core.qwen_vocabulary import qwen_tokenizer
from tests.core.texts import texts

QUERY, DOCUMENT, INSTRUCTION = "capital of China", "Beijing is the capital.", "Find answers."
PREFIX, SUFFIX = recipe.PREFIX, recipe.SUFFIX
TURN_END = "<|im_end|>\n<|im_start|>assistant\n"
MXBAI = FAMILIES["mxbai"]
MXBAI_START, MXBAI_TASK = MXBAI.root[0].text, MXBAI.document[2].text

Wrapping = tuple[str, str, str | None]
"""A query and a document as clients send them, and the instruction in the query."""

WRAPPINGS: dict[str, Wrapping] = {
    "qwen3": (
        f"{PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n",
        f"<Document>: {DOCUMENT}{SUFFIX}",
        INSTRUCTION,
    ),
    "empty lines between the fields": (
        f"{PREFIX}<Instruct>: {INSTRUCTION}\n\n<Query>: {QUERY}\n\n",
        f"<Document>: {DOCUMENT}<|im_end|>\n{SUFFIX}",
        INSTRUCTION,
    ),
    "white space stripped": (
        f"{PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}",
        f"<Document>: {DOCUMENT}{SUFFIX}".strip(),
        INSTRUCTION,
    ),
    "lines end as on Windows": (
        f"{PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n".replace("\n", "\r\n"),
        f"<Document>: {DOCUMENT}{SUFFIX}".replace("\n", "\r\n"),
        INSTRUCTION,
    ),
    "labels alone": (
        f"<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}",
        f"<Document>: {DOCUMENT}",
        INSTRUCTION,
    ),
    "no instruction": (f"<Query>:{QUERY}\n<Document>:", f"<Document>:{DOCUMENT}", None),
    "only the ends": (f"{PREFIX}{QUERY}", f"{DOCUMENT}{SUFFIX}", None),
    "no thinking": (f"<Query>: {QUERY}", f"<Document>: {DOCUMENT}{TURN_END}", None),
    "twice": (
        f"{PREFIX}<Instruct>: Other.\n<Query>: {PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n\n",
        f"<Document>: <Document>: {DOCUMENT}{SUFFIX}{SUFFIX}",
        INSTRUCTION,
    ),
    "the whole prompt as the document": (
        f"<Query>: {QUERY}",
        f"{PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {DOCUMENT}{SUFFIX}",
        None,
    ),
    "zerank": (
        f"<|im_start|>system\n{QUERY}<|im_end|>\n<|im_start|>user\n",
        f"{DOCUMENT}{TURN_END}",
        None,
    ),
    "mxbai": (
        f"{MXBAI_START}instruction: {INSTRUCTION}\nquery: {QUERY}\n",
        f"document: {DOCUMENT}\n{MXBAI_TASK}{TURN_END}",
        INSTRUCTION,
    ),
}


def encode(
    qwen: PromptTokenizer, request: ScoreRequest, family: str = "qwen3", **settings: Any
) -> EncodedPair:
    unwrap = settings.pop("unwrap", "warn")
    return PromptEncoder(qwen, FAMILIES[family], TokenLimits(**settings), unwrap).encode([request])[0]


def prompt_ids(pair: EncodedPair) -> list[int]:
    return [number for prompt in pair.prompts for segment in prompt.path() for number in segment.ids]


@pytest.fixture(autouse=True)
def _nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "_logged", set())


# Templates.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_wrapped_pair_is_unwrapped_to_the_prompt_of_the_plain_pair(
    qwen: PromptTokenizer, wrapping: str, family: str
) -> None:
    query, document, instruction = WRAPPINGS[wrapping]
    if not FAMILIES[family].takes_instruction:
        instruction = None
    plain = encode(qwen, ScoreRequest(QUERY, DOCUMENT, instruction), family)
    unwrapped = encode(qwen, ScoreRequest(query, document), family, unwrap="strip")
    assert prompt_ids(unwrapped) == prompt_ids(plain)
    assert (unwrapped.warnings, plain.warnings) == ((REMOVED_TEMPLATE,), ())


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_each_wrapped_text_is_warned_of_alone_and_scored_as_it_is(
    qwen: PromptTokenizer, wrapping: str, part: int
) -> None:
    texts_ = [QUERY, DOCUMENT]
    texts_[part] = str(WRAPPINGS[wrapping][part])
    request = ScoreRequest(texts_[0], texts_[1])
    warned, off = encode(qwen, request), encode(qwen, request, unwrap="off")
    assert (warned.warnings, off.warnings) == ((TEMPLATE_IN_TEXT,), ())
    assert prompt_ids(warned) == prompt_ids(off)
    assert len(prompt_ids(warned)) > len(prompt_ids(encode(qwen, ScoreRequest(QUERY, DOCUMENT))))


@given(query=texts, document=texts, instruction=texts, family=st.sampled_from(["qwen3", "mxbai"]))
def test_whatever_text_is_wrapped_the_same_text_comes_out(
    query: str, document: str, instruction: str, family: str
) -> None:
    """Line ends at a query's end cannot be distinguished from the template's own."""
    query, instruction = query.rstrip("\r\n"), instruction.rstrip("\r\n")
    cleaner = TextCleaner(FAMILIES[family], "strip")
    one = {"query": query, "document": document, "instruction": instruction}
    head = "".join(piece.render(one) for piece in FAMILIES[family].root + FAMILIES[family].query)
    tail = "".join(piece.render(one) for piece in FAMILIES[family].document)
    if family == "qwen3":  # clients put the document's label before the document
        head, label, _ = head.rpartition("<Document>:")
        tail = label + tail
    cleaned = cleaner.clean(head, "query")
    assert (cleaned.text, cleaned.instruction or "") == (query, instruction)
    assert cleaner.clean(tail, "document").text == document


def test_a_wrapped_instruction_is_unwrapped(qwen: PromptTokenizer) -> None:
    wrapped = ScoreRequest(QUERY, DOCUMENT, f"<Instruct>: {INSTRUCTION}\n")
    plain = ScoreRequest(QUERY, DOCUMENT, INSTRUCTION)
    assert prompt_ids(encode(qwen, wrapped, unwrap="strip")) == prompt_ids(encode(qwen, plain))
    assert encode(qwen, wrapped).warnings == (TEMPLATE_IN_TEXT,)


def test_the_instruction_in_a_wrapped_query_replaces_that_of_the_request(qwen: PromptTokenizer) -> None:
    wrapped = ScoreRequest(f"<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}", DOCUMENT, "Another one.")
    plain = ScoreRequest(QUERY, DOCUMENT, INSTRUCTION)
    assert prompt_ids(encode(qwen, wrapped, unwrap="strip")) == prompt_ids(encode(qwen, plain))


@pytest.mark.parametrize(
    "text",
    [
        "Chat templates end a turn with <|im_end|> and begin one with <|im_start|>.",
        "document: a plain text",
        "query: a plain text",
        "instruction: press the button\nquery: why?",
        "<Document>",
        "<document>: lower case",
        "The label is <Document>: as in the paper.",
        "system\nJudge whether the Document meets the requirements",
        "</think>",
        "",
        " \n",
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_that_only_mentions_a_template_is_left_alone(family: str, text: str) -> None:
    cleaner = TextCleaner(FAMILIES[family].model_copy(update={"strip": False}), "strip")
    for place in ("query", "document", "instruction"):
        assert cleaner.clean(text, place) == cleaning.CleanText(text)


def test_an_unknown_template_is_warned_of_and_left_whole() -> None:
    """Removing half of a template would be worse than leaving all of it."""
    text = f"<|im_start|>system\nAnother task.<|im_end|>\n<|im_start|>user\n<Query>: {QUERY}"
    cleaned = TextCleaner(FAMILIES["qwen3"], "strip").clean(text, "query")
    assert (cleaned.text, cleaned.warnings) == (text, (TEMPLATE_IN_TEXT,))


def test_spans_of_an_unwrapped_document_are_those_of_the_callers_string(qwen: PromptTokenizer) -> None:
    words = " ".join(f"word{number}" for number in range(200))
    document = f"<Document>: <Document>: {words}{SUFFIX}"
    chunks: dict[str, Any] = {"long_documents": "chunk", "chunk_tokens": 64, "chunk_overlap": 0}
    pair = encode(qwen, ScoreRequest(QUERY, document), unwrap="strip", **chunks)
    assert len(pair.spans) > 3
    assert " ".join(document[span[0] : span[1]] for span in pair.spans if span) == words


def test_spans_of_a_document_whose_white_space_is_removed_are_those_of_the_callers_string(
    qwen: PromptTokenizer,
) -> None:
    document = " \n " + "word " * 200
    chunks: dict[str, Any] = {"long_documents": "chunk", "chunk_tokens": 64, "chunk_overlap": 0}
    pair = encode(qwen, ScoreRequest(QUERY, document), "zerank", **chunks)
    assert [document[span[0] : span[1]].split(maxsplit=1)[0] for span in pair.spans if span] == [
        "word"
    ] * len(pair.spans)
    assert pair.spans[0] is not None
    assert pair.spans[0][0] == 3


@pytest.mark.parametrize(
    "text",
    [
        "<Document>:" * 100_000,
        PREFIX * 5_000,
        SUFFIX * 20_000,
        "\n" * 1_000_000,
        f"{PREFIX}<Instruct>: " + "\n" * 500_000,
        "<Document>: " + " " * 500_000 + SUFFIX,
    ],
)
def test_cleaning_takes_time_in_proportion_to_the_text(text: str) -> None:
    cleaner = TextCleaner(FAMILIES["qwen3"], "strip")
    started = time.process_time()
    for place in ("query", "document", "instruction"):
        cleaner.clean(text, place)
    assert time.process_time() - started < 3


# Broken text.


HIGH, LOW = chr(0xD83D), chr(0xDE00)


@pytest.mark.parametrize("broken", [HIGH, LOW, HIGH + LOW, LOW + HIGH, f"a{HIGH}b{LOW}", f"{HIGH}\x00\ufeff"])
def test_lone_surrogates_are_replaced_one_for_one_and_marked(qwen: PromptTokenizer, broken: str) -> None:
    mended = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in broken)
    plain = encode(qwen, ScoreRequest(mended, mended, mended))
    assert plain.warnings == ()
    for part in range(3):
        query, document, instruction = (broken if number == part else mended for number in range(3))
        pair = encode(qwen, ScoreRequest(query, document, instruction))
        assert (prompt_ids(pair), pair.warnings) == (prompt_ids(plain), (REPAIRED_TEXT,))


@pytest.mark.parametrize(
    "character", ["\x00", "\ufeff", "\ufffe", "\uffff", "\ufffd", "\x1b", "\u200b", "\x85"]
)
def test_valid_characters_that_look_broken_reach_the_tokenizer_unchanged(
    qwen: PromptTokenizer, character: str
) -> None:
    text = f"{character}a{character}"
    pair = encode(qwen, ScoreRequest(text, text, text))
    official = f"{PREFIX}<Instruct>: {text}\n<Query>: {text}\n<Document>: {text}{SUFFIX}"
    assert prompt_ids(pair) == qwen_tokenizer().encode(official, add_special_tokens=False).ids
    assert pair.warnings == ()


def test_each_warning_is_logged_once_and_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    cleaner = TextCleaner(FAMILIES["qwen3"], "warn")
    with caplog.at_level(logging.DEBUG, logger="qwen_rerank_plugins"):
        for _ in range(3):
            cleaner.clean("<Document>: a secret\ud800", "document")
            cleaner.clean("<Query>: a secret", "query")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "'strip'" in caplog.text
    assert "U+FFFD" in caplog.text
    assert "secret" not in caplog.text
