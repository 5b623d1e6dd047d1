"""Families: the four that ship have their authors' templates, and a new one is read from a file or refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from qwen_rerank_plugins.core.prompts.families import FAMILIES, Piece, PromptFamily, get_family, load_family
from qwen_rerank_plugins.errors import ConfigurationError
from tests.core import oracle

COMPLETE: dict[str, object] = {
    "name": "mine",
    "root": [{"text": "<|im_start|>system\n", "control": True}, {"text": "{instruction}\nQ:"}],
    "query": [{"text": " {query}\nD:"}],
    "document": [{"text": " {document}", "cut": True}, {"text": "<|im_end|>", "control": True}],
    "true_token": "yes",
    "false_token": None,
    "scale": 0.5,
    "default_instruction": "Judge.",
}

TOML = """
name = "mine"
true_token = "yes"
false_token = "no"
query = [{ text = "Q: {query}\\n" }]
document = [{ text = "D: {document}", cut = true }]
"""


def rendered(family: PromptFamily, **values: str) -> str:
    """The prompt as one string; optional pieces without a value are left out."""
    pieces = [p for p in family.pieces if not p.optional or set(p.placeholders) <= set(values)]
    return "".join(piece.render(values) for piece in pieces)


def written(folder: Path, content: object, name: str = "family.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def test_qwen3_is_the_model_cards_prompt() -> None:
    text = rendered(FAMILIES["qwen3"], instruction=oracle.INSTRUCTION, query="Q", document="D")
    assert text == oracle.qwen3_text("Q", "D")
    assert FAMILIES["qwen3"].default_instruction == oracle.INSTRUCTION


def test_qwen3_eval_is_the_evaluation_codes_prompt() -> None:
    text = rendered(FAMILIES["qwen3-eval"], instruction=oracle.EVAL_INSTRUCTION, query="Q", document="D")
    assert text == oracle.eval_text("Q", "D") + oracle.SUFFIX
    assert FAMILIES["qwen3-eval"].default_instruction == oracle.EVAL_INSTRUCTION


def test_zerank_is_its_modelling_codes_prompt() -> None:
    family = FAMILIES["zerank"]
    assert rendered(family, query="Q", document="D") == oracle.zerank_text("Q", "D")
    assert (family.true_token, family.false_token, family.scale) == ("Yes", None, 0.2)
    assert not family.takes_instruction


@pytest.mark.parametrize("instruction", [None, "I"])
def test_mxbai_is_its_codes_prompt(instruction: str | None) -> None:
    given = {} if instruction is None else {"instruction": instruction}
    line = "" if instruction is None else f"instruction: {instruction}\n"
    assert rendered(FAMILIES["mxbai"], query="Q", document="D", **given) == (
        f"{oracle.MXBAI_PREFIX}{line}query: Q\ndocument: D\n{oracle.MXBAI_TASK}{oracle.ASSISTANT}"
    )
    assert FAMILIES["mxbai"].architectures == ("qwen2",)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_no_family_has_user_text_beside_a_control_token(family: PromptFamily) -> None:
    """A piece with a placeholder is tokenised without control tokens, so it must not contain one."""
    for piece in family.pieces:
        assert not (piece.placeholders and "<|" in piece.text)
        assert piece.cut or "{document}" not in piece.text


def test_braces_in_values_mean_nothing() -> None:
    piece = Piece(text=" {query}\n{document}")
    assert piece.render({"query": "{document} {query} {0}", "document": "{query}"}) == (
        " {document} {query} {0}\n{query}"
    )


def test_a_family_is_known_by_its_name() -> None:
    assert get_family("qwen3") is FAMILIES["qwen3"]
    with pytest.raises(
        ConfigurationError, match="unknown prompt family 'qwen4'; use one of qwen3, qwen3-eval"
    ):
        get_family("qwen4")


def test_a_yaml_file_describes_a_family(tmp_path: Path) -> None:
    family = get_family(str(written(tmp_path, COMPLETE)))
    assert (family.name, family.scale, family.false_token, family.takes_instruction) == (
        "mine",
        0.5,
        None,
        True,
    )
    assert rendered(family, instruction="I", query="Q", document="D") == (
        "<|im_start|>system\nI\nQ: Q\nD: D<|im_end|>"
    )


def test_a_toml_file_describes_a_family(tmp_path: Path) -> None:
    assert tomllib.loads(TOML)
    family = get_family(str(written(tmp_path, TOML, "family.toml")))
    assert rendered(family, query="Q", document="D") == "Q: Q\nD: D"
    assert not family.takes_instruction


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"query": [{"text": "nothing"}]}, r"'\{query\}' must occur exactly once in the prompt, not 0 times"),
        ({"query": [{"text": "{query}{query}"}]}, "not 2 times"),
        ({"query": [], "root": [{"text": "{query}"}]}, "root is shared by all queries"),
        ({"document": [{"text": "{document}"}, {"text": "{instruction}"}]}, "must be the last placeholder"),
        ({"document": [{"text": "{document}."}]}, "must end its piece"),
        ({"document": [{"text": "{document}", "control": True}]}, "must never become a control token"),
        ({"document": [{"text": "-"}], "query": [{"text": "{query}"}, {"text": "{document}"}]}, "segment"),
        ({"scale": 0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"true_token": None}, "true_token"),
        ({"colour": "blue"}, "colour"),
        ({"document": [{"text": "{document}", "colour": "blue"}]}, r"document\.0\.colour"),
    ],
)
def test_a_file_that_describes_no_usable_family_is_refused(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load_family(written(tmp_path, COMPLETE | change))


@pytest.mark.parametrize(
    ("content", "name"),
    [("a: [", "f.yaml"), ("a = ", "f.toml"), ("", "f.yaml"), ("- 1", "f.yaml"), ("just words", "f.yml")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match="prompt family"):
        load_family(written(tmp_path, content, name))


def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the prompt family"):
        get_family(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot read the prompt family"):
        get_family(str(tmp_path / "binary.toml"))
