"""Texts that break tokenisers, and strategies that mix them."""

from __future__ import annotations

from hypothesis import strategies as st

NASTY = (
    *("", " ", "  ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u3000", "\u00a0", "\u2028", "\x85", "\v\f"),
    *("word", " word", "word ", "\nword", "\tword", "  two spaces", "trailing\n", "a.\n", "a?\n\nb"),
    *(
        "1",
        "12345",
        " 007",
        "3.14",
        "-5",
        "½ ² Ⅷ ٣",
        "don't",
        "I'LL",
        "'s",
        "-",
        "...",
        ".\n",
        "?!",
        '"',
        "`x`",
    ),
    *(
        "北京",
        " 北京",
        "北京 上海",
        "首都儿科研究所。",
        "，。",
        "한국어 가각",
        "ไทย",
        "हिन्दी",
        "עברית",
        "مرحبا",
    ),
    *("e\u0301", "\u0301e", "\u0301", "a\u0315\u0300", "Å\u212b\u00c5", "ﬁ", "Ⅻ", "ǆ", "ß", "İı"),
    *("😀", "👩‍👩‍👧‍👦", "🇨🇳🇩🇪", "❤️", "1️⃣", "\u200d", "\u200b", "\ufeff", "\u202eabc", "\u00adsoft"),
    *("\x00", "\x01\x02", "\x1f", "\x7f", "\ufffd", "\uffff", "\U0010ffff", "\U0001d11e", "𠀀"),
    *("<", "<|", "|>", "<|im_", "<document>", "{document}", "{query}", "{0}", "%s", "\\n", "$1", "\\1"),
    *("<Document>:", "<Query>:", "\n<Document>: x", ":", ": x", "</", "def f(x):\n    return x\n", "=" * 40),
)

nasty_texts = st.sampled_from(NASTY)

texts = st.one_of(
    nasty_texts,
    st.text(max_size=12),
    st.lists(st.one_of(nasty_texts, st.text(max_size=3)), max_size=8).map("".join),
)
"""Short texts of every kind, lone surrogates excepted."""

WORDS = (
    "the",
    "a cat",
    "water",
    "36 °C",
    "医院",
    "北京。",
    "😀",
    "don't",
    "\n",
    "  ",
    "e\u0301",
    "x" * 30,
    "-",
    "42",
)

long_texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=200).map(" ".join)
"""Texts of up to some hundred tokens."""
