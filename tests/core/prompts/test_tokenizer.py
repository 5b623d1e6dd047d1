"""The vocabulary: known ids, user text without control tokens, and the check that a family fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from qwen_rerank_plugins.core.prompts.families import FAMILIES, PromptFamily
from qwen_rerank_plugins.core.prompts.tokenizer import (
    RECIPE_FILE,
    PromptTokenizer,
    answer_ids,
    check_family,
    read_recipe,
)
from qwen_rerank_plugins.demo import CHECKPOINT_DIR
from qwen_rerank_plugins.errors import CheckpointFormatError, FamilyMismatchError
from tests.core import oracle
from tests.core.qwen_vocabulary import qwen_tokenizer, qwen_tokenizer_json
from tests.core.texts import NASTY

PREFIX_IDS = (
    *(151644, 8948, 198, 60256, 3425, 279, 11789, 20027, 279, 8502, 3118, 389, 279, 11361, 323, 279, 758),
    *(1235, 3897, 13, 7036, 429, 279, 4226, 646, 1172, 387, 330, 9693, 1, 476, 330, 2152, 3263, 151645),
    *(198, 151644, 872, 198),
)
SUFFIX_IDS = (151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271)
CONTROL_IDS = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<think>": 151667}


@pytest.fixture
def recipe() -> dict[str, Any]:
    """The demo's record of ids, to be damaged."""
    content: dict[str, Any] = json.loads((CHECKPOINT_DIR / RECIPE_FILE).read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def demo_vocabulary() -> PromptTokenizer:
    return PromptTokenizer.from_folder(CHECKPOINT_DIR)


def plain_vocabulary(words: list[str]) -> PromptTokenizer:
    """A vocabulary of whole words without control tokens."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PromptTokenizer(tokenizer.to_str())


def test_qwens_literal_strings_have_their_published_ids(qwen: PromptTokenizer) -> None:
    assert qwen.control_ids(oracle.PREFIX) == PREFIX_IDS
    assert qwen.control_ids(oracle.SUFFIX) == SUFFIX_IDS
    assert {text: qwen.added_tokens[text] for text in CONTROL_IDS} == CONTROL_IDS
    assert qwen.size == 151669


def test_answers_are_the_known_tokens(qwen: PromptTokenizer) -> None:
    found = {name: answer_ids(qwen, family) for name, family in FAMILIES.items()}
    assert found == {
        "qwen3": (9693, 2152),
        "qwen3-eval": (9693, 2152),
        "zerank": (9454, None),
        "mxbai": (16, 15),
    }


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_family_fits_qwens_vocabulary(qwen: PromptTokenizer, family: PromptFamily) -> None:
    check_family(qwen, family, None)
    wrong = family.model_copy(
        update={"known_ids": {text: (*ids, 0) for text, ids in family.known_ids.items()}}
    )
    with pytest.raises(FamilyMismatchError, match="must have"):
        check_family(qwen, wrong, None)


def test_user_text_gets_no_control_token(qwen: PromptTokenizer) -> None:
    for content, number in qwen.added_tokens.items():
        (ids,) = qwen.encode([content])
        assert number not in ids
        assert qwen.control_ids(content) == (number,)


@pytest.mark.parametrize("name", ["qwen", "demo"])
def test_user_text_is_encoded_as_by_a_tokenizer_of_its_own(
    qwen: PromptTokenizer, demo_vocabulary: PromptTokenizer, name: str
) -> None:
    """Both encodings share one vocabulary; here the second is read from the file again."""
    shared, stored = {
        "qwen": (qwen, qwen_tokenizer_json()),
        "demo": (demo_vocabulary, (CHECKPOINT_DIR / "tokenizer.json").read_text(encoding="utf-8")),
    }[name]
    separate = Tokenizer.from_str(stored)
    added = separate.get_added_tokens_decoder().values()
    separate.add_special_tokens([AddedToken(token.content, special=True) for token in added])
    separate.encode_special_tokens = True
    for text in [*NASTY, *shared.added_tokens, f"a{''.join(shared.added_tokens)}b {' '.join(NASTY)}"]:
        encoded = separate.encode(text, add_special_tokens=False)
        assert shared.encode([text]) == [tuple(encoded.ids)]
        assert shared.token_offsets(text) == [start for start, _ in encoded.offsets]


def test_starts_are_characters_of_the_text(qwen: PromptTokenizer) -> None:
    assert qwen.token_offsets("a cat 北京") == [0, 1, 5, 6, 7]
    assert qwen.token_offsets("") == []


def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in ("", "{}", "[]", "null", '{"added_tokens": 3}', "\x00"):
        with pytest.raises(CheckpointFormatError, match=r"tokenizer.json cannot be read"):
            PromptTokenizer(content)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFormatError, match=r"has no tokenizer: neither tokenizer\.json nor vocab"):
        PromptTokenizer.from_folder(tmp_path)


def test_tokenizer_files_that_are_broken_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointFormatError, match=r"tokenizer\.json' cannot be read"):
        PromptTokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(CheckpointFormatError, match="has no usable tokenizer"):
        PromptTokenizer.from_folder(tmp_path)


def test_older_tokenizer_files_are_converted(tmp_path: Path) -> None:
    """vocab.json and merges.txt, as some conversions carry them, give the same vocabulary."""
    words = {chr(256 + n) if n < 33 else chr(n): n for n in range(127)} | {"ab": 200}
    (tmp_path / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert PromptTokenizer.from_folder(tmp_path).encode(["abb"]) == [(200, ord("b"))]


def test_a_tokenizers_own_truncation_and_padding_are_switched_off() -> None:
    tokenizer = Tokenizer.from_str(qwen_tokenizer().to_str())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=10)
    vocabulary = PromptTokenizer(tokenizer.to_str())
    assert vocabulary.encode(["one two three four five"]) == [(603, 1378, 2326, 3040, 4236)]


def test_another_vocabulary_does_not_fit_the_family(demo_vocabulary: PromptTokenizer) -> None:
    """Without its record the demo's ids look like a wrong tokenizer, which would score noise."""
    with pytest.raises(FamilyMismatchError, match=r"does not fit this tokenizer.*but must have"):
        check_family(demo_vocabulary, FAMILIES["qwen3"], None)


def test_a_recorded_vocabulary_fits(demo_vocabulary: PromptTokenizer, recipe: dict[str, Any]) -> None:
    check_family(demo_vocabulary, FAMILIES["qwen3"], recipe)
    assert demo_vocabulary.control_ids(FAMILIES["qwen3"].control_texts[0]) == tuple(recipe["prefix_ids"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("true_token_id", 3),
        ("false_token_id", 3),
        ("prefix_ids", [1, 2, 3]),
        ("suffix_ids", []),
        ("control_token_ids", {"<think>": 4}),
    ],
)
def test_a_record_that_the_tokenizer_contradicts_is_refused(
    demo_vocabulary: PromptTokenizer, recipe: dict[str, Any], field: str, value: object
) -> None:
    with pytest.raises(FamilyMismatchError, match="must have"):
        check_family(demo_vocabulary, FAMILIES["qwen3"], recipe | {field: value})


@pytest.mark.parametrize(
    "field", ["true_token", "true_token_id", "control_token_ids", "prefix_ids", "family"]
)
def test_a_record_that_lacks_a_field_is_refused(
    demo_vocabulary: PromptTokenizer, recipe: dict[str, Any], field: str
) -> None:
    with pytest.raises(FamilyMismatchError, match=r"missing or invalid field|was trained to answer None"):
        check_family(demo_vocabulary, FAMILIES["qwen3"], {n: v for n, v in recipe.items() if n != field})


@pytest.mark.parametrize("field", ["true_token_id", "control_token_ids", "prefix_ids"])
def test_a_record_with_garbled_ids_is_refused(
    demo_vocabulary: PromptTokenizer, recipe: dict[str, Any], field: str
) -> None:
    with pytest.raises(FamilyMismatchError):
        check_family(demo_vocabulary, FAMILIES["qwen3"], recipe | {field: 3.5})


@pytest.mark.parametrize("family", ["zerank", "mxbai"])
def test_a_record_of_other_answers_is_refused(
    demo_vocabulary: PromptTokenizer, recipe: dict[str, Any], family: str
) -> None:
    with pytest.raises(FamilyMismatchError, match="was trained to answer 'yes' and 'no'"):
        check_family(demo_vocabulary, FAMILIES[family], recipe)


def test_a_record_of_another_format_is_refused(tmp_path: Path, recipe: dict[str, Any]) -> None:
    for content in ("{", "[1]", json.dumps(recipe | {"format": 2})):
        (tmp_path / RECIPE_FILE).write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointFormatError):
            read_recipe(tmp_path)


