from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.remote.redaction import MAX_EXCERPT_CHARS, redacted_excerpt

KEY = "sk-0123456789abcdef"
SECRET = "The merger with Globex is planned for the ninth of May and nobody may know."
WORDS = st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs", "Cc"]), min_size=4, max_size=60)


def shares_a_run(one: str, other: str, length: int) -> bool:
    return any(one[start : start + length] in other for start in range(len(one) - length + 1))


def test_what_the_service_says_is_shown_on_one_line() -> None:
    assert redacted_excerpt(b'{"detail":\n  "model not\\u0020found"}\x00', ["q", "d"]) == (
        '{"detail": "model not found"}'
    )


def test_an_excerpt_has_at_most_200_characters() -> None:
    shown = redacted_excerpt(b"abc " * 1000, [])
    assert (len(shown), shown[-1]) == (MAX_EXCERPT_CHARS, "…")


@pytest.mark.parametrize("cut", [len(SECRET), 40, 25])
@pytest.mark.parametrize("start", [0, 7, 20])
def test_a_text_that_is_repeated_is_masked_wherever_it_was_cut(cut: int, start: int) -> None:
    answer = json.dumps({"error": "bad input", "input": SECRET[start : start + cut]}).encode()
    shown = redacted_excerpt(answer, ["q", SECRET])
    assert "bad input" in shown
    assert "[…]" in shown
    assert not shares_a_run(shown, SECRET, 23)
    assert "Globex" not in shown or start + cut < 20


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    "text", ["并购计划在五月九日之前不得公开", 'a "quoted" line\nand\tanother \\ one', "😀 emoji ones 😀"]
)
def test_a_text_is_recognised_in_json_s_escapes(text: str, ascii_only: bool) -> None:
    shown = redacted_excerpt(json.dumps({"input": text}, ensure_ascii=ascii_only).encode(), [text])
    assert shown == '{"input": "[…]"}'


def test_a_short_text_is_masked_when_it_stands_there_whole() -> None:
    shown = redacted_excerpt(b'{"input": ["Globex", "Initech"]}', ["Globex", "Initech"])
    assert shown == '{"input": ["[…]", "[…]"]}'


@pytest.mark.parametrize("shown_key", [KEY, KEY[:10], KEY[5:], f"Bearer {KEY}"])
def test_a_key_is_masked_even_in_parts(shown_key: str) -> None:
    shown = redacted_excerpt(f'{{"error": "bad key {shown_key}!"}}'.encode(), [], KEY)
    assert not shares_a_run(shown, KEY, 8)
    assert "error" in shown


@given(st.lists(WORDS, min_size=1, max_size=3), st.binary(max_size=20), st.booleans())
def test_no_echo_of_any_text_gets_through(texts: list[str], noise: bytes, ascii_only: bool) -> None:
    answer = noise + json.dumps({"documents": texts}, ensure_ascii=ascii_only).encode() + noise
    shown = redacted_excerpt(answer, texts, KEY)
    assert len(shown) <= MAX_EXCERPT_CHARS
    assert shown.isprintable()
    for text in texts:
        assert not shares_a_run(shown, " ".join(text.split()), 23)


def test_megabytes_of_texts_do_not_make_an_error_slow() -> None:
    texts = [f"document {number} " * 1000 for number in range(300)]
    started = time.perf_counter()
    assert redacted_excerpt(b"x" * 65_536, texts).startswith("xxx")
    assert time.perf_counter() - started < 3.0
