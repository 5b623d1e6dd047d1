"""Request and answer bodies: one module per dialect, and what they share.

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

Keys that a dialect does not define are ignored. The schemas describe exactly what is accepted, except for three rules
that JSON Schema cannot express: several queries require as many lists of documents, or on the score route as many
documents; a token limit must not truncate anything; a document with images needs a text. Nothing here knows HTTP,
limits or the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from qwen_rerank_plugins.service.errors import BodyError
from qwen_rerank_plugins.service.schemas.cohere import CohereRequest
from qwen_rerank_plugins.service.schemas.dashscope import DashScopeRequest
from qwen_rerank_plugins.service.schemas.dialect import Dialect, Route
from qwen_rerank_plugins.service.schemas.documents import json_type
from qwen_rerank_plugins.service.schemas.multi_query import MultiQueryRequest
from qwen_rerank_plugins.service.schemas.opensearch import OpenSearchRequest
from qwen_rerank_plugins.service.schemas.score import SPELLINGS
from qwen_rerank_plugins.service.schemas.tei import TEIRequest
from qwen_rerank_plugins.service.schemas.validation import validated
from qwen_rerank_plugins.service.schemas.voyage import VoyageRequest
from qwen_rerank_plugins.service.schemas.weaviate import WeaviateRequest

__all__ = ["DIALECTS", "answer_schema", "examples", "read_request", "request_schema"]

_TABLES: Final[dict[Route, Sequence[tuple[tuple[str, ...], type[Dialect]]]]] = {
    Route.RERANK: (
        (("search",), OpenSearchRequest),
        (("texts",), TEIRequest),
        (("input",), DashScopeRequest),
        (("queries",), MultiQueryRequest),
        (("property",), WeaviateRequest),
        (("top_k",), VoyageRequest),
        (("truncation",), VoyageRequest),
        ((), CohereRequest),
    ),
    Route.SCORE: SPELLINGS,
    Route.DASHSCOPE: (((), DashScopeRequest),),
}
"""Deciding keys and model of each dialect: the first whose keys are all present and not null applies."""

DIALECTS: Final = tuple(sorted({model.name for table in _TABLES.values() for _, model in table}))
"""The name of every dialect, sorted."""


def read_request(route: Route, body: Any) -> Dialect:
    """Convert the JSON value of a body to a request in its dialect.

    Args:
        route: Kind of address.
        body: The value, from `parse_json`.

    Raises:
        BodyError: The body does not follow its dialect. The message contains no text of the request.
    """
    if not isinstance(body, dict):
        raise BodyError(f"the body has the wrong type: {json_type(body)}; send an object", status=400)
    present = {key for key, value in body.items() if value is not None}
    table = _TABLES[route]
    chosen = next((model for keys, model in table if present.issuperset(keys)), None)
    if chosen is None:  # the error names what is missing of the dialect that the body starts
        chosen = next((model for keys, model in table if keys and keys[0] in present), table[0][1])
    return validated(chosen.model_validate, body)


def request_schema(route: Route) -> dict[str, Any]:
    """Return the JSON Schema (2020-12, without references) of the bodies that a route accepts."""
    table = _TABLES[route]
    decisive = [keys for keys, _ in table]
    return {"anyOf": [_chosen_by(keys, decisive[:at], model) for at, (keys, model) in enumerate(table)]}


def answer_schema(route: Route) -> dict[str, Any]:
    """Return the JSON Schema (2020-12, without references) of the answers of a route."""
    kinds = [get_type_hints(model.from_result)["return"] for model in _models(route)]
    return {
        "anyOf": [_inline(TypeAdapter(kind).json_schema(schema_generator=_SchemaGenerator)) for kind in kinds]
    }


def examples(route: Route) -> dict[str, dict[str, Any]]:
    """Return an example of each dialect that a route accepts, by its name, in the format of OpenAPI."""
    schemas = {model.name: model.model_json_schema() for model in _models(route)}
    return {
        name: {"summary": one["description"], "value": one["examples"][0]} for name, one in schemas.items()
    }


def _models(route: Route) -> list[type[Dialect]]:
    """Return the first model of each dialect, in the order of the table."""
    first = {model.name: model for _, model in reversed(_TABLES[route])}
    return [*first.values()][::-1]


class _SchemaGenerator(GenerateJsonSchema):
    """Omits titles of fields and defaults, which are all null, and closes the objects of answers."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 (pydantic's signature)
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return {**super().typed_dict_schema(schema), "additionalProperties": False}


def _chosen_by(keys: Sequence[str], before: Sequence[Sequence[str]], model: type[Dialect]) -> dict[str, Any]:
    """Return the schema of a body that has `keys`, and no keys `before` them that would decide otherwise."""
    schema = _inline(model.model_json_schema(schema_generator=_SchemaGenerator))
    required = schema["required"]
    properties = {**{key: schema["properties"][key] for key in required}, **schema["properties"]}
    absent = {key: {"type": "null"} for earlier in before for key in earlier if key not in keys}
    non_null = {
        key: {"allOf": [properties[key], {"not": {"type": "null"}}]} for key in keys if key not in required
    }
    changed = {"properties": {**properties, **absent, **non_null}, "required": [*required, *non_null]}
    return {**schema, **changed}


def _inline(value: Any, definitions: Mapping[str, Any] | None = None) -> Any:
    """Return a schema with its references replaced by what they refer to."""
    if isinstance(value, list):
        return [_inline(one, definitions) for one in value]
    if not isinstance(value, dict):
        return value
    definitions = value.get("$defs", {}) if definitions is None else definitions
    if "$ref" in value:
        value = {**definitions[value["$ref"].removeprefix("#/$defs/")], **value}
    return {key: _inline(one, definitions) for key, one in value.items() if key not in {"$defs", "$ref"}}
