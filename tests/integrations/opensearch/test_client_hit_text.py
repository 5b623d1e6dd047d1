"""Scored texts of a hit: fields, templates, functions, nested objects, lists, inner hits, and spans in them."""

from __future__ import annotations

from typing import Any

import pytest
from opensearch_qwen_rerank.client.hit_text import HitTextReader

from qwen_rerank_plugins import ConfigurationError, InputTypeError

WHALE: dict[str, Any] = {
    "_id": "1",
    "_source": {
        "title": "Whales",
        "body": "They sing.",
        "tags": ["sea", "mammal"],
        "meta": {"author": {"name": "Ana"}, "pages": 12, "checked": True, "note": None},
        "meta.flat": "a key with a dot",
        "parts": [{"text": "first"}, {"text": "second"}, {"other": 1}],
    },
}


def texts(hit: dict[str, Any], *fields: str, **options: Any) -> list[str]:
    return [one.text for one in HitTextReader(fields, **options).read(hit)]


def test_several_fields_are_joined_by_a_blank_line() -> None:
    assert texts(WHALE, "title", "body") == ["Whales\n\nThey sing."]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("meta.author.name", "Ana"),
        ("meta.pages", "12"),
        ("meta.checked", "true"),
        ("meta.flat", "a key with a dot"),
        ("tags", "sea\nmammal"),
        ("parts.text", "first\nsecond"),
        ("meta.author", "Ana"),
    ],
)
def test_a_path_reads_values_through_objects_lists_and_dotted_keys(path: str, text: str) -> None:
    assert texts(WHALE, path) == [text]


@pytest.mark.parametrize(
    "path", ["nowhere", "meta.note", "title.below", "meta.author.name.first", "parts.0.text"]
)
def test_a_path_without_a_value_has_no_text(path: str) -> None:
    assert texts(WHALE, path) == []
    assert texts(WHALE, "title", path) == ["Whales"]


def test_blank_values_leave_no_gap() -> None:
    assert texts(
        {"_source": {"title": "  ", "body": "b", "list": ["", "x", " "]}}, "title", "body", "list"
    ) == ["b\n\nx"]


def test_a_hit_without_a_source_has_no_text() -> None:
    assert texts({"_id": "1"}, "body") == []
    assert texts({"_id": "1", "fields": {"other": ["x"]}}, "body") == []


def test_requested_fields_override_the_source() -> None:
    asked = {"fields": {"body": ["one", "two"], "meta.note": ["n"]}, "_source": {"body": "of the source"}}
    assert texts(asked, "body", "meta.note") == ["one\ntwo\n\nn"]


def test_a_template_is_filled_with_values() -> None:
    template = "{title} by {meta.author.name} {{sic}}: {body}{nowhere}!"
    assert texts(WHALE, template=template) == ["Whales by Ana {sic}: They sing.!"]


def test_a_template_without_any_value_has_no_text() -> None:
    assert texts({"_source": {"title": " "}}, template="Title: {title}") == []


@pytest.mark.parametrize("template", ["no path", "", "{", "a } b", "{}", "{a..b}", "{{a}}"])
def test_an_invalid_template_is_refused(template: str) -> None:
    with pytest.raises(ConfigurationError, match="template has"):
        HitTextReader(template=template)


def test_braces_in_a_value_are_kept() -> None:
    assert texts({"_source": {"body": "{title} {{x}}"}}, template="{body}") == ["{title} {{x}}"]


def test_a_function_of_the_user_returns_the_text() -> None:
    reader = HitTextReader(text_of=lambda hit: hit["_source"].get("title"))
    assert [one.text for one in reader.read(WHALE)] == ["Whales"]
    assert reader.read({"_source": {}}) == []
    assert reader.read({"_source": {"title": "  "}}) == []
    with pytest.raises(InputTypeError, match="text_of returned neither a string nor None: int"):
        HitTextReader(text_of=lambda hit: 5).read(WHALE)  # type: ignore[arg-type, return-value]


def nested(*inner: dict[str, Any]) -> dict[str, Any]:
    return {"_source": {"title": "T"}, "inner_hits": {"best": {"hits": {"hits": list(inner)}}}}


def test_each_inner_hit_is_a_separate_text_with_the_fields_of_its_document() -> None:
    hit = nested({"_source": {"text": "one"}}, {"_source": {"text": ["two", "three"]}})
    found = HitTextReader(["title", "inner_hits.best.text"]).read(hit)
    assert [(one.text, one.inner_hit) for one in found] == [("T\n\none", 0), ("T\n\ntwo\nthree", 1)]
    assert texts(hit, template="{title}: {inner_hits.best.text}") == ["T: one", "T: two\nthree"]


def test_an_inner_hit_without_text_is_skipped_even_if_its_document_has_text() -> None:
    hit = nested({"_source": {}}, {"_source": {"text": "two"}})
    assert [one.inner_hit for one in HitTextReader(["title", "inner_hits.best.text"]).read(hit)] == [1]
    assert texts(nested(), "title", "inner_hits.best.text") == []
    assert texts({"_source": {"title": "T"}}, "title", "inner_hits.best.text") == []


def test_requested_fields_of_inner_hits_have_the_full_path() -> None:
    inner = {"_nested": {"field": "passages", "offset": 0}, "fields": {"passages.text": ["asked"]}}
    assert texts(nested(inner), "inner_hits.best.text") == ["asked"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["inner_hits.a.x", "inner_hits.b.x"], r"several kinds of inner hits: \['a', 'b'\]"),
        (["inner_hits.a"], "path ends at inner hits: 'inner_hits.a'"),
    ],
)
def test_paths_must_name_one_kind_of_inner_hits(paths: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        HitTextReader(paths)


def test_a_passage_has_its_span_in_its_field() -> None:
    (text,) = HitTextReader(["title", "body"]).read({"_source": {"title": "Title", "body": "long body here"}})
    assert text.text == "Title\n\nlong body here"
    assert text.passage((12, 16)) == {"passage": "body", "passage_field": "body", "passage_span": [5, 9]}
    mostly_body = {"passage": "long", "passage_field": "body", "passage_span": [0, 4]}
    assert text.passage((3, 11)) == mostly_body
    assert text.passage((0, 8))["passage_field"] == "title"
    assert text.passage((5, 7)) == {}  # nothing but the blank line


def test_a_passage_of_a_function_has_its_span_in_its_text() -> None:
    (text,) = HitTextReader(text_of=lambda hit: "abcdef").read({})
    assert text.passage((1, 3)) == {"passage": "bc", "passage_span": [1, 3]}
