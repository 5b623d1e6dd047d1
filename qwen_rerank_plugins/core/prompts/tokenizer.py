"""A checkpoint's tokenizer, twice: with control tokens, and without them for user text.

This module knows token ids and strings, and no prompts. Neither tokenizer has truncation or padding set: both
would be state shared by all threads.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from qwen_rerank_plugins.core.prompts.families import PromptFamily
from qwen_rerank_plugins.core.sequences import TokenIds
from qwen_rerank_plugins.errors import CheckpointFormatError, FamilyMismatchError

__all__ = ["RECIPE_FILE", "PromptTokenizer", "answer_ids", "check_family", "read_recipe"]

RECIPE_FILE = "rerank_recipe.json"
"""Beside a checkpoint with its own vocabulary: the ids that its tokenizer must return."""

_LEGACY_FILES = ("vocab.json", "merges.txt")
_CONTROL_TOKEN = re.compile(r"<\|[a-z_]+\|>|</?think>")


class PromptTokenizer:
    """Text to token ids.

    Args:
        tokenizer_json: The contents of a `tokenizer.json`.

    Attributes:
        added_tokens: Ids of the tokenizer's control tokens, by their text.

    Raises:
        CheckpointFormatError: The contents are not a valid tokenizer.
    """

    def __init__(self, tokenizer_json: str) -> None:
        try:
            self._with_control = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointFormatError(f"tokenizer.json cannot be read: {error}") from error
        kind = type(self._with_control.model).__name__
        if kind in {"WordPiece", "Unigram"}:
            raise CheckpointFormatError(
                f"tokenizer.json is of the kind {kind}, and a Qwen model's is BPE; use the tokenizer.json of the model"
            )
        self._with_control.no_truncation()
        self._with_control.no_padding()
        added_tokens = self._with_control.get_added_tokens_decoder()
        self._plain = _plain_copy(self._with_control, added_tokens)
        self.added_tokens = {token.content: number for number, token in added_tokens.items()}
        self._check_plain()

    def _check_plain(self) -> None:
        ids = set(self.added_tokens.values())
        for content in self.added_tokens:
            if ids & set(self._plain.encode(content, add_special_tokens=False).ids):
                raise CheckpointFormatError(
                    f"the tokenizer encodes the user text {content!r} as a control token, so documents could forge the "
                    f"prompt; use the original tokenizer.json"
                )

    @classmethod
    def from_folder(cls, folder: Path) -> PromptTokenizer:
        """Read the tokenizer of a checkpoint.

        Raises:
            CheckpointFormatError: The tokenizer is missing or invalid.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            return cls(_convert_legacy_files(folder))
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointFormatError(f"{str(path)!r} cannot be read: {error}") from error

    @property
    def size(self) -> int:
        """Number of token ids, control tokens included."""
        return self._with_control.get_vocab_size(with_added_tokens=True)

    def control_ids(self, text: str) -> TokenIds:
        """Return the ids of a literal text of a family, with real control tokens."""
        return tuple(self._with_control.encode(text, add_special_tokens=False).ids)

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the ids of user texts, without control tokens. Runs in parallel, outside the GIL."""
        encodings = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [tuple(encoding.ids) for encoding in encodings]

    def token_offsets(self, text: str) -> list[int]:
        """Return the first character of each token of a user text."""
        return [start for start, _ in self._plain.encode(text, add_special_tokens=False).offsets]


def _plain_copy(tokenizer: Tokenizer, added_tokens: Mapping[int, AddedToken]) -> Tokenizer:
    """Return a tokenizer of the same vocabulary, which it shares, that encodes control tokens as ordinary text."""
    plain = Tokenizer(tokenizer.model)  # parsing the file again takes half a second
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        if (component := getattr(tokenizer, part)) is not None:
            setattr(plain, part, component)
    # encode_special_tokens affects special tokens alone, and <think> is not one in Qwen's file.
    plain.add_special_tokens([_as_special(token) for _, token in sorted(added_tokens.items())])
    plain.encode_special_tokens = True
    return plain


def _as_special(token: AddedToken) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


def _convert_legacy_files(folder: Path) -> str:
    """Return a `tokenizer.json` that transformers converts from vocab.json and merges.txt."""
    if not any((folder / name).is_file() for name in _LEGACY_FILES):
        # transformers would create an empty one.
        raise CheckpointFormatError(
            f"{str(folder)!r} has no tokenizer: neither tokenizer.json nor {' nor '.join(_LEGACY_FILES)}; copy the "
            f"tokenizer.json of the model into it"
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return str(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # transformers raises many types
        raise CheckpointFormatError(
            f"{str(folder)!r} has no usable tokenizer: tokenizer.json is missing and the older files cannot be read "
            f"({type(error).__name__}: {error})"
        ) from error


def read_recipe(folder: Path) -> Mapping[str, Any] | None:
    """Return the ids recorded beside a checkpoint with its own tokenizer, or None.

    Raises:
        CheckpointFormatError: The record is invalid, or of an unknown format.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointFormatError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(recipe, dict) or recipe.get("format") != 1:
        raise CheckpointFormatError(f"{str(path)!r} is not a record of format 1, the only supported one")
    return recipe


