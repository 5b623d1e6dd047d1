"""Prompt families: how a query, a document and an instruction form a prompt, and which answer means relevant.

A family consists of literal strings and token names; it knows no tokenizer and no model. Prompts are built
from literal segments, never from a tokenizer's chat template: that file changes on the hub without notice,
and a changed template silently gives every pair the same score.

A prompt has three segments, so that what pairs share is computed once: `root` (system and instruction),
`query`, and `document`. Each is a sequence of pieces. A piece is tokenised alone, so pieces may only meet
where the joined text would be split anyway: at a control token, or before a space that starts a word. A
family without such a place puts everything into one piece of its document segment, and nothing is shared.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qwen_rerank_plugins import recipe
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = [
    "FAMILIES",
    "PLACEHOLDER",
    "FamilyName",
    "Piece",
    "Placeholder",
    "PromptFamily",
    "get_family",
    "load_family",
]

Placeholder = Literal["instruction", "query", "document"]
FamilyName = Literal["qwen3", "qwen3-eval", "zerank", "mxbai"]

PLACEHOLDER = re.compile(r"\{(instruction|query|document)\}")
"""A placeholder in the text of a piece; its group is the name."""


class Piece(BaseModel):
    """A text that is tokenised alone.

    Attributes:
        text: Literal text; `{instruction}`, `{query}` and `{document}` are substituted once, from left to
            right.
        control: Control tokens in the text are real. Such a piece has no placeholder.
        optional: The piece is left out when its placeholder has no value.
        cut: The piece may be cut on the right when the prompt is too long. The piece with the document always
            may.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    control: bool = False
    optional: bool = False
    cut: bool = False

    @cached_property
    def is_cut(self) -> bool:
        """Whether the piece may be cut: if `cut` is set, and always for the document."""
        return self.cut or "{document}" in self.text

    @cached_property
    def placeholders(self) -> list[str]:
        """Names of the placeholders, from left to right."""
        return PLACEHOLDER.findall(self.text)

    def render(self, values: Mapping[str, str]) -> str:
        """Return the text with its placeholders substituted; braces in the values have no meaning."""
        return PLACEHOLDER.sub(lambda match: values[match[1]], self.text)

    @model_validator(mode="after")
    def _check(self) -> Piece:
        if self.control and self.placeholders:
            raise ValueError(
                "a control piece may not hold a placeholder: user text must never become a control token"
            )
        if "{document}" in self.text and not self.text.endswith("{document}"):
            raise ValueError(
                "'{document}' must end its piece, so that cutting the piece cuts the document alone"
            )
        return self


Pieces = Annotated[tuple[Piece, ...], Field(default=())]


class PromptFamily(BaseModel):
    """A prompt's literal segments and the meaning of its answer.

    Attributes:
        name: Name of the family in the configuration.
        root: Pieces that depend on the instruction alone.
        query: Pieces that hold the query.
        document: Pieces that hold the document, and what follows it.
        true_token: The answer that means relevant; one token.
        false_token: The answer that means not relevant; None if the model is scored on `true_token` alone.
        scale: Factor from the difference of the logits to the log-odds.
        default_instruction: Used when a request has none; None for a family without an instruction.
        strip: Remove white space around query and document, as the model's authors do.
        architectures: `model_type`s of the checkpoints that the family fits.
        known_ids: Token ids by text, which a checkpoint with the family's own vocabulary must return.
        source: Where the recipe is published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    root: Pieces
    query: Pieces
    document: Pieces
    true_token: str
    false_token: str | None
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    default_instruction: str | None = None
    strip: bool = False
    architectures: tuple[str, ...] = ("qwen3",)
    known_ids: Mapping[str, tuple[int, ...]] = Field(default_factory=dict)
    source: str = ""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, in the order of the prompt."""
        return self.root + self.query + self.document

    @property
    def takes_instruction(self) -> bool:
        """Whether the prompt has a placeholder for an instruction."""
        return any("instruction" in piece.placeholders for piece in self.pieces)

    @property
    def control_texts(self) -> tuple[str, ...]:
        """The literal texts in which control tokens are real."""
        return tuple(piece.text for piece in self.pieces if piece.control)

    @model_validator(mode="after")
    def _check(self) -> PromptFamily:
        used = [name for piece in self.pieces for name in piece.placeholders]
        for name in ("query", "document"):
            if used.count(name) != 1:
                raise ValueError(
                    f"'{{{name}}}' must occur exactly once in the prompt, not {used.count(name)} times"
                )
        if used[-1] != "document":
            raise ValueError("'{document}' must be the last placeholder of the prompt")
        if any(set(piece.placeholders) - {"instruction"} for piece in self.root):
            raise ValueError("the root is shared by all queries: it may only hold '{instruction}'")
        if "document" not in {name for piece in self.document for name in piece.placeholders}:
            raise ValueError("'{document}' must occur in the document segment")
        return self


