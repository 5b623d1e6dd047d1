from __future__ import annotations

from typing import Any, ClassVar

import pytest
from langchain_qwen_rerank import QwenRerank
from langchain_qwen_rerank.testing import DocumentCompressorTests

from tests.integrations.langchain.bad_compressors import BREAKS, Plain


class TestLexical(DocumentCompressorTests):
    compressor_class = QwenRerank
    compressor_params: ClassVar = {"backend": "lexical"}
    secret_params: ClassVar = {"api_key": "sesame"}


class TestLexicalWithMetadata(TestLexical):
    compressor_params: ClassVar = {"backend": "lexical", "metadata_fields": ["source"]}


class TestPlain(DocumentCompressorTests):
    """Another project's compressor can satisfy the contract too."""

    compressor_class = Plain
    secret_params: ClassVar = {"api_key": "sesame"}


def _laws() -> list[str]:
    return [name for name in vars(DocumentCompressorTests) if name.startswith("test_")]


def _suite(kind: type[Plain]) -> Any:
    own = {"compressor_class": kind, "secret_params": {"api_key": "sesame"}}
    return type("Suite", (DocumentCompressorTests,), own)()


def test_every_law_has_a_compressor_that_breaks_it() -> None:
    assert sorted(BREAKS) == sorted(_laws())


@pytest.mark.parametrize("law", _laws())
def test_a_law_catches_the_compressor_that_breaks_it(law: str) -> None:
    getattr(_suite(Plain), law)()
    with pytest.raises((Exception, pytest.fail.Exception)):
        getattr(_suite(BREAKS[law]), law)()


# Attributes that say what a compressor does not promise, and the laws that are then skipped.
EXEMPTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "score_key": (
        {"score_key": None},
        {
            "test_scores_fall",
            "test_scores_are_plain_finite_floats",
            "test_a_score_that_a_document_came_with_is_overwritten",
        },
    ),
    "top_n_name": ({"top_n_name": None}, {"test_the_cut_gives_the_first_of_all"}),
    "is_traced": (
        {"is_traced": False},
        {
            "test_a_call_shows_as_a_child_run",
            "test_an_asynchronous_call_shows_as_a_child_run",
            "test_a_failing_call_shows_its_error",
        },
    ),
    "is_picklable": ({"is_picklable": False}, {"test_copies_rank_alike"}),
    "secret_params": ({"secret_params": {}}, {"test_secrets_are_not_shown"}),
}


@pytest.mark.parametrize("exemption", EXEMPTIONS)
def test_an_exemption_skips_its_own_laws_and_no_other(exemption: str) -> None:
    attributes, expected = EXEMPTIONS[exemption]
    base = {
        "compressor_class": Plain,
        "compressor_params": {"top_n": None},
        "secret_params": {"api_key": "x"},
    }
    suite: Any = type("Suite", (DocumentCompressorTests,), {**base, **attributes})()
    skipped = set()
    for law in _laws():
        try:
            getattr(suite, law)()
        except pytest.skip.Exception:
            skipped.add(law)
    assert skipped == expected
