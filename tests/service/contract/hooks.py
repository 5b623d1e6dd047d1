"""The rules that the JSON schemas cannot express: lists of the same length, limits that truncate, texts beside images.

Loaded by Schemathesis itself (SCHEMATHESIS_HOOKS). Bodies that break these rules alone are answered with status 422, which
`tests/service/schemas` shows; here they would count as valid ones that were refused.
"""

from __future__ import annotations

from typing import Any

import schemathesis

from qwen_rerank_plugins.service.schemas.documents import MEDIA_FIELDS


def belongs_together(body: Any) -> bool:
    """Whether the lists of a body have the same number of entries, or are not lists at all."""
    if not isinstance(body, dict):
        return True
    if isinstance(body.get("queries"), list) and isinstance(body.get("documents"), list):
        nested = all(isinstance(one, list) for one in body["documents"])
        several = len(body["queries"]) > 1
        if len(body["queries"]) != len(body["documents"]) and (nested or several):
            return False
    return all(
        _pairs(body.get(left), body.get(right))
        for left, right in (
            ("text_1", "text_2"),
            ("data_1", "data_2"),
            ("queries", "documents"),
            ("queries", "items"),
        )
    )


def _pairs(left: Any, right: Any) -> bool:
    if not isinstance(left, list) or len(left) < 2 or right is None:
        return True
    return len(left) == (len(right) if isinstance(right, list) else 1)


def has_no_media(value: Any) -> bool:
    """Whether no field at any depth is an image, a video or audio; the schema describes only the simplest forms."""
    if isinstance(value, dict):
        return not value.keys() & set(MEDIA_FIELDS) and all(map(has_no_media, value.values()))
    return all(map(has_no_media, value)) if isinstance(value, list) else True


def is_judged(body: Any) -> bool:
    """Whether the schema says exactly if a body is accepted."""
    return belongs_together(body) and has_no_media(body)


@schemathesis.hook
def filter_body(context: Any, body: Any) -> bool:
    """Keep what the schema can judge."""
    return is_judged(body)


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """The same for cases that are enumerated instead of generated."""
    return is_judged(case.body)
