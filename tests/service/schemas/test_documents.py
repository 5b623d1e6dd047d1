from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas.documents import echo, text_of, texts_of
from qwen_rerank_plugins.types import RankedDocument
from tests.service.schemas.answering import unhurried

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("a text", "a text"),
        ("", ""),
        ({"text": "a text", "id": 7}, "a text"),
        ({"text": ""}, ""),
        ({"text": 5}, "5"),
        ({"text": ["one", "two"]}, "one\ntwo"),
        ({"text": None, "title": "A title"}, "title: A title"),
        ({"title": "A title", "body": "A body"}, "title: A title\nbody: A body"),
        ({"body": "A body", "title": "A title"}, "body: A body\ntitle: A title"),
        ({"title": "", "tags": [], "note": None, "blank": " ", "deep": {"a": [{}]}, "body": "B"}, "body: B"),
        ({}, ""),
        (
            {"title": "T", "price": 2.5, "sold": False, "tags": ["a", "b"], "by": {"name": "N", "age": 3}},
            "title: T\nprice: 2.5\nsold: false\ntags:\n  - a\n  - b\nby:\n  name: N\n  age: 3",
        ),
        ({"authors": [{"name": "N", "age": 3}]}, "authors:\n  -\n    name: N\n    age: 3"),
        (["A title", "A body"], "A title\nA body"),
        (["A title", "", None, [], 1998, ["a", "b"], {"k": "v"}], "A title\n1998\n- a\n- b\nk: v"),
        ([], ""),
        ({"content": "a field like others"}, "content: a field like others"),
        ({"content": ["one", "two"], "text": "a text"}, "a text"),
        ({"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}, "one\ntwo"),
        (
            {"content": [{"type": "chapter", "text": "one"}]},
            "content:\n  -\n    type: chapter\n    text: one",
        ),
        ({"content": []}, ""),
    ],
)
def test_each_form_of_a_document_has_its_text(document: Any, text: str) -> None:
    assert text_of(document, "documents[0]") == text


@pytest.mark.parametrize(
    ("rank_fields", "text"),
    [
        (["body"], "B"),
        (["title", "body"], "title: T\nbody: B"),
        (["body", "title"], "body: B\ntitle: T"),
        (["missing", "title"], "title: T"),
        (["missing"], ""),
        (["text", "title"], "text: X\ntitle: T"),
    ],
)
def test_chosen_fields_are_ranked_in_the_order_chosen(rank_fields: list[str], text: str) -> None:
    document = {"title": "T", "body": "B", "text": "X"}
    assert text_of(document, "documents[0]", rank_fields) == text


@pytest.mark.parametrize(
    ("document", "kind"), [(1, "number"), (1.5, "number"), (True, "boolean"), (None, "null")]
)
def test_a_value_that_is_no_document_is_refused_by_place_and_type(document: Any, kind: str) -> None:
    with pytest.raises(BodyError, match=rf"documents\[1\] has the wrong type: {kind}; pass a string"):
        texts_of(["fine", document], "documents")


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url"])
def test_a_part_that_is_no_text_is_refused_by_its_place(kind: str) -> None:
    parts = [{"type": "text", "text": "a secret"}, {"type": kind, kind: {"url": "https://secret"}}]
    with pytest.raises(BodyError, match=r"documents\[3\]\.content\[1\] is not text") as caught:
        text_of({"content": parts}, "documents[3]")
    assert "secret" not in str(caught.value)


MEDIA: list[Any] = [
    {"image": "https://example.org/bread.jpg"},
    {"image_url": {"url": "https://example.org/bread.jpg"}, "id": "7"},
    {"type": "image_url", "image_url": {"url": "https://example.org/bread.jpg"}},
    {"text": " ", "image": "https://example.org/bread.jpg"},
    {"text": None, "video": "https://example.org/bread.mp4"},
    {"input_audio": {"data": "UklGRg==", "format": "wav"}},
    {"content": [{"image": "https://example.org/bread.jpg"}]},
    [{"image": "https://example.org/bread.jpg"}, ""],
    {"metadata": {"image": "https://example.org/bread.jpg"}},
]


@pytest.mark.parametrize("document", MEDIA)
@pytest.mark.parametrize("rank_fields", [[], ["image"]])
def test_a_document_without_a_text_is_refused_by_its_place(document: Any, rank_fields: list[str]) -> None:
    with pytest.raises(BodyError, match=re.escape("documents[1] has no text but an image")) as caught:
        texts_of(["bread", document], "documents", rank_fields)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"text": "bread", "image": "https://example.org/bread.jpg"}, "bread"),
        ({"title": "bread", "image": "b.jpg"}, "title: bread\nimage: b.jpg"),
        ({"metadata": {"image": "b.jpg", "title": "bread"}}, "metadata:\n  image: b.jpg\n  title: bread"),
        ({"price": 5, "image": "b.jpg"}, "price: 5\nimage: b.jpg"),
        ({"image": None}, ""),
        ({"file": "bread.txt"}, "file: bread.txt"),
        ({}, ""),
        ([], ""),
        ({"id": "bread"}, "id: bread"),
    ],
)
def test_an_image_beside_a_text_is_metadata(document: Any, text: str) -> None:
    assert texts_of([document], "documents") == (text,)


def test_an_object_is_echoed_whole_and_anything_else_as_its_text() -> None:
    document = {"title": "T", "id": 7}
    assert echo(document, RankedDocument(0, "title: T\nid: 7")) is document
    assert echo("a text", RankedDocument(0, "a text")) == {"text": "a text"}
    assert echo(["a", "b"], RankedDocument(0, "a\nb")) == {"text": "a\nb"}


def _words(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [word for one in inner for word in _words(one)]
    return [value] if isinstance(value, str) and value.strip() else []


@unhurried
@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key not in {"text", "content"}), json_values))
def test_no_string_of_an_object_is_lost_and_none_comes_out_of_order(document: dict[str, Any]) -> None:
    rest = text_of(document, "documents[0]")
    for word in _words(document):
        _, found, rest = rest.partition(word)
        assert found == word


@unhurried
@given(json_values.filter(lambda value: isinstance(value, str | list | dict)))
def test_the_text_has_every_string_that_counts_in_order(document: Any) -> None:
    """A string is its own text; of an object with `text`, that field alone counts."""
    rest = text_of(document, "documents[0]")
    if isinstance(document, str):
        assert rest == document
        return
    has_text = isinstance(document, dict) and document.get("text") is not None
    for word in _words(document["text"] if has_text else document):
        _, found, rest = rest.partition(word)
        assert found == word
