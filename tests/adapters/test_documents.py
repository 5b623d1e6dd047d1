from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest

from qwen_rerank_plugins import ConfigurationError, InputTypeError
from qwen_rerank_plugins.adapters import (
    Candidates,
    check_metadata_fields,
    collect_documents,
    render_metadata,
)

# JSON has no form for a list that contains itself.
LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Farm", "Farm"),
        ("  two\nlines ", "  two\nlines "),
        ("水垢 ☕", "水垢 ☕"),
        (0, "0"),
        (1984, "1984"),
        (0.1, "0.1"),
        (True, "true"),
        (False, "false"),
        (["a", "水"], '["a", "水"]'),
        (("a", None), '["a", null]'),
        ({"b": {"c": [1, True]}}, '{"b": {"c": [1, true]}}'),
        ({"day": dt.date(1984, 5, 1)}, '{"day": "1984-05-01"}'),
        (dt.date(1984, 5, 1), "1984-05-01"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (LOOP, "[[...]]"),
    ],
)
def test_a_value_is_one_line_of_text_or_json(value: object, text: str) -> None:
    assert render_metadata({"key": value}, ["key"]) == f"key: {text}\n\n"


@pytest.mark.parametrize("value", [None, "", " \n", [], (), {}, set()])
def test_an_empty_value_is_omitted_with_its_name(value: object) -> None:
    assert render_metadata({"key": value}, ["key"]) == ""
    assert render_metadata({"key": value, "title": "Farm"}, ["key", "title"]) == "title: Farm\n\n"


def test_fields_come_in_their_own_order_and_a_missing_one_is_omitted() -> None:
    metadata = {"title": "Farm", "year": 1900, "other": "x"}
    assert render_metadata(metadata, ["year", "missing", "title"]) == "year: 1900\ntitle: Farm\n\n"
    assert render_metadata(metadata, []) == render_metadata({}, ["title"]) == ""


def test_candidates_say_where_the_content_begins() -> None:
    candidates = Candidates.render(["ab", "c"], lambda one: ("-" * len(one), one))
    assert (candidates.texts, candidates.offsets) == (["--ab", "-c"], [2, 1])
    assert [
        text[offset:] for text, offset in zip(candidates.texts, candidates.offsets, strict=True)
    ] == candidates.documents


def test_any_iterable_of_the_kind_is_collected_and_not_changed() -> None:
    given = [1, 2]
    collected = collect_documents(given, int)
    assert (collected, collected is given) == ([1, 2], False)
    assert collect_documents((one for one in (1, "a")), (int, str)) == [1, "a"]
    assert collect_documents([], int) == []


@pytest.mark.parametrize(
    ("documents", "kinds", "message"),
    [
        ("text", int, "nodes has the wrong type: str. Pass a list of int."),
        (b"text", int, "nodes has the wrong type: bytes."),
        ({"a": 1}, int, "nodes has the wrong type: dict."),
        (range(3), range, "nodes has the wrong type: range. Pass a list of range."),
        (None, int, "nodes has the wrong type: NoneType."),
        ([1, "a"], int, "nodes[1] has the wrong type: str. Pass a list of int."),
        ([None], (str, Mapping), "nodes[0] has the wrong type: NoneType. Pass a list of str or Mapping."),
    ],
)
def test_what_is_not_a_list_of_the_kind_is_refused(documents: object, kinds: Any, message: str) -> None:
    with pytest.raises(InputTypeError) as caught:
        collect_documents(documents, kinds, name="nodes")
    assert str(caught.value).startswith(message)


def test_metadata_fields_are_a_tuple_of_keys_or_none() -> None:
    assert check_metadata_fields(["b", "a"]) == ("b", "a")
    assert check_metadata_fields(()) == ()
    assert check_metadata_fields(None) is None


@pytest.mark.parametrize("fields", ["title", [1], {"title"}, {"title": 1}, 3])
def test_metadata_fields_of_another_type_are_refused(fields: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_metadata_fields(fields, name="keys")
    assert str(caught.value) == f"keys is not valid: {fields!r}. Pass a list of metadata keys."
