"""The reference page of the HTTP interface, from its OpenAPI description."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwen_rerank_plugins.service.api.openapi import openapi_document
from qwen_rerank_plugins.service.api.routes import endpoints
from qwen_rerank_plugins.service.errors import STATUSES
from qwen_rerank_plugins.service.settings import ServiceSettings
from scripts.settings_table import LIMITS, table_of_rows

__all__ = ["description", "http_page"]

Schema = Mapping[str, Any]

INTRODUCTION = """# HTTP addresses and fields

Generated from the OpenAPI description, which a running service has at `/openapi.json` and, with commands to copy, at `/docs`.
[HTTP](../http.md) explains the dialects with examples.
"""


def description() -> dict[str, Any]:
    """Return the OpenAPI description of a service with every address."""
    settings = ServiceSettings(jobs_folder="jobs")
    return openapi_document(endpoints(settings), settings, has_keys=False)


def http_page() -> str:
    """Return the page with every address, the fields of every body, and every schema."""
    document = description()
    sections = [operation_section(operations) for operations in grouped(document)]
    schemas = [schema_section(name, schema) for name, schema in document["components"]["schemas"].items()]
    return "\n".join([INTRODUCTION, "## Addresses\n", *sections, "## Fields\n", *schemas])


def grouped(document: Mapping[str, Any]) -> list[list[tuple[str, str, Mapping[str, Any]]]]:
    """Return the operations as (method, path, operation); those that differ in their address alone are one group."""
    groups: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            same = json.dumps({key: value for key, value in operation.items() if key != "operationId"})
            groups.setdefault(method + same, []).append((method.upper(), path, operation))
    return list(groups.values())


def operation_section(
    operations: Sequence[tuple[str, str, Mapping[str, Any]]],
) -> str:
    """Return the section of operations that differ in their address alone."""
    operation = operations[0][2]
    addresses = "\n".join(f"- `{method} {path}`" for method, path, _ in operations)
    parts = [f"### {operations[0][0]} {operations[0][1]}\n\n{operation['summary']}.\n\n{addresses}\n"]
    if "parameters" in operation:
        rows = [("parameter", "type", "meaning")]
        rows += [
            (f"`{one['name']}`", type_of(one["schema"]), one["description"])
            for one in operation["parameters"]
        ]
        parts.append(table_of_rows(rows) + "\n")
    if "requestBody" in operation:
        body = operation["requestBody"]
        kinds = ", ".join(f"`{kind}`" for kind in body["content"])
        schema = next(iter(body["content"].values()))["schema"]
        parts.append(f"Body: {body['description']} Types: {kinds}.{linked(schema)}\n")
    parts.append("\n".join(answers(operation)) + "\n")
    return "\n".join(parts)


def answers(operation: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each successful status, and one for all errors."""
    errors = []
    for status, answer in operation["responses"].items():
        if int(status) in STATUSES:
            errors.append(f"[{status}](../errors.md#{STATUSES[int(status)].anchor})")
            continue
        content = answer.get("content", {})
        kinds = ", ".join(f"`{kind}`" for kind in content) or "no body"
        schema: Schema = next((media["schema"] for media in content.values()), {})
        yield f"- {status}: {kinds}.{linked(schema)}"
    yield f"- Errors: {', '.join(errors)}, with the fields of [Problem](#schema-problem)."


def linked(schema: Schema) -> str:
    """Return a link to the fields of a schema, if it is a named one."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return f" Fields: [{name}](#schema-{name.lower()})." if name else ""


def schema_section(name: str, schema: Schema) -> str:
    """Return the section of a schema: a table of fields for each form that it may have."""
    parts = [f'### <a id="schema-{name.lower()}"></a>{name}\n']
    for form in schema.get("anyOf", [schema]):
        text = str(form.get("description", "")).partition("\n")[0]
        parts.append(f"{text}\n" if text else "")
        parts.append(table_of_rows([("field", "type", "required", "meaning"), *fields(form)]) + "\n")
    return "\n".join(parts)


def fields(schema: Schema, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, required and meaning of each field, those of nested objects with a path as name."""
    if schema.get("type") == "array":
        yield from fields(schema["items"], prefix or "[].")
        return
    for name, one in schema.get("properties", {}).items():
        if one == {"type": "null"}:
            continue  # a key that would decide for another dialect
        meaning = str(one.get("description", "")).partition("\n")[0]
        required = "yes" if name in schema.get("required", ()) else ""
        yield f"`{prefix}{name}`", type_of(one), required, meaning
        nested = one.get("items", one) if one.get("type") == "array" else one
        if nested.get("type") == "object" and "properties" in nested:
            mark = "[]" if nested is not one else ""
            yield from fields(nested, f"{prefix}{name}{mark}.")


def type_of(schema: Schema) -> str:
    """Describe the values that a schema accepts."""
    if "$ref" in schema:
        return f"[{schema['$ref'].rpartition('/')[2]}](#schema-{schema['$ref'].rpartition('/')[2].lower()})"
    if True in schema.get("enum", ()) and "true" in schema["enum"]:
        return "true, false, also as a string"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    for combined in ("anyOf", "allOf", "oneOf"):
        if combined in schema and "type" not in schema:
            kinds = [type_of(one) for one in schema[combined] if "not" not in one]
            return " or ".join(dict.fromkeys(kinds))
    kinds = schema.get("type", "any")
    if isinstance(kinds, list):
        return " or ".join(type_of({**schema, "type": kind}) for kind in kinds)
    if kinds == "array" and "items" in schema:
        return f"array of {type_of(schema['items'])}"
    limits = [f"{sign} {schema[key]:g}" for key, sign in LIMITS.items() if key in schema]
    return " ".join([kinds, *limits]) if kinds in {"integer", "number"} else kinds
