"""All dialects: converts the JSON value of a body to a `RankingRequest`.

On a rerank route the body determines the dialect, independent of the path: the first of these keys that is present and
not null.

| key | dialect |
| --- | --- |
| `search` | OpenSearch's `ml_inference` |
| `texts` | text-embeddings-inference |
| `input` | DashScope |
| `queries` | several queries |
| `property` | Weaviate |
| `top_k` or `truncation` | Voyage |
| none of them | Cohere, Jina, vLLM, Infinity |

Keys that a dialect does not define are ignored. The schemas describe exactly what is accepted, except for one rule
that JSON Schema cannot express: several queries require as many lists of documents, or on the score route as many
documents. Nothing here knows HTTP, limits or the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas import (
    cohere,
    dashscope,
    fields,
    multi_query,
    opensearch,
    score,
    tei,
    voyage,
    weaviate,
)
from qwen_rerank_plugins.service.schemas.documents import json_type
from qwen_rerank_plugins.service.schemas.request import RankingRequest, Route

__all__ = ["DIALECTS", "answer_schema", "read_request", "request_schema"]

_Reader = Callable[[Mapping[str, Any]], RankingRequest]

# Key, reader, schema: the first key that is present and not null applies.
_BY_KEY: Final[tuple[tuple[str, _Reader, dict[str, Any]], ...]] = (
    ("search", opensearch.read, opensearch.REQUEST_SCHEMA),
    ("texts", tei.read, tei.REQUEST_SCHEMA),
    ("input", dashscope.read, dashscope.REQUEST_SCHEMA),
    ("queries", multi_query.read, multi_query.REQUEST_SCHEMA),
    ("property", weaviate.read, weaviate.REQUEST_SCHEMA),
    ("top_k", voyage.read, voyage.REQUEST_SCHEMA),
    ("truncation", voyage.read, voyage.REQUEST_SCHEMA),
)

DIALECTS: Final = tuple(
    module.NAME for module in (cohere, dashscope, multi_query, opensearch, score, tei, voyage, weaviate)
)
"""Every value of `RankingRequest.dialect`, sorted."""

_ANSWERS: Final[dict[Route, dict[str, Any]]] = {
    Route.RERANK: {
        "anyOf": [
            module.ANSWER_SCHEMA
            for module in (cohere, multi_query, tei, voyage, dashscope, weaviate, opensearch)
        ]
    },
    Route.SCORE: score.ANSWER_SCHEMA,
    Route.DASHSCOPE: dashscope.ANSWER_SCHEMA,
}


def read_request(route: Route, body: Any) -> RankingRequest:
    """Convert the JSON value of a body to a request.

    Args:
        route: Kind of address.
        body: The value, from `parse_json`.

    Raises:
        BodyError: The body does not follow its dialect. The message contains no text of the request.
    """
    if not isinstance(body, dict):
        raise BodyError(f"the body has the wrong type: {json_type(body)}; send an object", status=400)
    return _reader(route, body)(body)


def request_schema(route: Route) -> dict[str, Any]:
    """Return the JSON Schema (2020-12, without references) of the bodies that a route accepts."""
    if route is Route.SCORE:
        return score.REQUEST_SCHEMA
    if route is Route.DASHSCOPE:
        return dashscope.REQUEST_SCHEMA
    keys = [key for key, _, _ in _BY_KEY]
    chosen = [_chosen_by(key, keys[:at], schema) for at, (key, _, schema) in enumerate(_BY_KEY)]
    return {"anyOf": [_without(keys, cohere.REQUEST_SCHEMA), *chosen]}


def answer_schema(route: Route) -> dict[str, Any]:
    """Return the JSON Schema (2020-12, without references) of the answers of a route."""
    return _ANSWERS[route]


def _reader(route: Route, body: Mapping[str, Any]) -> _Reader:
    if route is Route.SCORE:
        return score.read
    if route is Route.DASHSCOPE:
        return dashscope.read
    return next((read for key, read, _ in _BY_KEY if body.get(key) is not None), cohere.read)


def _chosen_by(key: str, before: list[str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a body whose dialect `key` determines, since none of the keys `before` it is present."""
    properties = schema["properties"]
    chosen = {**schema, "properties": {**properties, key: fields.non_null(properties[key])}}
    chosen["required"] = list(dict.fromkeys([*schema["required"], key]))
    return _without(before, chosen)


def _without(keys: list[str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema in which keys of other dialects are absent or null."""
    return {**schema, "properties": {**schema["properties"], **{key: {"type": "null"} for key in keys}}}