def test_no_record_is_no_error(tmp_path: Path) -> None:
    assert read_recipe(tmp_path) is None
    shutil.copy(CHECKPOINT_DIR / RECIPE_FILE, tmp_path)
    assert read_recipe(tmp_path) is not None


def test_an_answer_of_several_tokens_is_refused(qwen: PromptTokenizer) -> None:
    family = FAMILIES["qwen3"].model_copy(update={"true_token": "definitely relevant"})
    with pytest.raises(
        FamilyMismatchError, match="the answer 'definitely relevant' of family 'qwen3' is 3 tokens"
    ):
        answer_ids(qwen, family)


def test_a_vocabulary_without_the_familys_control_tokens_is_refused() -> None:
    family = FAMILIES["qwen3"].model_copy(update={"known_ids": {}})
    with pytest.raises(FamilyMismatchError, match=r"no control token .*<\|im_end\|>, <\|im_start\|>"):
        check_family(plain_vocabulary(["?", "yes", "no"]), family, None)


def test_a_tokenizer_that_makes_control_tokens_of_user_text_is_refused() -> None:
    """Where the word itself is in the vocabulary, no flag keeps it from being the control token."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "<stop>": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken("<stop>", normalized=False, special=True)])
    with pytest.raises(CheckpointFormatError, match="encodes the user text '<stop>' as a control token"):
        PromptTokenizer(tokenizer.to_str())
