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
    """Somebody else's compressor can keep the contract too."""

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


def test_laws_about_what_a_compressor_does_not_promise_are_skipped() -> None:
    promises = {
        "compressor_params": {"top_n": None},
        "score_key": None,
        "top_n_name": None,
        "is_traced": False,
    }
    own = {"compressor_class": Plain, "is_picklable": False, **promises}
    suite: Any = type("Suite", (DocumentCompressorTests,), own)()
    skipped = []
    for law in _laws():
        try:
            getattr(suite, law)()
        except pytest.skip.Exception:
            skipped.append(law)
    assert len(skipped) == 9
