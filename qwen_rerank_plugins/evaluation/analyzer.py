"""Split a text into terms for BM25, in languages with and without spaces between words."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["extract_terms"]

# Scripts that write no spaces between words: kana, Han in all planes, Hangul syllables, compatibility forms.
_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"[{_SPACELESS}]+|[^\W_{_SPACELESS}]+")
_IS_SPACELESS = re.compile(rf"[{_SPACELESS}]")


def extract_terms(text: str) -> list[str]:
    """Return the terms of a text in order, with repetitions.

    Case and character width are ignored. In Chinese, Japanese and Korean, every two neighbouring characters are a term,
    since most Chinese words have two characters; a single character is a term of its own. There is no stemming, and
    there are no stop words: idf gives frequent terms little weight.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    terms: list[str] = []
    for run in _RUN.findall(folded):
        if _IS_SPACELESS.match(run) and len(run) > 1:
            terms += [run[start : start + 2] for start in range(len(run) - 1)]
        else:
            terms.append(run)
    return terms