def answer_ids(tokenizer: PromptTokenizer, family: PromptFamily) -> tuple[int, int | None]:
    """Return the token ids of the answers that mean relevant and not relevant.

    Raises:
        FamilyMismatchError: An answer is not one token of this vocabulary.
    """
    true_id = _single_token_id(tokenizer, family, family.true_token)
    return true_id, None if family.false_token is None else _single_token_id(
        tokenizer, family, family.false_token
    )


def _single_token_id(tokenizer: PromptTokenizer, family: PromptFamily, answer: str) -> int:
    ids = tokenizer.control_ids(answer)
    if len(ids) != 1:
        raise FamilyMismatchError(
            f"the answer {answer!r} of family {family.name!r} is {len(ids)} tokens in this vocabulary, {list(ids)}; "
            f"use a family whose answers are one token"
        )
    return ids[0]


def check_family(tokenizer: PromptTokenizer, family: PromptFamily, recipe: Mapping[str, Any] | None) -> None:
    """Check that the family's strings have the token ids that the model was trained with.

    Args:
        tokenizer: The checkpoint's tokenizer.
        family: The prompt family.
        recipe: The ids recorded with the checkpoint; None for the family's known ids.

    Raises:
        FamilyMismatchError: A text has other ids, an answer is not one token, or a control token is unknown.
    """
    expected = dict(family.known_ids) if recipe is None else _recorded_ids(family, recipe)
    for text, ids in sorted(expected.items(), key=lambda item: len(item[0])):
        found = tokenizer.control_ids(text)
        if found != tuple(ids):
            raise FamilyMismatchError(
                f"family {family.name!r} does not fit this tokenizer: {reprlib.repr(text)} has the ids "
                f"{reprlib.repr(list(found))}, but must have {reprlib.repr(list(ids))}; use the tokenizer.json of the model, or "
                f"its own family"
            )
    for text in family.control_texts:
        unknown = sorted(set(_CONTROL_TOKEN.findall(text)) - set(tokenizer.added_tokens))
        if unknown:
            raise FamilyMismatchError(
                f"family {family.name!r} does not fit this tokenizer: it has no control token {', '.join(unknown)}"
            )
    answer_ids(tokenizer, family)


def _recorded_ids(family: PromptFamily, recipe: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Return texts and ids of a record, as far as they concern this family."""
    if (family.true_token, family.false_token) != (recipe.get("true_token"), recipe.get("false_token")):
        raise FamilyMismatchError(
            f"family {family.name!r} answers {family.true_token!r} and {family.false_token!r}, but the checkpoint was "
            f"trained to answer {recipe.get('true_token')!r} and {recipe.get('false_token')!r}; use its own family"
        )
    try:
        expected: dict[str, Sequence[int]] = {
            recipe["true_token"]: (recipe["true_token_id"],),
            recipe["false_token"]: (recipe["false_token_id"],),
        }
        expected.update({text: (number,) for text, number in recipe["control_token_ids"].items()})
        if recipe["family"] == family.name:
            expected[family.control_texts[0]] = tuple(recipe["prefix_ids"])
            expected[family.control_texts[-1]] = tuple(recipe["suffix_ids"])
    except (KeyError, TypeError, AttributeError) as error:
        raise FamilyMismatchError(f"{RECIPE_FILE} has a missing or invalid field: {error}") from error
    return expected
