"""Renders the OpenAPI description as one page of plain HTML, without scripts or external files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["docs_page"]


def docs_page(document: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        document: An OpenAPI 3.1 description.
    """
    title = f"{document['info']['title']} {document['info']['version']}"
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            entry = _operation(path, method, operation, document)
            by_tag.setdefault(operation["tags"][0], []).append(entry)
    parts = [f"<h2>{escape(tag.capitalize())}</h2>{''.join(entries)}" for tag, entries in by_tag.items()]
    shapes = [_shape(name, schema) for name, schema in document["components"]["schemas"].items()]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="favicon.ico">'
        '<link rel="stylesheet" href="docs.css"></head><body>'
        f"<main><h1>{escape(title)}</h1><p>{escape(document['info']['description'])}</p>"
        '<p><a href="./">Workbench</a> · <a href="openapi.json">openapi.json</a></p>'
        f"{''.join(parts)}<h2>Schemas</h2>{''.join(shapes)}</main></body></html>\n"
    )


def _operation(path: str, method: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(_resolve(answer, document)['description'])}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    body = _parameters(operation.get("parameters", ())) + _body(operation.get("requestBody"))
    return (
        f"<details><summary><b>{escape(method.upper())}</b> <code>{escape(path)}</code> "
        f"— {escape(operation['summary'])}</summary><div>{body}<h3>Answers</h3>"
        f"<table><thead><tr><th>Status</th><th>Meaning</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _parameters(parameters: Sequence[Mapping[str, Any]]) -> str:
    if not parameters:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['description'])} "
        f"<code>{escape(json.dumps(one['schema'], ensure_ascii=False))}</code></td></tr>"
        for one in parameters
    )
    head = "<thead><tr><th>Name</th><th>Meaning</th></tr></thead>"
    return f"<h3>Parameters</h3><table>{head}<tbody>{rows}</tbody></table>"


def _body(body: Mapping[str, Any] | None) -> str:
    if body is None:
        return ""
    text = f"<h3>Body</h3><p>{escape(body['description'])} "
    if "application/json" not in body["content"]:
        return f"{text}Types: {escape(', '.join(body['content']))}.</p>"
    shape = escape(body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2])
    return f'{text}Schema: <a href="#{shape}">{shape}</a>.</p>'


def _shape(name: str, schema: Any) -> str:
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    return (
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f'<div><pre tabindex="0">{escape(text)}</pre></div></details>'
    )


def _resolve(value: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = document
    for key in value["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    resolved: Mapping[str, Any] = found
    return resolved
