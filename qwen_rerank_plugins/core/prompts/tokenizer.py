"""A checkpoint's tokenizer, twice: one that knows control tokens and one for which user text has none.

It knows token ids and strings, no prompts. Neither tokenizer ever has truncation or padding set: both are state of
the tokenizer, shared by all threads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from qwen_rerank_plugins.core.prompts.families import PromptFamily
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import CheckpointFormatError, FamilyMismatchError

__all__ = ["RECIPE_FILE", "PromptTokenizer", "answer_ids", "check_family", "read_recipe"]

RECIPE_FILE = "rerank_recipe.json"
"""Beside a checkpoint with a vocabulary of its own: the ids that its tokenizer must give."""

_OLDER_FILES = ("vocab.json", "merges.txt")
_LOOKS_LIKE_CONTROL = re.compile(r"<\|[a-z_]+\|>|</?think>")


class PromptTokenizer:
    """Text to token ids.

    Args:
        tokenizer_json: The contents of a `tokenizer.json`.

    Raises:
        CheckpointFormatError: It is not one.
    """

    def __init__(self, tokenizer_json: str) -> None:
        try:
            self._control = Tokenizer.from_str(tokenizer_json)
            self._inert = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises plain Exception
            raise CheckpointFormatError(f"tokenizer.json cannot be read: {error}") from error
        for tokenizer in (self._control, self._inert):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        added = self._control.get_added_tokens_decoder()
        # The flag spares special tokens alone, and <think> is not one in Qwen's file.
        self._inert.add_special_tokens([_as_special(token) for token in added.values()])
        self._inert.encode_special_tokens = True
        self.added = {token.content: number for number, token in added.items()}
        self._check_inert()

    def _check_inert(self) -> None:
        ids = set(self.added.values())
        for content in self.added:
            if ids & set(self._inert.encode(content, add_special_tokens=False).ids):
                raise CheckpointFormatError(
                    f"the tokenizer makes a control token of the user text {content!r}"
                )

    @classmethod
    def from_folder(cls, folder: Path) -> PromptTokenizer:
        """Read the tokenizer of a checkpoint.

        Raises:
            CheckpointFormatError: There is none, or it is broken.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            return cls(_converted(folder))
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointFormatError(f"{str(path)!r} cannot be read: {error}") from error

    @property
    def size(self) -> int:
        """Number of token ids, control tokens included."""
        return self._control.get_vocab_size(with_added_tokens=True)

    def control_ids(self, text: str) -> Segment:
        """Ids of one of our own literal texts, control tokens in it being real."""
        return tuple(self._control.encode(text, add_special_tokens=False).ids)

    def encode(self, texts: Sequence[str]) -> list[Segment]:
        """Ids of user texts, in which nothing is a control token. Runs in parallel outside the interpreter lock."""
        encodings = self._inert.encode_batch_fast(list(texts), add_special_tokens=False)
        return [tuple(encoding.ids) for encoding in encodings]

    def token_offsets(self, text: str) -> list[int]:
        """For each token of a user text, the character at which it begins."""
        return [start for start, _ in self._inert.encode(text, add_special_tokens=False).offsets]


def _as_special(token: AddedToken) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


def _converted(folder: Path) -> str:
    """A `tokenizer.json` made from the older files (vocab.json, merges.txt) by transformers."""
    if not any((folder / name).is_file() for name in _OLDER_FILES):
        # transformers would make an empty one up.
        raise CheckpointFormatError(
            f"{str(folder)!r} has no tokenizer: neither tokenizer.json nor {' nor '.join(_OLDER_FILES)}"
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return str(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # whatever is wrong with a foreign folder
        raise CheckpointFormatError(
            f"{str(folder)!r} has no usable tokenizer: tokenizer.json is missing and the older files cannot be read "
            f"({type(error).__name__}: {error})"
        ) from error


def read_recipe(folder: Path) -> Mapping[str, Any] | None:
    """The ids recorded beside a checkpoint with its own tokenizer, or None.

    Raises:
        CheckpointFormatError: The record is broken, or of an unknown format.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointFormatError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(recipe, dict) or recipe.get("format") != 1:
        raise CheckpointFormatError(f"{str(path)!r} is not a record of format 1, which is the one known")
    return recipe


def answer_ids(tokenizer: PromptTokenizer, family: PromptFamily) -> tuple[int, int | None]:
    """Token ids of the answers that mean relevant and not relevant.

    Raises:
        FamilyMismatchError: An answer is not one token of this vocabulary.
    """
    true_id = _single(tokenizer, family, family.true_token)
    return true_id, None if family.false_token is None else _single(tokenizer, family, family.false_token)


def _single(tokenizer: PromptTokenizer, family: PromptFamily, answer: str) -> int:
    ids = tokenizer.control_ids(answer)
    if len(ids) != 1:
        raise FamilyMismatchError(
            f"family {family.name!r} answers {answer!r}, which is {len(ids)} tokens {list(ids)} in this vocabulary; "
            f"it must be one"
        )
    return ids[0]


def check_family(tokenizer: PromptTokenizer, family: PromptFamily, recipe: Mapping[str, Any] | None) -> None:
    """Prove that the family's strings have the token ids that the model was trained with.

    Args:
        tokenizer: The checkpoint's tokenizer.
        family: The prompt family.
        recipe: The ids recorded with the checkpoint; without them those known of the family are asked for.

    Raises:
        FamilyMismatchError: A text has other ids, an answer is not one token, or a control token is unknown.
    """
    expected = dict(family.known_ids) if recipe is None else _recorded(family, recipe)
    for text, ids in expected.items():
        found = tokenizer.control_ids(text)
        if found != tuple(ids):
            raise FamilyMismatchError(
                f"family {family.name!r} does not fit this tokenizer: {text!r} gives the ids {list(found)}, "
                f"but must give {list(ids)}"
            )
    for text in family.control_texts:
        unknown = sorted(set(_LOOKS_LIKE_CONTROL.findall(text)) - set(tokenizer.added))
        if unknown:
            raise FamilyMismatchError(
                f"family {family.name!r} does not fit this tokenizer: it has no control token {', '.join(unknown)}"
            )
    answer_ids(tokenizer, family)


def _recorded(family: PromptFamily, recipe: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Texts and ids of a record, in the terms of the family that it was made for."""
    if (family.true_token, family.false_token) != (recipe.get("true_token"), recipe.get("false_token")):
        raise FamilyMismatchError(
            f"family {family.name!r} answers {family.true_token!r} and {family.false_token!r}; the checkpoint was "
            f"trained to answer {recipe.get('true_token')!r} and {recipe.get('false_token')!r}"
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
        raise FamilyMismatchError(f"{RECIPE_FILE} lacks or garbles {error}") from error
    return expected
