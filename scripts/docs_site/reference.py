"""The reference pages that are generated from the code: settings, command line, metrics, HTTP, Python."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

import typer
from opensearch_qwen_rerank import cli as opensearch_cli
from opensearch_qwen_rerank.settings import OpenSearchSettings
from pydantic import BaseModel
from typer.testing import CliRunner

from qwen_rerank_plugins import errors
from qwen_rerank_plugins.batch import BatchOptions
from qwen_rerank_plugins.cli import app as cli
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.service.settings import ServiceSettings
from scripts.docs_site.http_reference import http_page
from scripts.docs_site.metrics_reference import metrics_page
from scripts.docs_site.repository import ROOT
from scripts.settings_table import rows_of, table_of_rows

__all__ = ["reference_pages"]

SECTIONS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("The reranker", "", RerankConfig),
    ("`service`: the HTTP service", "service", ServiceSettings),
    ("`batch`: files", "batch", BatchOptions),
    ("`opensearch`: the OpenSearch integration", "opensearch", OpenSearchSettings),
)
PROGRAMS = (("qwen-rerank", cli.app), ("opensearch-qwen-rerank", opensearch_cli.app))
HELP_COLUMNS = 110

SETTINGS = """# Settings

Every setting, with its environment variable. [Configuration](../configuration.md) explains the sources: arguments, environment, file. In a file, the
settings of a section stand below its name.
"""
COMMANDS = """# Command line

The output of `--help` of every command. [Errors](../errors.md) explains error lines. Exit codes: 0 for success, 2 for an invalid option, setting or input,
1 for any other failure. `opensearch-qwen-rerank plan` exits with 3 if there are changes.
"""

PACKAGES = {
    "python": (".", "qwen_rerank_plugins", "The core: rerankers, results and errors."),
    "python-langchain": ("integrations/langchain", "langchain_qwen_rerank", "The integration for LangChain."),
    "python-llama-index": (
        "integrations/llama_index",
        "llama_index.postprocessor.qwen_rerank",
        "The integration for LlamaIndex.",
    ),
    "python-haystack": (
        "integrations/haystack",
        "haystack_integrations.components.rankers.qwen_rerank",
        "The integration for Haystack.",
    ),
    "python-opensearch": (
        "integrations/opensearch",
        "opensearch_qwen_rerank",
        "The integration for OpenSearch.",
    ),
    "python-opensearch-client": (
        "integrations/opensearch",
        "opensearch_qwen_rerank.client",
        "Reranking of OpenSearch's responses on the client side.",
    ),
    "python-batch": (".", "qwen_rerank_plugins.batch", "Files: the functions behind `qwen-rerank batch`."),
    "python-evaluation": (
        ".",
        "qwen_rerank_plugins.evaluation",
        "Judged data: the functions behind `qwen-rerank evaluate`.",
    ),
    "python-ray": (
        ".",
        "qwen_rerank_plugins.ray",
        "Scoring on a Ray cluster; needs the extra `ray`.",
    ),
}
"""Page → folder and name of a package with `__all__`, and its purpose."""

FIRST = ("Reranker", "RerankConfig", "load_config", "RerankResult", "RankedDocument")
"""Names that a page begins with, where it has them; the others follow in the order of `__all__`."""


def reference_pages() -> dict[str, str]:
    """Return every generated page: path in the site → Markdown."""
    pages = {
        "settings": settings_page(),
        "cli": cli_page(),
        "metrics": metrics_page(),
        "http": http_page(),
        **{name: python_page(*package) for name, package in PACKAGES.items()},
    }
    return {f"reference/{name}.md": markdown for name, markdown in pages.items()}


def settings_page() -> str:
    """Return the page with every setting of every section."""
    parts = [SETTINGS]
    for title, section, model in SECTIONS:
        prefix = f"QWEN_RERANK_{section.upper()}_" if section else "QWEN_RERANK_"
        rows: list[tuple[str, ...]] = [("setting", "environment variable", "values", "default", "meaning")]
        for name, *others in rows_of(model):
            anchor = f"{section}-{name}" if section else name
            # A section has no variable of its own.
            variable = "" if name in {below for _, below, _ in SECTIONS} else f"`{prefix}{name.upper()}`"
            rows.append((f'<a id="{anchor}"></a>`{name}`', variable, *others))
        parts.append(f"## {title}\n\n{table_of_rows(rows)}\n")
    return "\n".join(parts)


def cli_page() -> str:
    """Return the page with the help text of every command."""
    parts = [COMMANDS]
    for program, app in PROGRAMS:
        parts.append(f"## {program}\n\n{help_block(app, program)}")
        parts += [
            f"### {program} {command}\n\n{help_block(app, program, command)}"
            for command in command_names(app)
        ]
    return "\n".join(parts)


def command_names(app: typer.Typer) -> list[str]:
    """Return the commands of a program, in the order of its help."""
    return [str(one.name or getattr(one.callback, "__name__", "")) for one in app.registered_commands]


def help_block(app: typer.Typer, program: str, *command: str) -> str:
    """Return the help text of a command as a code block."""
    asked = CliRunner().invoke(
        app, [*command, "--help"], prog_name=program, terminal_width=HELP_COLUMNS, catch_exceptions=False
    )
    lines = [line.rstrip() for line in asked.output.strip().splitlines()]
    text = "\n".join(lines)
    return f"~~~~ text\n{text}\n~~~~\n"


def python_page(folder: str, package: str, purpose: str) -> str:
    """Return the page of a package: each public name with its signature and docstring."""
    names = public_names(folder, package)
    error_names = set(errors.__all__)
    listed = [name for name in names if package != "qwen_rerank_plugins" or name not in error_names]
    listed.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    parts = [f"# {package}\n\n{purpose}\n", *(object_block(f"{package}.{name}") for name in listed)]
    if len(listed) < len(names):
        parts.append(
            f"## Errors\n\n[Errors](../errors.md) says what to do about each: {', '.join(error_links(names))}.\n"
        )
    return "\n".join(parts)


def public_names(folder: str, package: str) -> list[str]:
    """Return a package's `__all__`, without its version and without importing it: frameworks need not be installed."""
    source = ROOT.joinpath(folder, *package.split("."), "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return [name for name in names if name != "__version__"]
    raise LookupError(f"no __all__ in {package!r}")


def object_block(name: str) -> str:
    """Return the block that mkdocstrings replaces by the documentation of an object."""
    return f"::: {name}\n"


def error_links(names: Iterable[str]) -> Iterator[str]:
    """Yield a link to the section of each error among `names`."""
    known: Any = set(errors.__all__)
    yield from (f"[`{name}`](../errors.md#{name.lower()})" for name in names if name in known)