def _text(text: str, *, optional: bool = False) -> Piece:
    return Piece(text=text, optional=optional, cut="{document}" in text)


def _control(text: str, *, cut: bool = False) -> Piece:
    return Piece(text=text, control=True, cut=cut)


# fmt: off
_QWEN3_PREFIX_IDS = (
    151644, 8948, 198, 60256, 3425, 279, 11789, 20027, 279, 8502, 3118, 389, 279, 11361, 323, 279, 758,
    1235, 3897, 13, 7036, 429, 279, 4226, 646, 1172, 387, 330, 9693, 1, 476, 330, 2152, 3263, 151645,
    198, 151644, 872, 198,
)
# fmt: on
_QWEN3_SUFFIX_IDS = (151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271)
_QWEN3_IDS = {
    recipe.PREFIX: _QWEN3_PREFIX_IDS,
    recipe.SUFFIX: _QWEN3_SUFFIX_IDS,
    "yes": (9693,),
    "no": (2152,),
}
_MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each "
    "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
    "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)

QWEN3 = PromptFamily(
    name="qwen3",
    root=(_control(recipe.PREFIX), _text("<Instruct>: {instruction}\n<Query>:")),
    query=(_text(" {query}\n<Document>:"),),
    document=(_text(" {document}"), _control(recipe.SUFFIX)),
    true_token="yes",
    false_token="no",
    default_instruction=recipe.DEFAULT_INSTRUCTION,
    known_ids=_QWEN3_IDS,
    source="https://huggingface.co/Qwen/Qwen3-Reranker-0.6B",
)

# The variant of the published quality table: empty lines between the fields, and a second end of turn, which is
# cut first.
QWEN3_EVAL = PromptFamily(
    name="qwen3-eval",
    root=(_control(recipe.PREFIX), _text("<Instruct>: {instruction}\n\n<Query>:")),
    query=(_text(" {query}\n\n<Document>:"),),
    document=(_text(" {document}"), _control("<|im_end|>\n", cut=True), _control(recipe.SUFFIX)),
    true_token="yes",
    false_token="no",
    default_instruction="Given the user query, retrieval the relevant passages",
    known_ids={**_QWEN3_IDS, "<|im_end|>\n": (151645, 198)},
    source="https://github.com/QwenLM/Qwen3-Embedding/blob/main/evaluation/qwen3_reranker_model.py",
)

ZERANK = PromptFamily(
    name="zerank",
    root=(_control("<|im_start|>system\n"),),
    query=(_text("{query}"), _control("<|im_end|>\n<|im_start|>user\n")),
    document=(_text("{document}"), _control("<|im_end|>\n<|im_start|>assistant\n")),
    true_token="Yes",
    false_token=None,
    scale=0.2,
    strip=True,
    architectures=("qwen3", "zeroentropy"),
    known_ids={"Yes": (9454,), "<|im_end|>\n<|im_start|>assistant\n": (151645, 198, 151644, 77091, 198)},
    source="https://huggingface.co/zeroentropy/zerank-1-small/blob/main/modeling_zeranker.py",
)

# The authors tokenise these pieces separately, so each boundary is exact by definition.
MXBAI = PromptFamily(
    name="mxbai",
    root=(
        _control(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n"
        ),
        _text("instruction: {instruction}\n", optional=True),
    ),
    query=(_text("query: {query}"), _text("\n")),
    document=(
        _text("document: {document}"),
        _text("\n"),
        _text(_MXBAI_TASK),
        _control("<|im_end|>\n<|im_start|>assistant\n"),
    ),
    true_token="1",
    false_token="0",
    architectures=("qwen2",),
    known_ids={
        "1": (16,),
        "0": (15,),
        "<|im_end|>\n<|im_start|>assistant\n": (151645, 198, 151644, 77091, 198),
    },
    source="https://github.com/mixedbread-ai/mxbai-rerank/blob/main/mxbai_rerank/mxbai_rerank_v2.py",
)

FAMILIES: Mapping[str, PromptFamily] = {family.name: family for family in (QWEN3, QWEN3_EVAL, ZERANK, MXBAI)}


def get_family(name: str) -> PromptFamily:
    """Return the family of this name, or the one that a YAML or TOML file defines.

    Raises:
        ConfigurationError: The name is unknown, or the file does not define a family.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if name.endswith((".yaml", ".yml", ".toml")):
        return load_family(Path(name))
    raise ConfigurationError(
        f"unknown prompt family {name!r}; use one of {', '.join(FAMILIES)}, or the path of a .yaml or .toml file"
    )


def load_family(path: Path) -> PromptFamily:
    """Read a family from a YAML or TOML file with the fields of `PromptFamily`.

    Raises:
        ConfigurationError: The file cannot be read, or does not define a family.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"cannot read the prompt family {str(path)!r}: {error}") from error
    try:
        return PromptFamily.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'family'}: {e['msg']}" for e in error.errors()
        )
        raise ConfigurationError(f"{str(path)!r} does not define a prompt family: {problems}") from error
