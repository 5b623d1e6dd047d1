"""Renders the OpenAPI description as one page of HTML, with a command for each example.

The page is complete without its script, which adds the page's own address to the commands, and buttons to copy them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote, urlencode

from qwen_rerank_plugins.service.errors import STATUSES
from qwen_rerank_plugins.service.schemas import read_request
from qwen_rerank_plugins.service.schemas.dialect import Route

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
        '<link rel="stylesheet" href="docs.css"><script type="module" src="static/docs.js"></script></head><body>'
        f"<main><h1>{escape(title)}</h1><p>{escape(document['info']['description'])}</p>"
        '<p><a href="./">Workbench</a> · <a href="openapi.json">openapi.json</a></p>'
        f'{"".join(parts)}<h2 id="errors">Errors</h2>{_errors()}'
        f"<h2>Schemas</h2>{''.join(shapes)}</main></body></html>\n"
    )


def _operation(path: str, method: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(_resolve(answer, document)['description'])}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    body = _parameters(operation.get("parameters", ())) + _body(operation.get("requestBody"))
    has_key = operation.get("security", document["security"]) == [{"key": []}]
    body += "<h3>Example</h3>" + "".join(_examples(path, method, operation, has_key=has_key))
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


def _examples(path: str, method: str, operation: Mapping[str, Any], *, has_key: bool) -> Iterator[str]:
    """Yield each example of an operation as a command, with a link to the workbench if it ranks."""
    content = operation.get("requestBody", {}).get("content", {})
    media_type = next(iter(content), "")
    media = content.get(media_type, {})
    for example in media.get("examples", {"": {}}).values():
        url = "http://localhost:8501" + re.sub(r"{(\w+)}", lambda name: name[1].upper(), path)
        options = ["-X", method.upper()] if method not in {"get", "post"} else []
        options += ["-H", "Authorization: Bearer $API_KEY"] if has_key else []
        options += ["-H", f"Content-Type: {media_type}"] if content else []
        link = ""
        if "value" in example:
            options += ["-d", json.dumps(example["value"], indent=2, ensure_ascii=False)]
            route = Route(media["schema"]["$ref"].rpartition("/")[2].removesuffix("_request"))
            link = f' <a href="{escape(_workbench_link(route, example["value"]))}">Open in the workbench</a>'
        elif content:
            options += ["--data-binary", "@FILE"]
        yield (
            f'<div class="example"><p>{escape(example.get("summary", ""))}</p>'
            f'<pre tabindex="0">{escape(_command(url, options))}</pre>'
            f'<button type="button" hidden>Copy as curl</button>{link}</div>'
        )


def _command(url: str, options: Sequence[str]) -> str:
    """Return a command line, in which the shell replaces `$API_KEY` and nothing else."""
    words = [f'"{word}"' if "$API_KEY" in word else shlex.quote(word) for word in options]
    return " ".join(["curl -s", url, *words])


def _workbench_link(route: Route, body: Any) -> str:
    """Return the address of the workbench with a request filled in; a fragment is never sent to a server."""
    request = read_request(route, body).to_request()
    fields = [("query", request.queries[0]), *(("document", text) for text in request.documents[0])]
    if request.instruction:
        fields.append(("instruction", request.instruction))
    return f"./#{urlencode(fields, quote_via=quote)}"


def _errors() -> str:
    """Return the table of errors; the `type` of an error answer is the address of its row."""
    rows = "".join(
        f'<tr id="{one.anchor}"><td>{status}</td><td><code>{one.code}</code></td>'
        f"<td>{_prose(one.meaning)}</td><td>{_prose(one.remedy)}</td></tr>"
        for status, one in STATUSES.items()
    )
    head = "<tr><th>Status</th><th><code>code</code></th><th>Meaning</th><th>What to do</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _prose(text: str) -> str:
    """Return a sentence as HTML, with its `code`."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


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
