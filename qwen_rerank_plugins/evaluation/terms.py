"""Words of a text for a search by words, in languages with spaces and without. Knows no index and no weights."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["terms_of"]

# Scripts that write no spaces between words: kana, Han in all planes, Hangul syllables, compatibility forms.
_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"[{_SPACELESS}]+|[^\W_{_SPACELESS}]+")
_IS_SPACELESS = re.compile(rf"[{_SPACELESS}]")


def terms_of(text: str) -> list[str]:
    """Give the terms of a text in their order, repetitions included.

    Words count without regard to case and width. Of a run of Chinese, Japanese or Korean, every two neighbouring
    characters are a term: most Chinese words have two, and no dictionary decides where one ends. A single
    character stands for itself. There is no stemming and there are no stop words: idf weighs those down.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    terms: list[str] = []
    for run in _RUN.findall(folded):
        if _IS_SPACELESS.match(run) and len(run) > 1:
            terms += [run[start : start + 2] for start in range(len(run) - 1)]
        else:
            terms.append(run)
    return terms
